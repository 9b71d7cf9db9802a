"""Weights of a denoiser as shards: while it is filled, and when it is complete."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.parallelize import as_shard, share
from finetrainers.models.blocks import named_blocks
from finetrainers.models.weights import Settle


class ToShards:
    """Keeps of the blocks' weights this process's part while a denoiser is filled, module by module.

    So the device never holds all blocks, and what is quantised is so before it is shared out. Vectors stay whole until the
    denoiser is complete: they are small, and conditions may change them.
    """

    def __init__(self, blocks: Sequence[str], mesh: DeviceMesh, settle: Settle | None = None) -> None:
        self._blocks, self._mesh, self._settle = blocks, mesh["fsdp"], settle
        self._prefixes: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()

    def __call__(self, root: nn.Module, name: str) -> None:
        """Settle one module."""
        if self._settle is not None:
            self._settle(root, name)
        if root not in self._prefixes:
            self._prefixes[root] = tuple(f"{own}." for own in named_blocks(root, self._blocks))
        if not f"{name}.".startswith(self._prefixes[root]):
            return
        held = root.get_submodule(name)._parameters
        for own, parameter in held.items():
            if parameter is not None and parameter.ndim > 1:
                held[own] = nn.Parameter(as_shard(parameter, self._mesh), requires_grad=parameter.requires_grad)


def share_weights(denoiser: nn.Module, blocks: Sequence[str], mesh: DeviceMesh, config: ParallelConfig) -> None:
    """Let processes share the weights of a denoiser, which is complete; see ``share``."""
    share(denoiser, list(named_blocks(denoiser, blocks).values()), mesh, config)
