"""Early stop, and the best step: what the held-out losses of a run lead to, interrupted or not."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import ranks
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import ConfigError, train
from finetrainers.config import dump_config
from finetrainers.training.validation.outcomes import best_step, num_worse
from finetrainers.training.validation.validate import HeldOut, HeldOutLoss


def test_the_best_step_is_the_first_of_the_lowest_and_never_the_baseline() -> None:
    losses = {0: 0.1, 2: 0.5, 4: 0.3, 6: 0.3, 8: math.nan}
    assert best_step(losses) == 4
    assert best_step(losses, [2, 6, 8]) == 6
    assert best_step({0: 0.1}) is None
    assert best_step({2: math.nan}) is None


@pytest.mark.parametrize(
    "losses, min_delta, count",
    [
        ([0.5, 0.4, 0.3], 0.0, 0),
        ([0.5, 0.5, 0.5], 0.0, 2),
        ([0.5, 0.6, 0.4, 0.45, math.nan], 0.0, 2),
        ([0.5, 0.45, 0.41], 0.1, 2),
        ([0.5, 0.45, 0.39], 0.1, 0),
        ([], 0.0, 0),
    ],
)
def test_validations_without_an_improvement_are_counted(losses: list[float], min_delta: float, count: int) -> None:
    assert num_worse({0: 0.0} | {2 * n + 2: loss for n, loss in enumerate(losses)}, min_delta=min_delta) == count


LOSSES = {0: 1.0, 1: 0.5, 2: 0.2, 3: 0.4, 4: 0.3, 5: 0.6, 6: 0.1}
"""What the validations find: the best of the first five is step 2."""


@pytest.fixture(scope="module", autouse=True)
def planted() -> Iterator[None]:
    """What validations find, while the tests of this file run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeldOut, "summary", lambda self, trainer, rows: HeldOutLoss(LOSSES[trainer.step], {}, 1))
        yield


