"""Backends of attention as they may be: right, slow, wrong, or deadly. Run in the processes of trials."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from finetrainers.memory.attention_trial import backend_of

right = backend_of("_native_math")


def wrong(call: Any, tensors: Any) -> Tensor:
    return right(call, tensors) * 1.1


def wrong_backward(call: Any, tensors: Any) -> Tensor:
    answer = right(call, tensors)
    return answer.detach() + 0.5 * (answer - answer.detach())


def without_backward(call: Any, tensors: Any) -> Tensor:
    return right(call, tensors).detach()


def without_mask(call: Any, tensors: Any) -> Tensor:
    from dataclasses import replace

    return right(call, replace(tensors, mask=None))


def undefined(call: Any, tensors: Any) -> Tensor:
    return right(call, tensors) * torch.nan


def raising(call: Any, tensors: Any) -> Tensor:
    raise RuntimeError("no kernel for this\nand a long story")


def exiting(call: Any, tensors: Any) -> Tensor:
    os._exit(7)


def aborting(call: Any, tensors: Any) -> Tensor:
    os.abort()


def hanging(call: Any, tensors: Any) -> Tensor:
    time.sleep(600)
    raise AssertionError


def slow(call: Any, tensors: Any) -> Tensor:
    time.sleep(0.05)
    return right(call, tensors)


def find(name: str) -> Callable[[Any, Any], Tensor]:
    found: Callable[[Any, Any], Tensor] = globals()[name]
    return found


def broken(name: str) -> Callable[[Any, Any], Tensor]:
    """Take the process with it before any backend is tried."""
    raise SystemExit(f"nothing is found: {name}")
