"""Ten steps of the same run on several layouts of processes, and how far they are from those of one process."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import ranks
import torch
from torch import Tensor

from finetrainers.config import Config, parse_config
from finetrainers.distributed.world import World, join
from finetrainers.errors import ConfigError
from finetrainers.models import open_model
from finetrainers.training.build import build_batches, build_trainer
from finetrainers.training.prepare import prepare
from finetrainers.training.trainer import Trainer
from finetrainers.training.windows import encode_steps
from finetrainers.tuning import build_tuning

Tree = dict[str, Any]
STEPS = 10
ALONE = "1 process"
LAYOUTS: Mapping[str, Mapping[str, int]] = {
    ALONE: {},
    "DDP 2": {"replicate": 2},
    "FSDP 2": {"shard": 2},
    "HSDP 2x2": {"replicate": 2, "shard": 2},
    "Ulysses 2": {"replicate": 1, "shard": 1, "context": 2},
    "FSDP 2 x Ulysses 2": {"replicate": 1, "shard": 2, "context": 2},
}
"""The section ``parallel`` of each column of the table."""
TIME_LIMIT = 1800.0
"""Seconds for all cases of a layout: a minute, on a machine that does nothing else."""


@dataclass
class Figures:
    """What a run was like."""

    loss: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    """Of the whole gradient, before it is clipped."""
    moved: float = 0.0
    """How far the weights have come: the norm of their change."""
    average_moved: float | None = None
    """How far their average has."""


def run_cases(trees: Mapping[str, Tree], device: str) -> dict[str, Figures | str]:
    """Run each case in this process, one of those of a layout; of those that are refused, return the reason."""
    found: dict[str, Figures | str] = {}
    layout = parse_config(next(iter(trees.values()))).parallel
    with join(layout, device) as world:
        for name, tree in trees.items():
            try:
                found[name] = take_steps(parse_config(tree), world)
            except ConfigError as error:
                found[name] = str(error)
    return found


def take_steps(config: Config, world: World) -> Figures:
    """Train as a run does."""
    figures = Figures()
    trainer, batches = begin(config, world)
    trainer.after_step = (lambda _, metrics: (figures.loss.append(metrics.loss), figures.norm.append(metrics.grad_norm)),)
    ema = trainer.update.ema
    kept = [trainer.update.parameters, [] if ema is None else ema.shadow_params]
    before = [[each.detach().clone() for each in tensors] for tensors in kept]
    with closing(batches):
        trainer.run(batches, stop=config.train.steps)
    figures.moved, average_moved = (_distance(*pair) for pair in zip(kept, before, strict=True))
    figures.average_moved = None if ema is None else average_moved
    return figures


def begin(config: Config, world: World) -> tuple[Trainer, Any]:
    """Make a run's trainer and batches; what it reads is encoded by all processes."""
    model = open_model(config.model, config.memory)
    with world.lead():
        prepared = prepare(config, model, world.device, progress=_ignore, warn=_ignore, world=world)
    prepared, _ = encode_steps(prepared, config, 0)
    trainer = build_trainer(
        config, model, objective=prepared.objective, tuning=build_tuning(config.tuning), device=world.device, world=world
    )
    stop = config.train.steps
    return trainer, build_batches(config, prepared, objective=prepared.objective, world=world, start=0, stop=stop)


@torch.no_grad()
def _distance(now: Sequence[Any], before: Sequence[Any]) -> float:
    """Norm of a change, in float64; of what is sharded, every process has a part."""
    total = torch.zeros((), dtype=torch.float64)
    for one, other in zip(now, before, strict=True):
        square: Any = (one.detach() - other).double().square().sum()
        total += (square.full_tensor() if hasattr(square, "full_tensor") else square).cpu()
    return float(total.sqrt())


def run_layout(layout: str, trees: Mapping[str, Tree], folder: Path, *, device: str = "cpu") -> Mapping[str, Figures | str]:
    """Run cases on a layout, one after the other in the same processes; alone, half of them on each of two cores."""
    parallel = LAYOUTS[layout]
    own = [(name, {**tree, "parallel": dict(parallel)}) for name, tree in trees.items()]
    middle = len(own) // 2
    shares = [own[:middle], own[middle:]] if layout == ALONE and device == "cpu" and middle else [own]
    started = [
        ranks.start(run_cases, prod(parallel.values()), dict(share), device, folder=folder / str(number))
        for number, share in enumerate(shares)
    ]
    found: dict[str, Figures | str] = {}
    for each in started:
        found |= _results(each.wait(TIME_LIMIT))
    return found


def check_ended(ended: Sequence[ranks.Ended]) -> None:
    """An error of any process is one of the test."""
    failed = [f"process {rank} ended with {each.status}:\n{each.said}" for rank, each in enumerate(ended) if each.status]
    assert not failed, "\n".join(failed)


def _results(ended: Sequence[ranks.Ended]) -> Mapping[str, Figures | str]:
    """What the first process has seen, which is what all have."""
    check_ended(ended)
    for rank, each in enumerate(ended):
        assert each.result == ended[0].result, f"process {rank} has seen another run than the first"
    found: Mapping[str, Figures | str] = ended[0].result
    return found


def differences(run: Figures, alone: Figures) -> dict[str, float]:
    """Largest relative difference of losses and gradient norms, and that of how far weights and averages have come."""
    found = {
        "loss": _largest(run.loss, alone.loss),
        "norm": _largest(run.norm, alone.norm),
        "weights": _largest([run.moved], [alone.moved]),
    }
    if alone.average_moved is not None:
        assert run.average_moved is not None
        found["average"] = _largest([run.average_moved], [alone.average_moved])
    return found


def _largest(values: Sequence[float], expected: Sequence[float]) -> float:
    assert len(values) == len(expected) > 0
    both = [torch.tensor(own, dtype=torch.float64) for own in (values, expected)]
    assert all(bool(own.isfinite().all()) for own in both)
    difference: Tensor = (both[0] - both[1]).abs() / both[1].abs()
    return float(difference.max())


def _ignore(*_: object) -> None:
    """Take progress and warnings."""
