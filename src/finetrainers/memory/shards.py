"""Weights of a denoiser as shards: while it is filled, and when it is complete."""

from collections.abc import Sequence

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.parallelize import as_shard, share
from finetrainers.memory.settling import SettleBlocks
from finetrainers.models.blocks import named_blocks
from finetrainers.models.weights import Settle


class ToShards(SettleBlocks):
    """Keeps of the blocks' weights this process's part while a denoiser is filled, module by module.

    So the device never holds all blocks, and what is quantised is so before it is shared out. Vectors stay whole until the
    denoiser is complete: they are small, and conditions may change them.
    """

    def __init__(self, blocks: Sequence[str], mesh: DeviceMesh, settle: Settle | None = None) -> None:
        super().__init__(blocks, settle)
        self._mesh = mesh["fsdp"]

    def kept(self, parameter: nn.Parameter) -> nn.Parameter:
        if parameter.ndim < 2:
            return parameter
        return nn.Parameter(as_shard(parameter, self._mesh), requires_grad=parameter.requires_grad)


def share_weights(denoiser: nn.Module, blocks: Sequence[str], mesh: DeviceMesh, config: ParallelConfig) -> None:
    """Let processes share the weights of a denoiser, which is complete; see ``share``."""
    share(denoiser, list(named_blocks(denoiser, blocks).values()), mesh, config)
