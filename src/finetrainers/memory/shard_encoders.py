"""Text encoders that no device has room for: each of several has a part of every layer, and gathers one layer at a time."""

from collections.abc import Iterator

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from finetrainers.compat.recorded_outputs import record_outputs_again


def shard_encoder(encoder: nn.Module, mesh: DeviceMesh) -> None:
    """Spread an encoder's weights, which are on the host, over the devices of a mesh, layer by layer.

    All processes of the mesh do so together, and ask the encoder together from then on.
    """
    encoder.requires_grad_(False)  # frozen weights of one layer may have several types, as those of T5 have
    for layer in layers(encoder):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(encoder, mesh=mesh, reshard_after_forward=True)
    record_outputs_again(encoder)


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
