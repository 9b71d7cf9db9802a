"""Optimizers whose step needs a whole matrix, beside weights that processes share: their steps are those of one process."""

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import ranks
import torch
from bare_trainers import bare_trainer, shard_sums
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from traffic import Traffic

from finetrainers.config.optim import OptimizerConfig
from finetrainers.config.parallel import ParallelConfig
from finetrainers.distributed.parallelize import gathered
from finetrainers.distributed.world import World, join
from finetrainers.memory.waiting import replace_tensors
from finetrainers.optim.optimizers import OF_WHOLE_WEIGHTS, build_optimizer
from finetrainers.optim.update import Update
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.plan.scale import traffic_of_step, units_of
from finetrainers.training.trainer import Trainer

NAMES = ("muon", "adafactor")
SIZES = (6, 5, 8, 3, 1)
"""Rows that divide evenly, rows that do not, and too few for each process."""
BATCH, MICRO_BATCHES, STEPS, SAVED = 8, 2, 4, 2
BROKEN = 1
"""Step whose gradients are not finite: it changes nothing."""
BOUND = 1e-5
"""Largest relative difference of a weight; 1e-7 of them was seen."""

UNCOUNTED = nullcontext()


class Net(nn.Module):
    """Matrices, biases, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, SIZES[0], 2)
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:], strict=False)))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.layers(self.convolution(x).flatten(1))
        return answer.squeeze(1).clone()  # no view, which FSDP warns of


def samples(step: int) -> Tensor:
    """[B, 3, 2, 2]."""
    return torch.randn(BATCH, 3, 2, 2, generator=torch.Generator().manual_seed(step))


def trainer_of(name: str, world: World) -> Trainer:
    net = Net()
    if world.weights_mesh is not None:
        shard_sums((*net.layers, net), world.weights_mesh, reshard_after_forward=False)
    update = Update(
        net,
        dict(net.named_parameters()),
        make_optimizer=partial(build_optimizer, OptimizerConfig(name=name, lr=0.05, weight_decay=0.1)),
        make_schedule=lambda made: torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1 / (step + 1)),
        clip_norm=0.5,
        ema_decay=0.5,
        gathers=name in OF_WHOLE_WEIGHTS,
        world=world,
    )
    return bare_trainer(net, update, world)


def step(trainer: Trainer, traffic: AbstractContextManager[object] = UNCOUNTED) -> float:
    """Take a step, and count what the optimizer sends."""
    own = samples(trainer.step)[trainer.world.rows(BATCH)]
    summed = torch.zeros(1)
    for few in own.chunk(MICRO_BATCHES):
        losses = (trainer.denoiser(few) - 1).square()
        trainer.update.backward(losses, batch_size=BATCH)
        summed += losses.detach().sum()
    total, norm = trainer.update.reduce(summed)
    trainer.update.clip(norm)
    with traffic:
        trainer.update.step(is_finite=trainer.step != BROKEN)
    trainer.update.drop_gradients()
    trainer.step += 1
    return float(total)


def all_of(trainer: Trainer) -> list[Tensor]:
    tensors = (*trainer.update.parameters, *trainer.update.ema.shadow_params)
    return [gathered(p) if isinstance(p, DTensor) else p.detach().clone() for p in tensors]


Trained = tuple[list[float], list[Tensor], Counter[str], Counter[str]]
"""Losses, weights and averages; and what the optimizer's last step has sent, by formula and as counted."""


def train(name: str, world: World, folder: Path) -> Trained:
    """Take all steps, and save on the way."""
    checkpoints = Checkpoints(folder / name, keep=1, world=world)
    trainer, losses, traffic = trainer_of(name, world), [], Traffic()
    for number in range(STEPS):
        if number == SAVED:
            checkpoints.save(trainer)
            replace_tensors(trainer.denoiser, torch.clone)  # as what makes way and comes back
        before = all_of(trainer) if number == BROKEN else []
        losses.append(step(trainer, traffic if number == STEPS - 1 else UNCOUNTED))
        assert all(map(torch.equal, before, all_of(trainer) if before else []))
    assert world.is_alone or any(isinstance(p, DTensor) for p in trainer.update.parameters)
    expected = traffic_of_step(units_of(trainer.denoiser, ()), world.layout, name)
    return losses, all_of(trainer), expected, traffic.bytes


def go_on(name: str, world: World, folder: Path) -> list[Tensor]:
    """What a process has after all steps, some of which others have taken."""
    trainer = trainer_of(name, world)
    Checkpoints(folder / name, keep=1, world=world).restore(trainer, SAVED)
    while trainer.step < STEPS:
        step(trainer)
    return all_of(trainer)


Made = tuple[dict[str, Trained], dict[str, list[Tensor]]]
"""By optimizer: what was trained from the beginning, and what went on from a checkpoint of others."""


def make(layout: Mapping[str, int], folder: Path, others: Path) -> Made:
    with join(ParallelConfig(**layout), "cpu") as world:
        trained = {name: train(name, world, folder) for name in NAMES}
        return trained, {name: go_on(name, world, others) for name in NAMES}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Made]]:
    """Of one process, and of each layout: it goes on with what one of fewer processes has saved."""
    root = tmp_path_factory.mktemp("whole")
    found = {"1 process": [make({}, root / "1", root / "1")]}
    found["FSDP 2"] = ranks.results(make, 2, {"shard": 2}, root / "2", root / "1", folder=root / "two")
    found["HSDP 2x2"] = ranks.results(make, 4, {"replicate": 2, "shard": 2}, root / "4", root / "2", folder=root / "four")
    found["1 process, from HSDP 2x2"] = [make({}, root / "1 again", root / "4")]
    return found


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for own, other in zip(found, expected, strict=True):
        assert float((own - other).norm() / other.norm()) < BOUND


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_those_of_one_process(name: str, made: dict[str, list[Made]]) -> None:
    """Losses, weights and averages."""
    losses, tensors, *_ = made["1 process"][0][0][name]
    for layout in ("FSDP 2", "HSDP 2x2"):
        for trained, _ in made[layout]:
            found, own, *_ = trained[name]
            assert found == pytest.approx(losses, rel=BOUND)
            assert_close(own, tensors)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_in_another_layout(name: str, made: dict[str, list[Made]]) -> None:
    """From one process to two that share weights, from these to four in copies of shards, and from these to one."""
    _, tensors, *_ = made["1 process"][0][0][name]
    for results in made.values():
        for _, continued in results:
            assert_close(continued[name], tensors)


@pytest.mark.parametrize("name", NAMES)
def test_steps_send_what_a_plan_counts(name: str, made: dict[str, list[Made]]) -> None:
    """That is what the process sends that sends most."""
    *_, expected, counted = made["1 process"][0][0][name]
    assert not expected
    assert not counted
    for layout in ("FSDP 2", "HSDP 2x2"):
        by_rank = [trained[name][2:] for trained, _ in made[layout]]
        for kind, num_bytes in by_rank[0][0].items():
            most = max(counted[kind] for _, counted in by_rank)
            assert most <= num_bytes <= 1.05 * most, (layout, by_rank)
        assert all(counted.keys() == expected.keys() for expected, counted in by_rank)
