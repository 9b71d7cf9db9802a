"""Trainers of which nothing but the state matters: weights, optimizer and averages."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from finetrainers.config import TrainConfig
from finetrainers.distributed.world import World, alone
from finetrainers.optim.update import Update
from finetrainers.training.trainer import Trainer


def bare_trainer(denoiser: nn.Module, update: Update, world: World | None = None) -> Trainer:
    """A trainer that knows no model, no data and no objective; of one process without ``world``."""
    nothing: Any = None
    world = alone() if world is None else world
    return Trainer(
        config=TrainConfig(), seed=0, adapter=nothing, denoiser=denoiser, conditioning=nothing, objective=nothing,
        update=update, device=world.device, without_adapter=nothing, world=world,
    )  # fmt: skip


def shard_sums(modules: Iterable[nn.Module], mesh: DeviceMesh, **options: Any) -> None:
    """Share the weights of modules over processes, whose gradients are sums, as those of runs are."""
    for module in modules:
        shared: Any = fully_shard(module, mesh=mesh, **options)
        shared.set_gradient_divide_factor(1.0)
        shared.set_force_sum_reduction_for_comms(True)
