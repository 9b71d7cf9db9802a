"""Text encoders that no device has room for: each of several has a part of every layer, and gathers one layer at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from finetrainers.distributed.reading import SharedReading
from finetrainers.distributed.world import World


@dataclass(frozen=True, slots=True)
class Sharers:
    """The processes that hold text encoders together."""

    mesh: DeviceMesh
    """Of one axis."""
    reading: SharedReading
    """Lets one of each host read."""


def sharers_of(world: World) -> Sharers:
    """Let all processes of a run share encoders; all of them call this together."""
    return Sharers(world.all_devices(), SharedReading(world))


def load_shared(load: Callable[[], nn.Module], encoder: nn.Module, sharers: Sharers) -> nn.Module:
    """Fill an encoder with this process's part of each layer, one layer after the other.

    All processes do so together, and ask the encoder together from then on. One of each host has all of it meanwhile, on the
    host; the others have a layer at a time, on the device.

    Args:
        load: Loads the encoder; its error is one of all processes of the host.
        encoder: The same without weights, on the meta device.
        sharers: Who share it.
    """
    from finetrainers.compat.recorded_outputs import record_outputs_again  # which takes seconds to import

    encoder.requires_grad_(False)  # frozen weights of one layer may have several types, as those of T5 have
    units = list(_units(encoder))
    wanted = {name: tensor for _, own in units for name, tensor in own.items()}
    places = _places(encoder)
    received = sharers.reading.share(_read(load, wanted), wanted)
    for unit, own in units:
        for name, tensor in islice(received, len(own)):
            is_parameter = isinstance(wanted[name], nn.Parameter)
            for tensors, key in places[id(wanted[name])]:
                tensors[key] = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        fully_shard(unit, mesh=sharers.mesh, reshard_after_forward=True)
    assert next(received, None) is None, "all that is read has a place"
    record_outputs_again(encoder)
    return encoder


def _read(load: Callable[[], nn.Module], wanted: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Load an encoder, and yield its tensors in the order in which they are wanted."""
    whole = load()
    tensors = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    for name in wanted:
        yield name, tensors[name].detach()


def _units(encoder: nn.Module) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """Yield what is gathered together, layers first, with its tensors by their names in the encoder."""
    named = {id(tensor): name for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers())}
    for unit in (*layers(encoder), encoder):
        own = [tensor for tensor in (*unit.parameters(), *unit.buffers()) if id(tensor) in named]
        yield unit, {named.pop(id(tensor)): tensor for tensor in own}


Places = dict[int, list[tuple[dict[str, Any], str]]]  # parameters of a module, or buffers


def _places(encoder: nn.Module) -> Places:
    """Find where each tensor stands, by its id: tied ones stand in several places."""
    found: Places = {}
    for module in encoder.modules():
        for tensors in (module._parameters, module._buffers):
            for key, tensor in tensors.items():
                found.setdefault(id(tensor), []).append((tensors, key))
    return found


def is_sharded(component: object) -> bool:
    """Whether processes share the weights of a component."""
    return isinstance(component, FSDPModule)


def layers(encoder: nn.Module) -> Iterator[nn.Module]:
    """Repeated layers of a model of transformers: those in lists, and not the lists that are within them."""
    for child in encoder.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from layers(child)
