"""The plain tensors that a tensor is made of: itself, or those that hold the values of a quantised one."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def plain_tensors(tensor: Any) -> list[Tensor]:  # a protocol of torch says how a tensor is taken apart, and no class
    """List the plain tensors of a tensor, none of which asks for a gradient."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor.detach().as_subclass(Tensor)]
    names, _ = tensor.__tensor_flatten__()
    return [inner for name in names for inner in plain_tensors(getattr(tensor, name))]


def made_of(tensor: Any, plain: Iterator[Tensor]) -> Any:
    """Make a tensor like another of the next of the plain ones; a parameter stays one, and so do its further attributes."""
    is_parameter, requires_grad = isinstance(tensor, nn.Parameter), tensor.requires_grad
    if not is_traceable_wrapper_subclass(tensor):
        value = next(plain)
        if not is_parameter:
            return value
        made: Any = torch.Tensor._make_subclass(type(tensor), value, requires_grad)  # as bitsandbytes makes its own
        made.__dict__.update(tensor.__dict__)
        return made
    names, context = tensor.__tensor_flatten__()
    inner = {name: made_of(getattr(tensor, name), plain) for name in names}
    whole = type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())
    return nn.Parameter(whole, requires_grad) if is_parameter else whole
