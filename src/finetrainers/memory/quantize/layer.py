"""A linear layer whose frozen weight rests in fewer bits.

Shape letters: x is [..., I], the answer [..., O].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
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
        """[O, I], made anew each time; of numbers that this process has a part of, nothing but size, type and device."""
        shape = (self.out_features, self.in_features)
        if isinstance(self.numbers, DTensor):
            return self.numbers.to_local().new_zeros((), dtype=self.compute_dtype).expand(shape)
        return FORMATS[self.kind].decompress(self.numbers, self.scales, shape, self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        told = x, self.numbers, self.scales, self.bias, self.kind, self.out_features
        # In a graph the product is one operation: torch.compile would keep the weight for the backward pass. As Python it is
        # a function: each call of an operation that is written in Python costs 50 microseconds.
        answer: Tensor = _product(*told) if torch.compiler.is_compiling() else _Product.apply(*told)  # type: ignore[no-untyped-call]
        return answer

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}"


def _multiply(  # noqa: PLR0917  # operations take no keywords
    x: Tensor, numbers: Tensor, scales: Tensor | None, bias: Tensor | None, kind: str, out_features: int
) -> Tensor:
    """Multiply x by a weight that exists while it does."""
    weight = FORMATS[kind].decompress(numbers, scales, (out_features, x.shape[-1]), x.dtype)
    return functional.linear(x, weight, bias)


def _multiply_back(grad: Tensor, numbers: Tensor, scales: Tensor | None, kind: str, in_features: int) -> Tensor:
    """Make the gradient [..., I] of x from that of the answer; the weight is made again."""
    return grad @ FORMATS[kind].decompress(numbers, scales, (grad.shape[-1], in_features), grad.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:  # noqa: ARG001
    x, numbers, scales, _, ctx.kind, _ = inputs
    ctx.in_features = x.shape[-1]
    ctx.save_for_backward(numbers, scales)


def _gradients(ctx: Any, grad: Tensor, multiply_back: Callable[..., Tensor]) -> tuple[Tensor | None, ...]:
    numbers, scales = ctx.saved_tensors
    of_x = multiply_back(grad, numbers, scales, ctx.kind, ctx.in_features) if ctx.needs_input_grad[0] else None
    of_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[3] else None
    return of_x, None, None, of_bias, None, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _keep(ctx, inputs, None)
        return _multiply(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad, _multiply_back)


_product = torch.library.custom_op("finetrainers::product", _multiply, mutates_args=())
_product_back = torch.library.custom_op("finetrainers::product_back", _multiply_back, mutates_args=())
_product.register_autograd(partial(_gradients, multiply_back=_product_back), setup_context=_keep)


_product.register_fake(lambda x, *told: x.new_empty(*x.shape[:-1], told[-1]))
_product_back.register_fake(lambda grad, *told: grad.new_empty(*grad.shape[:-1], told[-1]))
