"""Alarms: each on a planted defect, once each time it begins, and none on runs that are well."""

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures
from test_track import SCHEMA, Kept

import finetrainers.training.alarms as module
from finetrainers import train
from finetrainers.files.steps import step_directory
from finetrainers.files.whole import to_json
from finetrainers.training.alarm_rules import (
    NORM_STEPS,
    RECENT_STEPS,
    ZERO_STEPS,
    Figures,
    Norms,
    is_flat,
    is_rising,
    never_learnt,
)
from finetrainers.training.alarms import Alarms
from finetrainers.training.track.track import Sinks
from finetrainers.training.trainer import Asked, Metrics

# -- rules ------------------------------------------------------------------------------------------------------------


def jumps(norms: Sequence[float]) -> list[int]:
    watched = Norms()
    return [step for step, norm in enumerate(norms) if watched.add(norm) is not None]


def noisy(count: int, *, around: float = 0.2, seed: int = 0) -> list[float]:
    """Norms as batches of one sample have them: the largest of a hundred is some four times the median."""
    draw = random.Random(seed)
    return [around * math.exp(draw.gauss(0, 0.6)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_norms_of_runs_that_are_well_do_not_jump(seed: int) -> None:
    assert jumps(noisy(600, seed=seed)) == []
    assert jumps([norm * (0.1 + step / 50) for step, norm in enumerate(noisy(300, seed=seed))]) == []  # as LoRA begins
    assert jumps([norm * 0.99**step for step, norm in enumerate(noisy(600, seed=seed))]) == []
    assert jumps(600 * [0.0]) == []


def test_a_norm_that_jumps_is_told_of_once_each_time() -> None:
    calm = noisy(100)
    up = [20 * norm for norm in noisy(80, seed=1)]
    (first,) = jumps([*calm, *up])
    assert 100 <= first < 100 + RECENT_STEPS
    assert jumps([*calm, 100.0, *calm]) == [100]  # a spike is told of at once
    assert jumps([*calm, 100.0, *calm[:10], 100.0, *calm]) == [100]  # the same situation
    assert jumps([*calm, 100.0, *calm, 100.0, *calm]) == [100, 201]
    assert jumps(noisy(NORM_STEPS)[:-1] + [100.0]) == []  # nothing is usual yet


def figures(held_out: float | None = None, **items: float) -> Figures:
    found = {} if held_out is None else {"": held_out}
    return Figures(found, {name: (f"{name}.png", loss) for name, loss in items.items()})


def test_a_loss_is_flat_where_nothing_at_fixed_noise_moves() -> None:
    assert is_flat(figures(1.0), figures(1.00001))
    assert is_flat(figures(1.0, a=0.5), figures(1.0, a=0.5))
    assert not is_flat(figures(1.0), figures(1.001))
    assert not is_flat(figures(1.0), figures(0.999))
    assert not is_flat(figures(1.0, a=0.5), figures(1.0, a=0.49))
    assert not is_flat(figures(), figures())
    assert is_flat(figures(a=0.5), figures(1.0, a=0.5))  # what is measured since is compared with nothing
    assert is_flat(figures(a=0.5, b=0.1), figures(a=0.5))
    assert not is_flat(figures(a=1.0), figures(1.0))


def test_an_item_that_stays_hard_while_others_are_learnt_is_named() -> None:
    first = figures(a=1.0, b=1.2, c=0.8)
    assert never_learnt(first, [figures(a=0.7, b=1.19, c=0.6), figures(a=0.5, b=1.25, c=0.4)]) == ["b.png"]
    assert never_learnt(first, [figures(a=0.7, b=1.0, c=0.6), figures(a=0.5, b=1.25, c=0.4)]) == []  # not in both
    assert never_learnt(first, [figures(a=0.7, b=0.9, c=0.6), figures(a=0.5, b=0.8, c=0.4)]) == []  # slower, but learnt
    assert never_learnt(first, [figures(a=0.99, b=1.2, c=0.79)] * 2) == []  # nothing is learnt yet
    easy = figures(a=1.0, b=0.4, c=1.0)  # an item that the model knew already, and that became no easier
    assert never_learnt(easy, [figures(a=0.6, b=0.42, c=0.6)] * 2) == []
    assert never_learnt(figures(), [figures(a=1.0)] * 2) == []


@pytest.mark.parametrize(
    "held_out, training, is_so",
    [
        ([1.0, 0.8, 0.9, 0.95], [math.nan, 0.9, 0.7, 0.5], True),
        ([1.0, 1.1, 1.2, 1.3], [math.nan, 0.9, 0.7, 0.5], True),  # from the first step on
        ([1.0, 0.8, 0.9, 0.95], [math.nan, 0.9, 0.9, 0.9], False),  # the training loss does not fall
        ([1.0, 0.8, 0.9, 0.81], [math.nan, 0.9, 0.7, 0.5], False),  # nearly as low again
        ([1.0, 0.8, 0.7, 0.95], [math.nan, 0.9, 0.7, 0.5], False),  # one validation alone
        ([1.0, 0.8, 0.6, 0.5], [math.nan, 0.9, 0.7, 0.5], False),
        ([1.0, 1.1, 1.2], [math.nan, 0.9, 0.7], False),
    ],
)
def test_a_held_out_loss_rises_where_the_training_loss_falls(
    held_out: list[float], training: list[float], is_so: bool
) -> None:
    assert is_rising(held_out, training) == is_so


# -- a run that is watched --------------------------------------------------------------------------------------------


class Watched:
    """A run whose steps and validations are planted; each ten steps there is a validation."""

    def __init__(self, root: Path, *, per_epoch: int = 2, log_every: int = 1) -> None:
        data = [{"path": "d", "buckets": [[1, 64, 64]]}]
        validation = {"every": 10, "held_out": 0.1, "items": 4}
        tree = {"model": {"path": "m"}, "data": data, "optimizer": {"lr": 5e-5}, "validation": validation}
        self.config = config_of({"output_dir": str(root), **tree})
        self.kept = Kept()
        self.lines: list[dict[str, Any]] = [{"event": "run", "resumed_from": None}]
        self.per_epoch, self.log_every = per_epoch, log_every
        self.validated(0, {"held_out_loss": 1.0})
        self.start(0)

    def start(self, step: int) -> None:
        """Begin, or go on from a step."""
        (self.config.output_dir / "events.jsonl").parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{to_json(line)}\n" for line in [*self.lines, *self.kept.events])
        (self.config.output_dir / "events.jsonl").write_text(lines)
        session: Any = SimpleNamespace(config=self.config, world=SimpleNamespace(is_first=True), emit=Sinks(self.kept).emit)
        order = SimpleNamespace(epoch_of=lambda step: step // self.per_epoch)
        self.alarms, self.step = Alarms(session, SimpleNamespace(order=order)), step  # type: ignore[arg-type]
        self.alarms(SimpleNamespace(step=step))  # type: ignore[arg-type]

    def validated(self, step: int, facts: Mapping[str, Any]) -> None:
        folder = step_directory(self.config.output_dir / "validation", step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "validation.json").write_text(to_json(facts))

    def run(self, count: int, *, loss: float = 0.5, norm: float = 0.1, **facts: Any) -> None:
        """Take steps, at the last of which there is a validation that found these facts."""
        for left in reversed(range(count)):
            self.step += 1
            if not left:
                self.validated(self.step, facts)
            metrics = Metrics(
                step=self.step, loss=loss, sample_losses=torch.tensor([loss]), grad_norm=norm, positions=torch.tensor([0]),
                lr=1e-4, num_tokens=1, data_seconds=0.0, began=0.0, asked=Asked(),
            )  # fmt: skip
            step = {"event": "step", "step": self.step, "loss": loss, "grad_norm": norm}
            if self.step % self.log_every == 0 or not metrics.is_finite:
                self.lines.append(step)
            self.alarms(SimpleNamespace(step=self.step), metrics)  # type: ignore[arg-type]

    @property
    def told(self) -> list[tuple[str, int]]:
        for event in self.kept.events:
            jsonschema.validate(event, SCHEMA)
        return [(event["kind"], event["step"]) for event in self.kept.events]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "run")


def item(name: str, loss: float) -> dict[str, Any]:
    return {"path": f"/data/{name}.png", "key": name, "loss": loss}


def test_a_run_that_is_well_raises_no_alarm(watched: Watched) -> None:
    watched.validated(0, {"held_out_loss": 1.0, "item_losses": [item("a", 1.0), item("b", 1.1)]})
    watched.start(0)
    for round, norm in enumerate(noisy(20)):
        losses = [item("a", 0.9**round), item("b", 1.1 * 0.93**round)]
        watched.run(10, loss=0.95**round, norm=norm, held_out_loss=0.5 + 0.5 * 0.97**round, item_losses=losses)
    assert watched.told == []


def test_a_held_out_loss_that_does_not_move_is_told_of_once(watched: Watched) -> None:
    for _ in range(12):
        watched.run(10, held_out_loss=1.00001)
    assert watched.told == [("loss_flat", 100)]
    watched.start(120)  # and a run that goes on does not tell it again
    watched.run(10, held_out_loss=1.00001)
    assert watched.told == [("loss_flat", 100)]
    watched.run(10, held_out_loss=0.9)
    watched.run(10, held_out_loss=1.00001)  # but what is over can begin anew
    assert watched.told == [("loss_flat", 100), ("loss_flat", 150)]


def test_a_gradient_that_is_zero_is_told_of_without_anything_held_out(watched: Watched) -> None:
    watched.run(9, norm=0.1, held_out_loss=0.9)
    watched.run(3 * ZERO_STEPS, norm=0.0)
    assert watched.told == [("loss_flat", 9 + ZERO_STEPS)]
    assert "the gradient was zero in 20 steps in a row" in watched.kept.events[0]["message"]


def test_a_gradient_norm_that_jumps_is_told_of_once_also_by_a_run_that_goes_on(watched: Watched) -> None:
    watched.run(60, held_out_loss=0.9)
    watched.start(60)  # with what was usual before
    watched.run(1, norm=50.0)
    watched.run(9, norm=0.1, held_out_loss=0.9)
    assert watched.told == [("grad_norm_jump", 61)]
    assert "it is 50, and its median was 0.1 before" in watched.kept.events[0]["message"]


def test_a_gradient_that_is_zero_again_is_told_of_again_without_anything_held_out(watched: Watched) -> None:
    for _ in range(2):
        watched.run(1, norm=0.1)
        watched.run(2 * ZERO_STEPS, norm=0.0)
    assert watched.told == [("loss_flat", 1 + ZERO_STEPS), ("loss_flat", 2 + 3 * ZERO_STEPS)]


Part = tuple[int, dict[str, Any]]
RISING: list[Part] = [(10, {"loss": loss, "held_out_loss": held_out}) for loss, held_out in
                      ((0.9, 0.9), (0.8, 0.95), (0.7, 1.0), (0.6, 1.1))]  # fmt: skip
FLAT: list[Part] = [(10, {"held_out_loss": 1.0})] * 11
PARTS: dict[str, list[Part]] = {
    "rising": RISING,
    "over and begun again": [*FLAT, (10, {"held_out_loss": 0.9}), (5, {}), (5, FLAT[0][1]), *FLAT[:1]],
    "over and rising again": [*RISING, (10, {"loss": 0.5, "held_out_loss": 0.5}), (10, {"loss": 0.4, "held_out_loss": 0.6}),
                              (10, {"loss": 0.3, "held_out_loss": 0.7}), (10, {"loss": 0.2, "held_out_loss": 0.8})],
    "skipped steps": [*RISING[:2], (1, {"loss": math.nan, "norm": math.nan}), (9, RISING[2][1]), *RISING[3:]],
    "zero": [(10, {"norm": 0.1}), *[(10, {"norm": 0.0})] * 8],
    "jumps": [(60, {}), (1, {"norm": math.nan, "loss": math.nan}), (9, {}), (1, {"norm": 50.0}),
              (60, {}), (9, {"norm": 50.0})],
}  # fmt: skip


@pytest.mark.parametrize("name, log_every", [*((name, 1) for name in PARTS), ("over and rising again", 4), ("zero", 4)])
def test_a_run_that_is_interrupted_tells_what_one_that_is_not_tells(tmp_path: Path, name: str, log_every: int) -> None:
    """After each part: what was over can begin anew, what is not is not told again, and what was not logged is no matter."""
    told = []
    for is_interrupted in (False, True):
        watched = Watched(tmp_path / str(is_interrupted), log_every=log_every)
        for count, facts in PARTS[name]:
            watched.run(count, **facts)
            if is_interrupted:
                watched.start(watched.step)
        told.append([(kind, step if log_every == 1 else 0) for kind, step in watched.told])
    assert told[0]
    assert told[0] == told[1]


def test_a_validation_that_a_kill_came_before_is_looked_at_when_it_is_made(watched: Watched) -> None:
    for count, facts in RISING[:2]:
        watched.run(count, **facts)
    watched.lines += [{"event": "step", "step": step, "loss": 0.7, "grad_norm": 0.1} for step in range(21, 31)]
    watched.validated(30, {"held_out_loss": 1.0})
    watched.start(30)
    assert watched.told == [("held_out_rises", 30)]


def test_an_item_that_is_never_learnt_is_named_once(watched: Watched) -> None:
    watched.validated(0, {"item_losses": [item(name, 1.0) for name in "abcd"]})
    watched.start(0)
    for round in range(1, 6):
        learnt = [item(name, 1.0 - 0.15 * round) for name in "acd"]
        watched.run(10, item_losses=[*learnt, item("b", 1.01)])
    assert watched.told == [("item_not_learnt", 40)]
    assert watched.kept.events[0]["about"] == ["/data/b.png"]


def test_an_item_that_was_hardly_seen_is_not_called_never_learnt(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "run", per_epoch=1000)
    watched.validated(0, {"item_losses": [item(name, 1.0) for name in "abcd"]})
    watched.start(0)
    for round in range(1, 6):
        watched.run(10, item_losses=[*(item(name, 1.0 - 0.15 * round) for name in "acd"), item("b", 1.01)])
    assert watched.told == []


@pytest.mark.parametrize("stop", [None, 30])
def test_the_data_set_whose_held_out_loss_rises_is_named(watched: Watched, stop: int | None) -> None:
    """Also by a run that was interrupted: what was lowest, and what the training loss was, it knows from before."""
    sets = [[1.0, 1.0], [0.8, 0.9], [0.7, 0.95], [0.6, 1.0], [0.5, 1.1]]
    for round, (one, other) in enumerate(sets):
        facts = {"held_out_loss": 1.0, "held_out_sets": [{"path": "one", "loss": one}, {"path": "other", "loss": other}]}
        if round == 0:
            watched.validated(0, facts)
            watched.start(0)
        else:
            watched.run(10, loss=1 - 0.1 * round, **facts)
        if watched.step == stop:
            watched.start(stop)
    assert watched.told == [("held_out_rises", 30)]
    assert watched.kept.events[0]["about"] == ["other"]
    assert "of other was 0.90000 at step 10 and is 1.00000" in watched.kept.events[0]["message"]


# -- real runs --------------------------------------------------------------------------------------------------------


def test_a_run_that_does_not_learn_says_so_once_and_a_run_that_does_is_quiet(
    tiny_flux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The alarm changes nothing in training, and is not told again after the run was interrupted."""
    monkeypatch.setattr(module, "FLAT_STEPS", 2)
    tree = flux_tree(
        tiny_flux,
        write_pictures(tmp_path / "data", 4),
        tmp_path,
        train={"batch_size": 1, "micro_batch_size": 1, "steps": 6},
        validation={"held_out": 0.3, "items": 2, "noise_levels": 1, "every": 2},
        optimizer={"lr": 1e-2},
    )
    train(config_of(tree))
    assert alarms(tree) == []
    still = merged(tree, {"output_dir": str(tmp_path / "still"), "optimizer": {"lr": 1e-9}})
    train(config_of(merged(still, {"train": {"steps": 4}})))
    train(config_of(still))
    assert alarms(still) == [("loss_flat", 2)]
    assert curve(still["output_dir"], "loss")[0] == curve(tree["output_dir"], "loss")[0]


def alarms(tree: Tree) -> list[tuple[str, int]]:
    return [(event["kind"], event["step"]) for event in events_of(tree["output_dir"]) if "kind" in event]
