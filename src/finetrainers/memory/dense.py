"""Gradients that reach attention whole: kernels fail on slices of larger ones.

A block that joins the answer of attention with something else along the channels gets a slice back as its gradient, whose
rows do not lie beside each other. cuDNN's backward pass reads beyond the end of memory there (torch 2.11, Hopper).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetrainers.models.blocks import named_blocks


class _Whole(torch.autograd.Function):
    """The same tensor, whose gradient is copied if it is a slice."""

    @staticmethod
    def forward(ctx: Any, answer: Tensor) -> Tensor:  # noqa: ARG004
        return answer.view_as(answer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0].contiguous()


def make_gradients_whole(denoiser: nn.Module, classes: Sequence[str]) -> None:
    """Let the gradients of the ``attn`` of such blocks come back whole; answers are [B, S, C], as are they.

    Args:
        denoiser: With all its blocks.
        classes: Class names of the blocks, ``ModelAdapter.joins_attention``.
    """
    for block in named_blocks(denoiser, classes).values():
        block.get_submodule("attn").register_forward_hook(_whole)


def _whole(_module: nn.Module, _arguments: Any, answer: Tensor) -> Tensor:
    whole: Tensor = _Whole.apply(answer)  # type: ignore[no-untyped-call]  # torch's own
    return whole
