"""What the meta device lacks for a training step: quick shapes, answers, attention in one piece, bodies of operations.

Nothing is computed on it, and nothing is stored: only shapes are.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
aten = torch.ops.aten
Kind = Literal["makes", "writes", "writes out", "other"]
PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.memory_format, torch.layout)
"""Types of arguments that say by themselves what a result depends on."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What is known of one result of an operation."""

    size: Any
    stride: Any
    dtype: torch.dtype | None
    """None of what is no tensor."""
    value: int | None = None
    """Of what is none."""

    def made(self) -> Any:
        """Make it once more."""
        if self.dtype is None:
            return self.value
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=META)


class Shapes:
    """Runs operations on the meta device; one that was run before, with arguments of the same shapes, is not run again.

    torch derives most shapes in Python, and a denoiser's blocks are all alike: this takes a fifth of the time.
    """

    def __init__(self) -> None:
        self._kinds: dict[Any, Kind] = {}
        self._layouts: dict[Any, _Layout | tuple[_Layout, ...] | None] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation; one that only writes has nothing to do."""
        if func not in self._kinds:
            self._kinds[func] = _kind(func)
        if self._kinds[func] == "writes" and args[0].is_meta:
            return args[0]
        if self._kinds[func] == "writes out" and kwargs["out"].is_meta and kwargs["out"].numel():
            return kwargs["out"]  # unless it holds nothing: then it is made larger
        key = self._key(func, args, kwargs)
        layout = None if key is None else self._layouts.get(key)
        if layout is not None:
            return layout.made() if isinstance(layout, _Layout) else tuple(own.made() for own in layout)
        result = func(*args, **kwargs)
        if key is not None and key not in self._layouts:
            self._layouts[key] = (
                layouts_of(result, (*args, *kwargs.values())) if isinstance(result, tuple) else _layout(result)
            )
        return result

    def _key(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the shape of a result is known by; None where it cannot be."""
        if self._kinds[func] != "makes":
            return None
        shapes = _shapes(args), _shapes(kwargs.values())
        return None if None in shapes else (func, tuple(kwargs), shapes)


class QuickShapes(TorchDispatchMode):
    """Runs operations on the meta device as ``Shapes`` does while it is entered: for modules that are made there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shapes = Shapes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):  # made of others: what they do with those comes here
            return NotImplemented
        return self._shapes.run(func, args, {} if kwargs is None else kwargs)


def _kind(func: Any) -> Kind:
    """Whether an operation makes tensors and does nothing else, or writes into its first or ``out`` and answers that."""
    returns, arguments = func._schema.returns, func._schema.arguments
    if not returns or str(returns[0].type) != "Tensor" or torch.Tag.inplace_view in func.tags:
        return "other"
    shared = [own.name for own in arguments if own.alias_info is not None]
    if not shared and all(own.alias_info is None and str(own.type) in ("Tensor", "int", "SymInt") for own in returns):
        return "makes"
    if len(returns) == 1 and shared == ["out"] and arguments[-1].name == "out" and arguments[-1].kwarg_only:
        return "writes out"
    is_first = len(returns) == 1 and shared == [arguments[0].name] and arguments[0].alias_info.is_write
    return "writes" if is_first and returns[0].alias_info is not None else "other"


def _layout(result: Any) -> _Layout | None:
    is_whole = isinstance(result, Tensor) and result.is_meta and not result.storage_offset()
    return _Layout(result.shape, result.stride(), result.dtype) if is_whole else None


def layouts_of(results: tuple[Any, ...], arguments: tuple[Any, ...]) -> tuple[_Layout, ...] | None:
    """Layouts of several results; None unless each tensor has memory of its own."""
    given, made = (
        [own.untyped_storage()._cdata for own in tree_leaves(these) if isinstance(own, Tensor)]
        for these in (arguments, results)
    )
    if len(set(made)) < len(made) or not set(made).isdisjoint(given):
        return None
    found = [_Layout(None, None, None, own) if own is None or isinstance(own, int) else _layout(own) for own in results]
    whole = tuple(own for own in found if own is not None)
    return whole if len(whole) == len(found) else None


def _shapes(arguments: Any) -> tuple[Any, ...] | None:
    """Shapes of tensors and values of all else; None if there is what says neither."""
    found: list[Any] = []
    for own in arguments:
        if isinstance(own, Tensor):
            found.append((own.shape, own.stride(), own.dtype) if own.is_meta else None)
        elif isinstance(own, list | tuple):
            found.append(_shapes(own))
        else:
            found.append((type(own), own) if isinstance(own, PLAIN) else None)
        if found[-1] is None:
            return None
    return tuple(found)


def answer(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Tell code that asks the meta device for values that all is true and every number is 1; None where nothing is asked."""
    if func is aten._local_scalar_dense.default and args[0].is_meta:
        return torch.ones((), dtype=args[0].dtype).item()
    if func is aten._to_copy.default and args[0].is_meta and "device" in kwargs:
        device = torch.device(kwargs["device"])
        if device.type != "meta":  # one number, that no memory is taken on the host
            return torch.ones((), dtype=kwargs.get("dtype") or args[0].dtype, device=device).expand(args[0].shape)
    return None


def body_of(func: Any) -> Callable[..., Any] | None:
    """Find what a custom operation of this package does, in operations that can be counted; None for all others."""
    if func.namespace != "finetrainers":
        return None
    from torch._library.custom_ops import OPDEFS

    body: Callable[..., Any] = OPDEFS[func._schema.name]._init_fn
    return body


@cache
def is_composite(func: Any) -> bool:
    """Whether an operation is others, of which torch sees none on its way: elsewhere they come one by one."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


@contextmanager
def fused_attention() -> Iterator[None]:
    """Let attention on the meta device be the one operation that it is on a GPU, and no product of all tokens with all."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("scaled_dot_product_attention", _attention, "AutogradMeta")
    try:
        yield
    finally:
        library._destroy()


def _attention(  # noqa: PLR0917  # as torch calls it
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Attention [..., N, D] by the kernel that takes a mask, or by the one that takes none."""
    if options.get("enable_gqa"):
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    told = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": options.get("scale")}
    if attn_mask is None:
        answered: tuple[Tensor, ...] = aten._scaled_dot_product_flash_attention(query, key, value, **told)
        return answered[0]
    bias = torch.zeros_like(attn_mask, dtype=query.dtype) if attn_mask.dtype == torch.bool else attn_mask
    bias = bias.expand(*query.shape[:-1], key.shape[-2])
    keeps = torch.is_grad_enabled()
    answered = aten._scaled_dot_product_efficient_attention(query, key, value, bias, keeps, **told)
    return answered[0]
