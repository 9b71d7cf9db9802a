"""What a denoiser asks of attention: sizes, strides, data type and mask of each call, without computing anything.

Shape letters: B batch, H heads, S tokens of the queries, T tokens of keys and values, D width of a head.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from finetrainers.config.parallel import ContextKind
from finetrainers.memory.attention import attention

HIDDEN = -10000.0
"""What masks of numbers add where a token is hidden."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor lies in memory."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        """Read it off a tensor."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(dtype, tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))

    def is_dense(self) -> bool:
        """Whether its values lie beside each other, in whatever order of dimensions."""
        extent = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return extent == math.prod(self.shape)

    def part(self, heads: int, tokens: int) -> "Layout":
        """That of [B, H / heads, S / tokens, D], of which D and H lie together as after an exchange."""
        if heads == tokens == 1:
            return self
        batch, all_heads, all_tokens, width = self.shape
        shape = batch, all_heads // heads, max(1, all_tokens // tokens), width
        return Layout(self.dtype, shape, (shape[1] * shape[2] * width, width, shape[1] * width, 1), 0)

    def make(self, fill: Callable[..., Tensor], device: torch.device) -> Tensor:
        """Make a tensor that lies so, of what ``fill`` makes of a number of values."""
        extent = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        values = fill(self.offset + extent, dtype=getattr(torch, self.dtype), device=device)
        return values.as_strided(self.shape, self.stride, self.offset)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of attention, as torch's own is given it: [B, H, S, D] and twice [B, H, T, D]."""

    query: Layout
    key: Layout
    value: Layout
    mask: Layout | None
    """Of what broadcasts to [B, H, S, T]."""
    scale: float | None
    is_causal: bool
    enable_gqa: bool
    is_dispatched: bool
    """Whether the call comes through diffusers' dispatcher."""
    gradient: Layout | None = None
    """Of the gradient that comes back to the answer: some kernels read only a dense one; None: heads beside their widths."""

    def to_json(self) -> dict[str, Any]:
        """Make plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Call":
        """Read what ``to_json`` has made."""
        layouts: dict[str, Any] = {}
        for name in ("query", "key", "value", "mask", "gradient"):
            own = tree.get(name)
            layouts[name] = own and Layout(own["dtype"], tuple(own["shape"]), tuple(own["stride"]), own["offset"])
        return cls(**{**tree, **layouts})

    def make(self, device: torch.device) -> "Tensors":
        """Make random tensors that lie as those of the call; the mask hides the last quarter of the keys."""
        query, key, value = (part.make(torch.randn, device) for part in (self.query, self.key, self.value))
        batch, heads, tokens, _ = self.query.shape
        if self.gradient is None:
            shape = batch, tokens, heads, self.value.shape[-1]
            gradient = torch.randn(shape, dtype=query.dtype, device=device).transpose(1, 2)
        else:
            gradient = self.gradient.make(torch.randn, device)
        mask = None
        if self.mask is not None:
            is_bool = self.mask.dtype == "bool"
            mask = self.mask.make(torch.ones if is_bool else torch.zeros, device)
            hidden = torch.arange(mask.shape[-1], device=device) >= mask.shape[-1] - mask.shape[-1] // 4
            # Of the mask's own strides: those of what is computed from it may be others.
            mask = _written(mask, mask & ~hidden if is_bool else mask + HIDDEN * hidden.to(mask.dtype))
        return Tensors(query, key, value, mask, gradient)


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a call is made with."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    gradient: Tensor
    """[B, H, S, D] of the answer, as it comes back from what follows: heads beside their widths."""


def _written(mask: Tensor, values: Tensor) -> Tensor:
    """Write values into a mask that may be expanded, and return it."""
    own = mask.as_strided(
        [1 if step == 0 else size for size, step in zip(mask.shape, mask.stride(), strict=True)], mask.stride()
    )
    own.copy_(values[tuple(slice(0, size) for size in own.shape)])
    return mask


class _Recorder(TorchFunctionMode):
    """Keeps what torch's attention is asked where a choice of backend reaches, and answers with empty tensors."""

    def __init__(self, *, is_dispatched: bool) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._is_dispatched = is_dispatched

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **named)
        call, parts = _asked(*args, **named, is_dispatched=self._is_dispatched)
        # The choice is the math kernel: it reaches the calls that find no other.
        if torch.backends.cuda.flash_sdp_enabled():
            return _Answer.apply(*parts, _ignored)  # type: ignore[no-untyped-call]  # torch's own
        number = len(self.calls)
        self.calls.append(call)

        def note(gradient: Layout) -> None:
            self.calls[number] = replace(call, gradient=gradient)

        return _Answer.apply(*parts, note)  # type: ignore[no-untyped-call]


def _ignored(_: Layout) -> None:
    """Of a call that no backend is chosen for."""


class _Answer(torch.autograd.Function):
    """In the place of attention: an empty answer, whose gradient is looked at."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, note: Callable[[Layout], None]) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.note = note
        batch, heads, tokens, _ = query.shape
        return query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.note(Layout.of(gradients[0]))
        return *(torch.empty_like(part) for part in ctx.saved_tensors), None


def _asked(  # noqa: PLR0917  # as torch's own
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    is_dispatched: bool,
) -> tuple[Call, tuple[Tensor, Tensor, Tensor]]:
    """Describe a call of torch's attention; queries, keys and values besides."""
    layouts = (Layout.of(query), Layout.of(key), Layout.of(value))
    mask = None if attn_mask is None else Layout.of(attn_mask)
    return Call(*layouts, mask, scale, is_causal, enable_gqa, is_dispatched), (query, key, value)


def record_calls(forward: Callable[[], object], *, is_dispatched: bool, needs_backward: bool = False) -> Counter[Call]:
    """Run a forward pass, on the meta device if that will do, and count the calls of attention that a backend would compute.

    Args:
        forward: The pass; what it returns is the loss, of any shape, if the backward pass is run too.
        is_dispatched: Whether diffusers lets a backend compute the attention of the denoiser.
        needs_backward: Whether it is, so that calls know how their gradients lie in memory.
    """
    recorder = _Recorder(is_dispatched=is_dispatched)
    with attention("_native_math", is_dispatched=is_dispatched), recorder, torch.set_grad_enabled(needs_backward):
        losses = forward()
        if needs_backward:
            assert isinstance(losses, Tensor)
            losses.sum().backward()
    return Counter(recorder.calls)


def share_calls(calls: Counter[Call], *, context: int, kind: ContextKind) -> Counter[Call]:
    """Turn calls that one process makes into those that each of ``context`` processes makes, which share tokens.

    Attention among the tokens has some heads of all of them, or in a ring some queries and some keys at a time; attention to
    a prompt, whose tokens are others in number, has some queries.
    """
    shared: Counter[Call] = Counter()
    for call, count in calls.items():
        is_among = call.query.shape[2] == call.key.shape[2]
        heads = context if is_among and kind == "ulysses" else 1
        queries = context // heads
        keys = queries if is_among else 1
        own = replace(
            call,
            query=call.query.part(heads, queries),
            key=call.key.part(heads, keys),
            value=call.value.part(heads, keys),
            gradient=call.gradient and call.gradient.part(heads, queries),
        )
        shared[own] += count * keys
    return shared