@pytest.fixture(scope="module")
def stopped(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A run with a patience of 2, which stopped at step 4. Read it, never go on with it."""
    root = tmp_path_factory.mktemp("outcomes")
    tree = flux_tree(
        tiny_flux,
        write_pictures(root / "data", 4),
        root,
        train={"steps": 6, "batch_size": 1, "micro_batch_size": 1},
        validation={"held_out": 0.3, "noise_levels": 1, "every": 1, "patience": 2},
        checkpoint={"every": 1, "keep": 1, "keep_weights": 1, "keep_best": True},
    )
    train(config_of(tree))
    return tree


@pytest.fixture
def tree(stopped: Tree, tmp_path: Path) -> Tree:
    """The same run, which has not begun."""
    return merged(stopped, {"output_dir": str(tmp_path / "run")})


def left(tree: Tree, kind: str) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (Path(tree["output_dir"]) / kind).glob("step-*"))


def test_a_run_that_gets_no_better_stops_and_keeps_the_best(stopped: Tree) -> None:
    report = json.loads((Path(stopped["output_dir"]) / "report.json").read_text())
    end = events_of(stopped["output_dir"])[-1]
    assert [step for (step,) in curve(stopped["output_dir"], "step")] == [1, 2, 3, 4]
    assert (end["status"], end["reason"], end["step"], end["best_step"]) == ("done", "early_stop", 4, 2)
    assert end["best_held_out_loss"] == LOSSES[2]
    assert Path(end["best_weights"]).name == "step-000002"
    assert (report["stopped_by"], report["best_step"], report["steps"]) == ("early_stop", 2, 4)
    assert left(stopped, "checkpoints") == left(stopped, "weights") == [2, 4]
    (warned,) = (e["message"] for e in events_of(stopped["output_dir"]) if e["event"] == "warning")
    assert warned.startswith(
        "stopped early at step 4: the held-out loss was no better in 2 validations; the best is 0.20000"
    )


def test_a_stopped_run_trains_no_further_until_patience_is_raised(tree: Tree) -> None:
    train(config_of(tree))
    again = train(config_of(tree)).report
    assert (again["stopped_by"], again["steps"]) == ("early_stop", 4)
    assert [e["step"] for e in events_of(tree["output_dir"]) if e["event"] == "step"] == [1, 2, 3, 4]
    further = train(config_of(merged(tree, {"validation": {"patience": 9}}))).report
    assert (further["stopped_by"], further["steps"], further["best_step"]) == ("steps", 6, 6)
    assert (
        left(tree, "checkpoints") == left(tree, "weights") == [6]
    )  # the best before goes, though nothing is saved after it


def test_losses_of_other_noise_levels_are_not_compared(tree: Tree) -> None:
    """Steps 4 and 5 are worse than step 2, which was measured otherwise; of the steps since, 6 is the best."""
    train(config_of(merged(tree, {"train": {"steps": 3}})))
    report = train(config_of(merged(tree, {"validation": {"noise_levels": 2}}))).report
    assert (report["stopped_by"], report["steps"], report["best_step"]) == ("steps", 6, 6)


def test_without_an_early_stop_a_run_says_so(tree: Tree) -> None:
    whole = merged(tree, {"train": {"steps": 3}, "checkpoint": {"keep_best": False}})
    train(config_of(whole))
    end = events_of(whole["output_dir"])[-1]
    assert (end["reason"], end["best_step"], "best_weights" in end) == ("steps", 2, False)
    assert left(whole, "checkpoints") == [3]


def test_a_best_step_without_a_checkpoint_of_its_own_gets_one(tree: Tree) -> None:
    """Though none is due: it is saved once it is known to be the best, and only then."""
    rare = merged(tree, {"checkpoint": {"every": 100, "keep_weights": None}})
    train(config_of(rare))
    assert [e["step"] for e in events_of(rare["output_dir"]) if e["event"] == "checkpoint"] == [1, 2, 4]
    assert left(rare, "checkpoints") == [2, 4]


def test_an_interrupted_run_stops_where_an_uninterrupted_one_does(stopped: Tree, tree: Tree) -> None:
    """Counting goes on: it does not begin anew, and the best step is still known, and kept."""
    train(config_of(merged(tree, {"train": {"steps": 3}})))
    train(config_of(tree))
    assert curve(tree["output_dir"], "loss", "grad_norm") == curve(stopped["output_dir"], "loss", "grad_norm")
    ends = [events_of(run["output_dir"])[-1] for run in (stopped, tree)]
    names = ("status", "reason", "step", "best_step", "best_held_out_loss")
    assert [ends[0][name] for name in names] == [ends[1][name] for name in names]
    assert left(tree, "checkpoints") == left(stopped, "checkpoints")


def test_what_was_validated_after_the_step_that_a_run_goes_back_to_counts_no_more(tree: Tree) -> None:
    every = merged(tree, {"checkpoint": {"keep": 9}})
    train(config_of(every))
    train(config_of(merged(every, {"train": {"steps": 2}, "checkpoint": {"resume": 1}})))
    report = json.loads((Path(every["output_dir"]) / "report.json").read_text())
    assert [step for step, _ in report["held_out_losses"]] == [0, 1, 2]
    assert (report["stopped_by"], report["best_step"]) == ("steps", 2)


@pytest.mark.parametrize(
    "sections, message",
    [
        (
            {"validation": {"patience": 2, "every": 1, "prompts": "p.json"}},
            r"validation\.patience: 2 has no effect without held",
        ),
        ({"validation": {"patience": 2, "held_out": 0.1}}, r"validation\.patience: 2 has no effect without every"),
        ({"validation": {"min_delta": 0.1, "held_out": 0.1}}, r"validation\.min_delta: 0\.1 has no effect without patience"),
        ({"checkpoint": {"keep_best": True}}, r"checkpoint\.keep_best: true has no effect without validation\.held_out"),
        (
            {"checkpoint": {"keep_best": True}, "validation": {"held_out": 0.1}},
            r"checkpoint\.keep_best: true has no effect without validation\.every",
        ),
    ],
)
def test_what_needs_a_held_out_loss_is_refused_without(sections: Tree, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(flux_tree(Path("m"), Path("d"), Path("r"), **sections))


def test_a_held_out_loss_of_no_sample_is_refused_before_anything_is_encoded(tree: Tree, tmp_path: Path) -> None:
    """All that was to be held out is bad, and left out."""
    (tmp_path / "held-out").mkdir()
    (tmp_path / "held-out/00.png").write_bytes(b"no picture")
    (tmp_path / "held-out/00.txt").write_text("a caption")
    own = [{"path": str(tmp_path / "held-out"), "buckets": [[1, 64, 64]], "on_error": "skip"}]
    bad = merged(tree, {"validation": {"data": own, "held_out": 0.0}, "cache": {"path": str(tmp_path / "other")}})
    with pytest.raises(
        ConfigError, match=r"validation\.patience: it needs a held-out loss, and no sample of validation\.data"
    ):
        train(config_of(bad))
    assert not list((tmp_path / "other").rglob("*.safetensors"))


@pytest.mark.distributed
def test_two_processes_stop_where_one_does(tiny_flux: Path, tmp_path: Path) -> None:
    """No improvement is large enough: the run stops after two validations more than the first."""
    tree = flux_tree(
        tiny_flux,
        write_pictures(tmp_path / "data", 6),
        tmp_path,
        train={"steps": 8, "batch_size": 2, "micro_batch_size": 1},
        validation={"held_out": 0.3, "items": 2, "noise_levels": 1, "every": 1, "patience": 2, "min_delta": 100.0},
        checkpoint={"every": 2, "keep": 1, "keep_weights": 1, "keep_best": True},
    )
    two = merged(tree, {"output_dir": str(tmp_path / "two")})
    for count, run in ((1, tree), (2, two), (2, two)):  # started once more, it has nothing left to do
        (tmp_path / "config.yaml").write_text(dump_config(config_of(run)))
        folder = tmp_path / f"ranks-{count}-{len(list(tmp_path.iterdir()))}"
        assert ranks.results(ranks.command, count, "train", str(tmp_path / "config.yaml"), folder=folder) == count * [0]
    ends = [events_of(run["output_dir"])[-1] for run in (tree, two)]
    names = ("status", "reason", "step", "best_step")
    assert [ends[0][name] for name in names] == [ends[1][name] for name in names]
    assert (ends[1]["reason"], ends[1]["step"]) == ("early_stop", 3)
    assert left(two, "checkpoints") == left(tree, "checkpoints")
    assert len(curve(two["output_dir"], "step")) == 3
