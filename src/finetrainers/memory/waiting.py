"""What moves tensors of a component between device and host; frozen weights that are off the device wait in their files."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from finetrainers.distributed.parallelize import let_go
from finetrainers.models.stored import Stored, tensors_of

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def wait_in_files(stored: Stored) -> nn.Module:
    """Let a network wait with the types that it works in, of which only those of its buffers take memory."""
    network: nn.Module = stored.network
    made = {}
    for name, tensor in tensors_of(network).items():
        dtype = stored.types.get(name, tensor.dtype)
        made[id(tensor)] = _waiting(stored.mapped[name], dtype) if name in stored.mapped else tensor.to(dtype)
    replace_tensors(network, lambda tensor: made[id(tensor)])
    return network


def _waiting(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """What stands for a weight while it waits: of other types than its file has, no numbers are there to compute with."""
    return weight if weight.dtype == dtype else torch.full((), torch.nan, dtype=dtype).expand(weight.shape)


def unchanged(denoiser: nn.Module, files: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Find which frozen weights of a denoiser are as its files have them, once they are cast: by their names in it.

    Those that are in parts, in fewer bits, or merged with others are not; adapters beside a layer do not change it.
    """
    found = {}
    for name, weight in denoiser.named_parameters():
        stored = files.get(name.replace(".base_layer.", "."))
        is_plain = not weight.requires_grad and type(weight.detach()) is Tensor
        if stored is None or not is_plain or weight.device.type == "meta":
            continue
        if torch.equal(weight.detach().cpu(), stored.to(weight.dtype)):
            found[name] = stored
    return found


def to_host(component: Any, device: torch.device, mapped: Mapping[str, Tensor] = NOTHING) -> frozenset[str]:
    """Move to the host what a component has on the device; return the names of what that was.

    Parameters stay the objects that they are, which optimizers hold.

    Args:
        component: A network, or what has no tensors.
        device: Where it works.
        mapped: Weights that have not changed since they were read, by name: nothing is copied of them.
    """
    let_go(component)
    own = {name: tensor for name, tensor in component_tensors(component).items() if tensor.device.type == device.type}
    waiting = {id(own[name]): _waiting(mapped[name], own[name].dtype) for name in own.keys() & mapped.keys()}
    moved = {id(tensor) for tensor in own.values()} - waiting.keys()

    def move(tensor: Tensor) -> Tensor:
        return waiting[id(tensor)] if id(tensor) in waiting else tensor.to("cpu") if id(tensor) in moved else tensor

    if own:
        replace_tensors(component, move)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return frozenset(own)


def to_device(component: Any, names: Collection[str], device: torch.device, mapped: Mapping[str, Tensor] = NOTHING) -> None:
    """Move to the device what a component had there, one tensor after the other, in the types that it works in."""
    there = component_tensors(component)
    sources = {
        id(tensor): (mapped.get(name, tensor), tensor.dtype)
        for name, tensor in there.items()
        if name in names and (tensor.device.type != device.type or name in mapped)
    }
    moved: dict[int, Tensor] = {}  # what is tied is met twice

    def move(tensor: Tensor) -> Tensor:
        number = id(tensor)
        if number not in sources:
            return tensor
        if number not in moved:
            source, dtype = sources[number]
            moved[number] = source.to(device, dtype)
        return moved[number]

    if sources:
        replace_tensors(component, move)


def replace_tensors(component: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    """Put other tensors in the place of a component's; parameters stay the objects that they are."""
    if isinstance(component, FSDPModule):
        component._apply(function)  # type: ignore[no-untyped-call]  # which tells those that gather them
    else:
        nn.Module._apply(component, function)


def component_tensors(component: Any) -> dict[str, Tensor]:
    """Parameters and buffers of a component by name; a tokenizer has none."""
    return tensors_of(component) if isinstance(component, nn.Module) else {}
