"""A linear layer whose frozen weight rests in fewer bits.

Shape letters: x is [..., I], the answer [..., O].
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from finetrainers.memory.quantize.formats import FORMATS


class CompressedLinear(nn.Linear):
    """Answers as the linear layer that it is made of, up to the rounding of its format.

    Numbers and scales are parameters without a gradient, of plain tensors: they can be moved, streamed, sharded and counted
    as any others. To whoever asks for it, such as adapters, ``weight`` is the weight that it computes with.
    """

    def __init__(self, layer: nn.Linear, kind: str) -> None:
        """Compress a layer where it is; it is not kept."""
        nn.Module.__init__(self)  # without the weight that nn.Linear makes
        self.in_features, self.out_features, self.kind = layer.in_features, layer.out_features, kind
        self.compute_dtype = layer.weight.dtype
        """Of the weight that rests here; peft makes adapters of this type."""
        with torch.no_grad():
            numbers, scales = FORMATS[kind].compress(layer.weight.detach())
        self.numbers = nn.Parameter(numbers, requires_grad=False)
        self.scales = None if scales is None else nn.Parameter(scales, requires_grad=False)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[O, I], made anew each time."""
        shape = (self.out_features, self.in_features)
        return FORMATS[self.kind].decompress(self.numbers, self.scales, shape, self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.out_features, self.in_features)
        answer: Tensor = _Product.apply(x, self.numbers, self.scales, self.bias, self.kind, shape)  # type: ignore[no-untyped-call]
        return answer

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}"


class _Product(torch.autograd.Function):
    """Multiplies by a weight that exists while it does: the backward pass makes it again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, numbers: Tensor, scales: Tensor | None, bias: Tensor | None, kind: str, shape: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(numbers, scales)
        ctx.kind, ctx.shape = kind, shape
        return functional.linear(x, FORMATS[kind].decompress(numbers, scales, shape, x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        numbers, scales = ctx.saved_tensors
        weight = FORMATS[ctx.kind].decompress(numbers, scales, ctx.shape, grad.dtype)
        grad_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
        return grad @ weight, None, None, grad_bias, None, None
