"""AdamW with states of 4 bits, or of 8 as floating point numbers: torchao's."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from finetrainers.compat.packages import import_quietly

CLASSES = {"adamw_4bit": "AdamW4bit", "adamw_fp8": "AdamWFp8"}


def low_bit_adamw(name: str, parameters: Sequence[nn.Parameter], **settings: Any) -> Optimizer:
    """Make the optimizer of a name; on a GPU torchao compiles its step, once for each shape of a weight."""
    made: Any = getattr(import_quietly("torchao.optim"), CLASSES[name])

    class LowBitAdamW(made):  # type: ignore[misc]  # the package has no types
        """Takes steps as they are written where compiling would take longer than the run's steps: on a CPU."""

        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> Any:
            is_on_cpu = any(p.device.type == "cpu" for group in self.param_groups for p in group["params"])
            with torch.compiler.set_stance("force_eager") if is_on_cpu else nullcontext():
                return super().step(closure)

    return LowBitAdamW(parameters, **settings)
