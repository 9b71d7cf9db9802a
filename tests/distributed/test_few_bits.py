"""States of few bits beside weights that processes share: each process's blocks are those of its own part."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from bare_trainers import bare_trainer, shard_sums
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from finetrainers.config.optim import OptimizerConfig
from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.parallelize import local_of
from finetrainers.distributed.world import World, alone, join
from finetrainers.errors import CheckpointError
from finetrainers.memory.waiting import replace_tensors
from finetrainers.optim.optimizers import build_optimizer
from finetrainers.optim.update import Update
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.trainer import Trainer

NAMES = ("adamw_8bit", "adamw_4bit", "adamw_fp8")
PROCESSES = 2
SIZES = (64, 128, 3, 1)
"""Parts of 4096 numbers, which have few bits; uneven ones, which have too few numbers for that; and empty ones."""
STEPS, SAVED = 4, 2


def config_of(name: str) -> OptimizerConfig:
    return OptimizerConfig(name=name, lr=0.01, weight_decay=0.1)


def layers_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:], strict=False)))


def samples(step: int) -> Tensor:
    """Of all processes, [processes, 64]."""
    return torch.randn(PROCESSES, SIZES[0], generator=torch.Generator().manual_seed(step))


def trainer_of(name: str, world: World) -> Trainer:
    layers = layers_of()
    if world.weights_mesh is not None:
        shard_sums((*layers, layers), world.weights_mesh)
    update = Update(
        layers,
        dict(layers.named_parameters()),
        make_optimizer=partial(build_optimizer, config_of(name)),
        make_schedule=lambda made: torch.optim.lr_scheduler.LambdaLR(made, lambda _: 1.0),
        clip_norm=float("inf"),
        ema_decay=0.5,
        steps_parts=True,
        world=world,
    )
    return bare_trainer(layers, update, world)


def step(trainer: Trainer) -> None:
    own = samples(trainer.step)[trainer.world.launch.rank][None]
    trainer.update.backward(trainer.denoiser(own)[:, 0], batch_size=1)
    _, norm = trainer.update.reduce(torch.zeros(1))
    trainer.update.clip(norm)
    trainer.update.step(is_finite=True)
    trainer.update.drop_gradients()
    trainer.step += 1


def own_of(trainer: Trainer) -> list[Tensor]:
    return [local_of(p.detach()).clone() for p in (*trainer.update.parameters, *trainer.update.ema.shadow_params)]


def train_and_go_on(name: str, root: Path) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """What a process has after all steps; after those of a run that goes on from a checkpoint; types of its states."""
    with join(ParallelConfig(shard=PROCESSES), "cpu") as world:
        checkpoints = Checkpoints(root, keep=1, world=world)
        trainer = trainer_of(name, world)
        for number in range(STEPS):
            if number == SAVED:
                checkpoints.save(trainer)
                replace_tensors(trainer.denoiser, torch.clone)  # as what makes way and comes back
            step(trainer)
        assert all(isinstance(p, DTensor) for p in trainer.update.parameters)
        assert all(not isinstance(p, DTensor) for p in trainer.update.optimizer.state)
        other = trainer_of(name, world)
        checkpoints.restore(other, SAVED)
        while other.step < STEPS:
            step(other)
        state = next(iter(trainer.update.optimizer.state.values()))
        kinds = sorted({f"{type(value).__name__} {value.dtype}" for value in state.values() if isinstance(value, Tensor)})
        return own_of(trainer), own_of(other), kinds


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[Any]]:
    root = tmp_path_factory.mktemp(request.param)
    return request.param, root, ranks.results(train_and_go_on, PROCESSES, request.param, root, folder=root / "ranks")


def parts(tensor: Tensor) -> list[Tensor]:
    rows = -(-len(tensor) // PROCESSES)
    return [tensor[rank * rows : (rank + 1) * rows].clone() for rank in range(PROCESSES)]


def test_steps_are_those_of_one_process_that_has_the_parts_as_weights(made: tuple[str, Path, list[Any]]) -> None:
    """To the bit; averages too."""
    name, _, results = made
    layers = layers_of()
    cut = [[nn.Parameter(part) for part in parts(p.detach())] for p in layers.parameters()]
    optimizer = build_optimizer(config_of(name), [part for own in cut for part in own])
    for number in range(STEPS):
        for sample in samples(number):
            layers(sample[None]).sum().backward()
        for p, own in zip(layers.parameters(), cut, strict=True):
            for part, gradient in zip(own, parts(p.grad), strict=True):
                part.grad = gradient
            p.grad = None
        optimizer.step()
        with torch.no_grad():
            for p, own in zip(layers.parameters(), cut, strict=True):
                p.copy_(torch.cat(own))
    for rank, (found, _, kinds) in enumerate(results):
        assert any("8" in kind or "OptimState" in kind for kind in kinds)  # else nothing here is in few bits
        for own, tensor in zip(cut, found[: len(cut)], strict=True):
            assert torch.equal(own[rank].detach(), tensor)


def test_what_goes_on_ends_as_what_went_through(made: tuple[str, Path, list[Any]]) -> None:
    for through, again, _ in made[2]:
        assert all(torch.equal(a, b) for a, b in zip(through, again, strict=True))


def test_blocks_of_other_parts_are_refused_with_the_way_out(made: tuple[str, Path, list[Any]]) -> None:
    name, root, _ = made
    with pytest.raises(CheckpointError, match=r"whose blocks end where the parts of 2 processes end: set parallel\.shard"):
        Checkpoints(root, keep=1).restore(trainer_of(name, alone()), SAVED)
