"""The main job in small: what equals what, and what a second run does not do again."""

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tree, adapter_file, config_of, curve, events_of, flux_tree, merged, write_pictures
from safetensors.torch import load_file

from finetrainers import CheckpointError, ConfigError, DataError, Interrupted, NonFiniteError, StorageError, train
from finetrainers.training.checkpoint.checkpoints import Checkpoints

LOSSES = ("loss", "grad_norm")


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A run whose encoded items are already there."""
    root = tmp_path_factory.mktemp("training")
    tree = flux_tree(tiny_flux, write_pictures(root / "data", 6), root)
    write_pictures(root / "held-out", 6, seed=1)
    train(config_of(tree))
    return tree


def run(tree: Tree, directory: Path, **sections: Any) -> str:
    """Run in a directory of its own; return it."""
    train(config_of(merged(tree, {"output_dir": str(directory), **sections})))
    return str(directory)


def weights(directory: str | Path) -> dict[str, torch.Tensor]:
    last = sorted((Path(directory) / "weights").glob("step-*"))[-1]
    return load_file(next(last.rglob("*.safetensors")))


def same_weights(a: str | Path, b: str | Path) -> bool:
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_same_seed_same_run(base: Tree, tmp_path: Path) -> None:
    """Twice the same configuration: the same losses and gradient norms to the last bit, and the same weights."""
    one, other = run(base, tmp_path / "one"), run(base, tmp_path / "other")
    assert curve(one, *LOSSES) == curve(other, *LOSSES)
    assert same_weights(one, other)


def test_another_seed_is_another_run(base: Tree, tmp_path: Path) -> None:
    assert curve(run(base, tmp_path / "one", seed=1), "loss") != curve(run(base, tmp_path / "other", seed=2), "loss")


def test_losses_differ_between_steps(base: Tree) -> None:
    """Each step draws its own noise: equal losses would mean that it does not."""
    assert len(set(curve(base["output_dir"], "loss"))) == base["train"]["steps"]


@pytest.mark.parametrize("clip_norm", [1.0, 1e-3])
def test_micro_batches_change_only_rounding(base: Tree, tmp_path: Path, clip_norm: float) -> None:
    """8 x 1, 4 x 2 and 1 x 8 are the same step, also where the whole gradient is clipped tightly."""
    curves = [
        curve(
            run(base, tmp_path / str(micro), train={"batch_size": 8, "micro_batch_size": micro, "clip_norm": clip_norm}),
            *LOSSES,
        )
        for micro in (8, 4, 1)
    ]
    for other in curves[1:]:
        torch.testing.assert_close(torch.tensor(other), torch.tensor(curves[0]), rtol=2e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")  # on a machine with two cores
def test_number_of_workers_changes_nothing(base: Tree, tmp_path: Path) -> None:
    curves = [curve(run(base, tmp_path / str(n), loader={"workers": n}), *LOSSES) for n in (0, 1, 3)]
    assert curves[0] == curves[1] == curves[2]


def test_validation_changes_nothing_in_training(base: Tree, tmp_path: Path) -> None:
    """With samples and held-out loss at every step and without: the same training losses, dropout included."""
    (tmp_path / "prompts.json").write_text('[{"prompt": "picture number 1", "num_inference_steps": 1}]')
    own_data = [{"path": str(Path(base["data"][0]["path"]).with_name("held-out")), "buckets": [[1, 64, 64]]}]
    dropout = {"tuning": {"dropout": 0.5}}
    validation = {"every": 1, "prompts": str(tmp_path / "prompts.json"), "data": own_data}
    without, with_it = (
        run(base, tmp_path / "without", **dropout),
        run(base, tmp_path / "with", **dropout, validation=validation),
    )
    assert curve(without, *LOSSES) == curve(with_it, *LOSSES)
    assert same_weights(without, with_it)
    assert sum(event["event"] == "validation" for event in events_of(with_it)) == 5


def test_validation_of_schedule_free_changes_nothing(base: Tree, tmp_path: Path) -> None:
    """Its weights for use and for training differ; going there and back must not round the latter."""
    free = {"optimizer": {"name": "adamw_schedule_free"}}
    own_data = [{"path": str(Path(base["data"][0]["path"]).with_name("held-out")), "buckets": [[1, 64, 64]]}]
    without = run(base, tmp_path / "without", **free)
    with_it = run(base, tmp_path / "with", **free, validation={"every": 1, "data": own_data, "noise_levels": 1})
    assert curve(without, *LOSSES) == curve(with_it, *LOSSES)
    assert same_weights(without, with_it)


def test_the_baseline_of_validation_is_step_0(base: Tree, tmp_path: Path) -> None:
    directory = run(base, tmp_path / "run", validation={"held_out": 0.2, "noise_levels": 2}, train={"steps": 2})
    assert [e["step"] for e in events_of(directory) if e["event"] == "validation"] == [0, 2]


INTERRUPTED = {
    "lora": {"tuning": {"dropout": 0.3}},
    "lora and EMA": {"train": {"ema_decay": 0.9}},
    "full": {"tuning": {"kind": "full"}},
    "cosine": {"schedule": {"name": "cosine", "warmup_steps": 2}},
    "prodigy": {"optimizer": {"name": "prodigy", "lr": 1.0}},
    "schedule-free": {"optimizer": {"name": "adamw_schedule_free"}},
    "adafactor": {"optimizer": {"name": "adafactor"}},
    "sgd": {"optimizer": {"name": "sgd", "lr": 0.1}},
}


@pytest.mark.parametrize("kind", INTERRUPTED)
def test_resumed_equals_uninterrupted(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Stopped after step 3 of 6 and started again: the curve and the weights of the run that nobody stopped, bit for bit."""
    sections = merged({"train": {"steps": 6}}, INTERRUPTED[kind])
    whole = run(base, tmp_path / "whole", **sections)
    interrupted = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr("finetrainers.training.run.StepLog.__call__", stop_after(3))
        with pytest.raises(Interrupted):
            run(base, interrupted, **sections)
    run(base, interrupted, **sections)
    resumed = [event for event in events_of(interrupted) if event["event"] == "run"][-1]
    assert resumed["resumed_from"] == 3
    assert curve(interrupted, *LOSSES, "lr")[3:] == curve(whole, *LOSSES, "lr")[3:]
    assert same_weights(interrupted, whole)


def stop_after(step: int) -> Any:
    """Log as ever, and send this process a SIGTERM after a step."""
    import signal

    from finetrainers.training.track.track import StepLog

    log = StepLog.__call__

    def logged(self: Any, trainer: Any, metrics: Any) -> None:
        log(self, trainer, metrics)
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return logged


def test_a_longer_run_goes_on_from_a_finished_one(base: Tree, tmp_path: Path) -> None:
    """train.steps may grow: steps 1 to 4, then to 6, equal 6 at once."""
    run(base, tmp_path / "grown", train={"steps": 4})
    grown = run(base, tmp_path / "grown", train={"steps": 6})
    whole = run(base, tmp_path / "whole", train={"steps": 6})
    assert curve(grown, *LOSSES) == curve(whole, *LOSSES)
    assert same_weights(grown, whole)


STRETCHED = {
    "linear": {},
    "cosine": {"warmup_steps": 2},
    "cosine_with_restarts": {"cycles": 2},
    "polynomial": {"power": 2.0},
    "constant": {"warmup_steps": 3},
}


@pytest.mark.parametrize("name", STRETCHED)
def test_a_longer_run_has_the_learning_rates_of_one_that_was_as_long_from_the_start(
    base: Tree, tmp_path: Path, name: str
) -> None:
    """From the first step after the seam on; all but a constant one say so, with both rates of that step."""
    sections = {"optimizer": {"name": "sgd", "lr": 0.5}, "schedule": {"name": name, **STRETCHED[name]}}
    run(base, tmp_path / "grown", **sections, train={"steps": 4})
    short = curve(tmp_path / "grown", "lr")
    grown = run(base, tmp_path / "grown", **sections, train={"steps": 8})
    whole = curve(run(base, tmp_path / "whole", **sections, train={"steps": 8}), "lr")
    assert curve(grown, "lr") == short + whole[4:]
    said = [event["message"] for event in events_of(grown) if event["event"] == "warning"]
    if name == "constant":
        assert said == []
    else:
        (message,) = said
        assert f"train.steps changed from 4 to 8, and schedule.name: {name} is stretched to it: step 5 has" in message
        rates = re.search(r"the learning rate (\S+), and would have had (\S+)$", message)
        end = 1e-7 if name == "polynomial" else 0.0
        assert float(rates[1]) == pytest.approx(whole[4][0], rel=1e-3)
        assert float(rates[2]) == pytest.approx(end, abs=1e-12)


def test_a_run_that_goes_on_with_its_steps_says_nothing_of_its_schedule(base: Tree, tmp_path: Path) -> None:
    sections = {"schedule": {"name": "linear"}, "checkpoint": {"every": 2}}
    run(base, tmp_path / "run", **sections)
    run(base, tmp_path / "run", **merged(sections, {"checkpoint": {"resume": 2}}))
    assert not [event for event in events_of(tmp_path / "run") if event["event"] == "warning"]


def test_data_that_changed_between_starts_are_warned_of(base: Tree, tiny_flux: Path, tmp_path: Path) -> None:
    """Another caption, and another picture."""
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 4), tmp_path)
    warned = []
    for steps, change in ((2, None), (4, "touch"), (6, "more")):
        if change == "touch":
            (tmp_path / "data" / "00.txt").write_text("another caption")
        if change == "more":
            write_pictures(tmp_path / "data" / "more", 1, seed=3)
        train(config_of(merged(tree, {"train": {"steps": steps}})))
        warned.append([e["message"] for e in events_of(tmp_path / "run") if e["event"] == "warning"])
    assert [len(messages) for messages in warned] == [0, 1, 2]
    assert "captions changed" in warned[1][0]
    assert "the data changed" in warned[2][1]


@pytest.mark.parametrize(
    ("recheck", "is_replaced", "is_seen"),
    [
        ("files", False, True),
        pytest.param("folders", True, True, marks=pytest.mark.long),
        ("folders", False, False),
        pytest.param("never", True, False, marks=pytest.mark.long),
    ],
)
def test_an_edited_caption_is_taken_and_told_of_when_it_is_looked_for(
    base: Tree, tiny_flux: Path, tmp_path: Path, recheck: str, *, is_replaced: bool, is_seen: bool
) -> None:
    """Overwritten in place, or replaced as an editor does; what is not looked for stays as it was."""
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 4), tmp_path)
    tree = merged(
        tree, {"data": [{**tree["data"][0], "recheck": recheck}], "checkpoint": {"every": 1}, "train": {"steps": 2}}
    )
    train(config_of(tree))
    for file in (tmp_path / "data").glob("*.txt"):
        new = file.with_suffix(".new") if is_replaced else file
        new.write_text(f"quite another caption {file.stem}")
        new.replace(file)
    train(config_of(merged(tree, {"train": {"steps": 4}})))
    warned = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    told = [message.split(" since")[0] for message in warned if "last started" in message]
    assert told == ["captions changed"] * is_seen
    assert any("quite another" in message for message in warned) == is_seen  # too long, as is told once it is encoded
    before, after = (event["captions"] for event in events_of(tmp_path / "run") if event["event"] == "run")
    assert (before != after) == is_seen


def test_a_finished_run_is_not_trained_again(base: Tree) -> None:
    before = curve(base["output_dir"], *LOSSES)
    steps = sum(event["event"] == "step" for event in events_of(base["output_dir"]))
    train(config_of(base))
    assert sum(event["event"] == "step" for event in events_of(base["output_dir"])) == steps
    assert curve(base["output_dir"], *LOSSES) == before
    said = [event["message"] for event in events_of(base["output_dir"]) if event["event"] == "warning"]
    assert said[-1] == "finished at step 4: nothing is left to train; raise train.steps to continue"


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_the_last_weights_are_written_once(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the end once more, nor when a finished run is started again; but what is not whole is mended."""
    from finetrainers.tuning.lora import AdapterTuning

    exports, export = [], AdapterTuning.export

    def counted(self, denoiser, tensors, directory, facts):
        exports.append(directory)
        export(self, denoiser, tensors, directory, facts)

    monkeypatch.setattr(AdapterTuning, "export", counted)
    directory = Path(run(base, tmp_path / "run", checkpoint={"every": 2}))
    assert [folder.name for folder in exports] == [".step-000002.tmp", ".step-000004.tmp"]
    before = stamps(directory / "weights") | stamps(directory / "checkpoints")
    run(base, directory)
    assert stamps(directory / "weights") | stamps(directory / "checkpoints") == before
    adapter_file(directory / "weights/step-000004").write_bytes(b"")
    run(base, directory)
    assert len(exports) == 3
    assert same_weights(directory, run(base, tmp_path / "other"))


def test_weights_of_another_state_are_written_anew(base: Tree, tmp_path: Path) -> None:
    """They may be left of a way that was given up: the checkpoint of their step does not vouch for them."""
    directory = Path(run(base, tmp_path / "run"))
    (manifest := directory / "weights/step-000004/manifest.json").write_text(manifest.read_text() + " ")
    run(base, directory)
    assert not manifest.read_text().endswith(" ")


@pytest.mark.parametrize(
    ("kind", "keep_weights", "steps"),
    [
        ("lora", "auto", [1, 2, 3, 4]),
        ("full", "auto", [3, 4]),
        ("lora", 1, [4]),
        ("full", None, [1, 2, 3, 4]),
        ("full", 3, [2, 3, 4]),
    ],
)
def test_as_many_weights_are_kept_as_are_asked_for(
    base: Tree, tmp_path: Path, kind: str, keep_weights: int | str | None, steps: list[int]
) -> None:
    """By default all adapters, and of full rank as many as checkpoints: each is as large as the model."""
    mine = tmp_path / "run" / "weights" / "step-000001-mine"
    tuning = {"kind": kind, "modules": "norm"} if kind == "full" else {"kind": kind}
    sections = {"tuning": tuning, "checkpoint": {"every": 1, "keep": 2, "keep_weights": keep_weights}}
    run(base, tmp_path / "run", **merged(sections, {"train": {"steps": 1}}))
    mine.mkdir()
    directory = Path(run(base, tmp_path / "run", **sections))
    assert mine.is_dir()
    mine.rmdir()
    assert [int(folder.name[-6:]) for folder in sorted((directory / "weights").iterdir())] == steps


def test_what_a_user_put_beside_weights_stays(base: Tree, tmp_path: Path) -> None:
    sections = {"checkpoint": {"every": 1, "keep_weights": 1}}
    directory = Path(run(base, tmp_path / "run", **sections, train={"steps": 1}))
    first, second = directory / "weights/step-000001", directory / "weights/step-000002"
    (first / "for_comfyui.safetensors").write_text("converted")
    (directory / "weights/step-000000").mkdir()  # no run made it: it has no manifest
    run(base, directory, **sections, train={"steps": 2})
    assert [file.name for file in first.iterdir()] == ["for_comfyui.safetensors"]
    assert (directory / "weights/step-000000").is_dir()
    assert adapter_file(second).is_file()


def test_a_run_below_its_own_data_goes_on_with_the_same_data(base: Tree, tiny_flux: Path, tmp_path: Path) -> None:
    """Its samples are pictures without captions, in the folder that is read."""
    data = write_pictures(tmp_path / "data", 3)
    (tmp_path / "prompts.json").write_text('[{"prompt": "picture number 1", "num_inference_steps": 1}]')
    places = {"output_dir": str(data / "runs" / "a"), "cache": {"path": str(data / "cache")}}
    tree = flux_tree(tiny_flux, data, tmp_path, **places, validation={"prompts": str(tmp_path / "prompts.json")})
    for steps in (2, 4):
        train(config_of(merged(tree, {"train": {"steps": steps}})))
    events = events_of(data / "runs" / "a")
    first, second = (event for event in events if event["event"] == "run")
    assert (first["resumed_from"], second["resumed_from"]) == (None, 2)
    assert (data / "runs/a/validation/step-000002/00.png").is_file()
    assert (first["data"], first["num_samples"]) == (second["data"], 3)
    assert [event for event in events if event["event"] == "warning"] == []


def test_a_run_of_0_steps_exports_the_untrained_adapter(base: Tree, tmp_path: Path) -> None:
    state = weights(run(base, tmp_path / "run", train={"steps": 0}))
    assert state
    assert all(not tensor.any() for name, tensor in state.items() if "lora_B" in name)


def test_a_checkpoint_that_is_not_there_is_an_error(base: Tree, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole checkpoint of step 3 .*there are: none"):
        run(base, tmp_path / "run", checkpoint={"resume": 3})
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_resume_from_a_step_that_is_there(base: Tree, tmp_path: Path) -> None:
    run(base, tmp_path / "run", checkpoint={"every": 1, "keep": 4})
    directory = run(base, tmp_path / "run", checkpoint={"every": 1, "keep": 4, "resume": 2})
    assert [e["resumed_from"] for e in events_of(directory) if e["event"] == "run"] == [None, 2]
    assert curve(directory, *LOSSES) == curve(base["output_dir"], *LOSSES)


class Poison:
    """Makes the losses of one sample position infinite, in the loop's own place."""

    def __init__(self, position: int) -> None:
        from finetrainers.training.trainer import Trainer

        self._position, self._losses = position, Trainer.micro_losses

    def __call__(self, trainer: Any, batch: Any) -> torch.Tensor:
        losses = self._losses(trainer, batch)
        return torch.where(batch.positions == self._position, torch.inf, 1.0) * losses


class Bound:
    """Lets an object stand in for a method."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __get__(self, trainer: Any, _: Any) -> Any:
        return lambda batch: self._call(trainer, batch)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(Poison(9)))
    with pytest.raises(NonFiniteError, match=r"step 3: the loss is not finite, at the sample positions \[9\]"):
        run(base, tmp_path / "run", checkpoint={"every": 1})
    assert Checkpoints(tmp_path / "run" / "checkpoints", keep=9).steps() == [1, 2]


STATES = {
    "lora and EMA": {"train": {"ema_decay": 0.9}, "schedule": {"name": "cosine", "warmup_steps": 1}},
    "full": {"tuning": {"kind": "full"}},
    "schedule-free": {"optimizer": {"name": "adamw_schedule_free"}},
    "sgd": {"optimizer": {"name": "sgd", "lr": 0.1}},
}


def state_of(trainer: Any) -> list[Any]:
    """Copies of all that a step changes."""
    ema = [] if trainer.update.ema is None else [trainer.update.ema.state_dict()]
    return copy.deepcopy(
        [
            trainer.step,
            trainer.update.num_skipped,
            trainer.denoiser.state_dict(),
            trainer.update.optimizer.state_dict(),
            trainer.update.schedule.state_dict(),
            *ema,
        ]
    )


def tensors_of(state: Any) -> list[Any]:
    """The leaves of nested containers, in order."""
    if isinstance(state, dict):
        return [leaf for value in state.values() for leaf in tensors_of(value)]
    if isinstance(state, list | tuple):
        return [leaf for value in state for leaf in tensors_of(value)]
    return [state]


def same_state(a: Any, b: Any) -> bool:
    one, other = tensors_of(a), tensors_of(b)
    pairs = zip(one, other, strict=True)
    return len(one) == len(other) and all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


@pytest.mark.parametrize("kind", STATES)
def test_a_step_that_is_not_finite_changes_nothing_before_it_stops_the_run(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Weights, optimizer, averages and schedule are those before it, bit for bit, and so is the checkpoint that is saved."""
    from finetrainers.training.trainer import Trainer

    seen: dict[str, Any] = {}
    taken = Trainer.train_step

    def watched(trainer: Any, *rest: Any, **options: Any) -> Any:
        seen.update(trainer=trainer, before=state_of(trainer))
        return taken(trainer, *rest, **options)

    monkeypatch.setattr(Trainer, "train_step", watched)
    sections = merged({"checkpoint": {"every": 100}}, STATES[kind])
    with monkeypatch.context() as patch:
        patch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(Poison(9)))
        with pytest.raises(NonFiniteError, match="step 3: the loss is not finite"):
            run(base, tmp_path / "run", **sections)
    assert seen["trainer"].step == 2
    assert same_state(state_of(seen["trainer"]), seen["before"])
    last = [event for event in events_of(tmp_path / "run") if event["event"] == "step"][-1]
    assert (last["step"], last["loss"]) == (3, "inf")
    assert Checkpoints(tmp_path / "run" / "checkpoints", keep=9).steps() == [2]
    run(base, tmp_path / "run", **sections)  # without the poison
    whole = run(base, tmp_path / "whole", **sections)
    assert curve(tmp_path / "run", *LOSSES, "lr") == curve(whole, *LOSSES, "lr")
    assert same_weights(tmp_path / "run", whole)


def test_the_loop_alone_stops_where_a_loss_is_not_finite(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is called after each step: it does not go on with the next batch in the place of this one."""
    monkeypatch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(Poison(9)))
    monkeypatch.setattr("finetrainers.training.run.StepLog.__call__", lambda *_: None)
    with pytest.raises(NonFiniteError, match="step 3: the loss or the gradient is not finite"):
        run(base, tmp_path / "run")


class HiddenPoison(Poison):
    """Makes losses infinite and leaves their gradient as it was."""

    def __call__(self, trainer: Any, batch: Any) -> torch.Tensor:
        losses = self._losses(trainer, batch)
        return losses + torch.where(batch.positions == self._position, torch.inf, 0.0)


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(HiddenPoison(9)))
    result = train(config_of(merged(base, {"output_dir": str(tmp_path / "run"), "train": {"non_finite": "skip"}})))
    assert result.report["skipped_steps"] == 1


def test_a_step_that_is_not_finite_can_be_skipped_and_is_counted(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(Poison(9)))
    result = train(config_of(merged(base, {"output_dir": str(tmp_path / "run"), "train": {"non_finite": "skip"}})))
    assert result.report["skipped_steps"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    assert any("[9]" in e["message"] for e in events_of(tmp_path / "run") if e["event"] == "warning")


@pytest.mark.parametrize("every", [2, 100])
def test_a_step_inside_backward_that_is_not_finite_is_not_saved(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """It has moved what was finite, here all: the checkpoint before it stays, though one is due at its number."""
    sections: Tree = {"optimizer": {"in_backward": True}, "train": {"clip_norm": math.inf}, "checkpoint": {"every": every}}
    with monkeypatch.context() as patch:
        patch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(HiddenPoison(9)))
        with pytest.raises(NonFiniteError, match="step 3: the loss is not finite"):
            run(base, tmp_path / "run", **sections)
    assert Checkpoints(tmp_path / "run" / "checkpoints", keep=9).steps() == ([2] if every == 2 else [])
    run(base, tmp_path / "run", **sections)
    whole = run(base, tmp_path / "whole", train={"clip_norm": math.inf})
    assert curve(tmp_path / "run", *LOSSES) == curve(whole, *LOSSES)
    assert same_weights(tmp_path / "run", whole)


def test_any_attention_backend_trains_with_gradient_checkpointing(base: Tree, tmp_path: Path) -> None:
    """The backward pass computes attention again: with the same backend, or it could not."""
    maths = {"attention": {"train": "_native_math"}}
    one = run(base, tmp_path / "one", **maths)
    other = run(base, tmp_path / "other", **maths, train={"gradient_checkpointing": True})
    torch.testing.assert_close(torch.tensor(curve(other, *LOSSES)), torch.tensor(curve(one, *LOSSES)), rtol=1e-5, atol=0)


def test_the_attention_backend_holds_in_both_passes(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

    from finetrainers.training.trainer import Trainer

    micro_losses, active = Trainer.micro_losses, []

    def watched(trainer: Any, batch: Any) -> torch.Tensor:
        active.append(("forward", Registry.get_active_backend()[0].value))
        losses = micro_losses(trainer, batch)
        losses.register_hook(lambda _: active.append(("backward", Registry.get_active_backend()[0].value)))
        return losses

    monkeypatch.setattr(Trainer, "micro_losses", watched)
    run(base, tmp_path / "run", attention={"train": "_native_math"}, train={"steps": 1})
    assert active == [("forward", "_native_math"), ("backward", "_native_math")]


@pytest.mark.parametrize(
    "sections, message",
    [
        ({"model": {"dtype": "float16"}}, r"model\.dtype: the gradients of a float16 transformer underflow; set bfloat16"),
        ({"attention": {"validate": "nothing"}}, r"attention\.validate: 'nothing' cannot be used"),
        ({"attention": {"train": "flash"}}, r"attention\.train: 'flash' cannot be used"),
        ({"model": {"max_sequence_length": 513}}, r"model\.max_sequence_length: 513 is more than 512"),
        ({"tuning": {"targets": "nothing.*"}}, r"tuning\.targets: no layer's full name matches 'nothing\.\*'"),
        ({"tuning": {"targets": ["to_q", "to_x"]}}, r"tuning\.targets: no layer's name ends in 'to_x'"),
        ({"tuning": {"targets": ".*attn.*"}}, r"'\.\*attn\.\*' also matches \S+attn, .* such as \S+\.attn\.\w+"),
        ({"tuning": {"kind": "lokr", "targets": ["to_x"]}}, r"tuning\.targets: no layer's name ends in 'to_x'"),
        ({"tuning": {"kind": "full", "modules": "nothing"}}, r"tuning\.modules: 'nothing' matches no parameter"),
        (
            {"tuning": {"targets": ["x_embedder"]}, "conditioning": {"kind": "channel_concat", "signal": "gray"}},
            r"tuning\.targets: \['x_embedder'\] has x_embedder, which conditioning trains in full; leave it out",
        ),
    ],
)
def test_what_could_not_train_is_refused_before_anything_is_encoded(
    base: Tree, tmp_path: Path, sections: Tree, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(base, tmp_path / "run", cache={"path": str(tmp_path / "cache")}, **sections)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_components_of_different_types_train_and_draw(base: Tree, tmp_path: Path) -> None:
    """A float32 VAE and text encoder beside a bfloat16 transformer."""
    (tmp_path / "prompts.json").write_text('[{"prompt": "picture number 1", "num_inference_steps": 1}]')
    components = {name: {"dtype": "float32"} for name in ("vae", "text_encoder_2")}
    model = {"dtype": "bfloat16", "components": components}
    for kind in ("lora", "full"):
        directory = tmp_path / kind
        run(base, directory, model=model, tuning={"kind": kind}, validation={"prompts": str(tmp_path / "prompts.json")})
        assert (directory / "validation" / "step-000004" / "00.png").is_file()


def test_going_back_to_a_step_sets_aside_what_came_later(base: Tree, tmp_path: Path) -> None:
    """Later checkpoints, weights and validations are of a way that was given up: nobody resumes from them."""
    own_data = [{"path": str(Path(base["data"][0]["path"]).with_name("held-out")), "buckets": [[1, 64, 64]]}]
    sections = {"checkpoint": {"every": 1, "keep": 1}, "validation": {"every": 1, "data": own_data, "noise_levels": 1}}
    run(base, tmp_path / "run", **merged(sections, {"checkpoint": {"keep": 4}}))
    directory = run(base, tmp_path / "run", **merged(sections, {"checkpoint": {"resume": 1}, "train": {"steps": 2}}))
    checkpoints = Checkpoints(Path(directory) / "checkpoints", keep=1)
    assert checkpoints.find("latest") == 2
    assert sorted(f.name for f in (Path(directory) / "set-aside" / "0" / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000003",
        "step-000004",
    ]
    assert [e["step"] for e in events_of(directory) if e["event"] == "validation"] == [0, 1, 2, 3, 4, 2]


def test_a_damaged_checkpoint_is_passed_over_with_a_word_in_the_run(base: Tree, tmp_path: Path) -> None:
    whole = run(base, tmp_path / "whole", checkpoint={"every": 1, "keep": 3})
    directory = Path(run(base, tmp_path / "run", checkpoint={"every": 1, "keep": 3}))
    (directory / "checkpoints" / "step-000004" / "manifest.json").unlink()
    run(base, directory, checkpoint={"every": 1, "keep": 3})
    said = [event["message"] for event in events_of(directory) if event["event"] == "warning"]
    assert ["step-000004 is no whole checkpoint" in message for message in said] == [True]
    assert same_weights(directory, whole)


def test_a_signal_while_validating_saves_the_trained_weights(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after all samples are drawn, and not the averaged weights that are in the denoiser just then."""
    import signal

    from finetrainers.training.validation.validate import HeldOut

    own_data = [{"path": str(Path(base["data"][0]["path"]).with_name("held-out")), "buckets": [[1, 64, 64]]}]
    validation = {"data": own_data, "noise_levels": 1, "every": 2}
    sections = {"train": {"ema_decay": 0.5, "steps": 6}, "optimizer": {"lr": 0.05}, "validation": validation}
    whole = run(base, tmp_path / "whole", **sections)
    losses = HeldOut._losses

    def signalled(self: Any, trainer: Any, *rest: Any) -> torch.Tensor:
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "_losses", signalled)
        with pytest.raises(Interrupted, match="SIGTERM while validating"):
            run(base, tmp_path / "stopped", **sections)
    assert Checkpoints(tmp_path / "stopped" / "checkpoints", keep=1).steps() == [2]
    run(base, tmp_path / "stopped", **sections)
    assert curve(tmp_path / "stopped", *LOSSES) == curve(whole, *LOSSES)
    assert same_weights(tmp_path / "stopped", whole)


@pytest.mark.parametrize("background, seen", [(False, 2), (True, 3)])
def test_weights_that_cannot_be_written_are_a_clear_error(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool, seen: int
) -> None:
    """A full disk in the export: nothing half-written; where there is room for the checkpoint, its steps are kept.

    Beside training, the next step is taken before it is seen.
    """
    from safetensors import SafetensorError

    from finetrainers.tuning.lora import AdapterTuning

    export = AdapterTuning.export

    def full(self: Any, denoiser: Any, tensors: Any, directory: Path, facts: Any) -> None:
        export(self, denoiser, tensors, directory, facts)
        if directory.name == ".step-000002.tmp":
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(AdapterTuning, "export", full)
    with pytest.raises(CheckpointError, match="the weights cannot be written: .*No space left"):
        run(base, tmp_path / "run", checkpoint={"every": 1, "background": background})
    assert Checkpoints(tmp_path / "run" / "checkpoints", keep=1).find("latest") == seen
    weights = sorted(folder.name for folder in (tmp_path / "run" / "weights").iterdir())
    assert weights == (["step-000001", "step-000003"] if background else ["step-000001"])
    said = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    assert said[0] == f"the checkpoint of step {seen} is saved: the same command continues from there"
    assert background or re.match(r"the weights of step 2 cannot be saved \(.*; the checkpoint of step 2 is kept$", said[1])


def test_the_report_is_of_this_run_alone(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was given up before its first checkpoint leaves its events, but not its numbers."""
    with monkeypatch.context() as patch:
        patch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(Poison(13)))
        with pytest.raises(NonFiniteError):
            run(base, tmp_path / "run", train={"steps": 6}, optimizer={"lr": 0.5})
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as if it had been killed instead
    result = train(config_of(merged(base, {"output_dir": str(tmp_path / "run"), "train": {"steps": 2}})))
    assert result.report["last_loss"] == curve(base["output_dir"], "loss")[1][0]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_is_gone_is_one_message(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Another run may have removed it; no traceback of a worker is in the message."""
    from finetrainers import DataError

    said = "cache.path: x is gone or damaged; start this run again"

    def gone(*_: Any) -> Any:
        raise DataError(said)

    monkeypatch.setattr("finetrainers.data.loader.read_samples", gone)
    with pytest.raises(DataError) as caught:
        run(base, tmp_path / "run", loader={"workers": workers})
    assert str(caught.value) == said


def test_gradient_checkpointing_changes_nothing_but_memory(base: Tree, tmp_path: Path) -> None:
    """With dropout: recomputation must draw what the first pass drew."""
    dropout = {"tuning": {"dropout": 0.5}}
    one = run(base, tmp_path / "one", **dropout)
    other = run(base, tmp_path / "other", **dropout, train={"gradient_checkpointing": True})
    torch.testing.assert_close(torch.tensor(curve(other, *LOSSES)), torch.tensor(curve(one, *LOSSES)), rtol=1e-5, atol=0)


def test_lora_over_a_bfloat16_base_is_held_in_float32(base: Tree, tmp_path: Path) -> None:
    state = weights(run(base, tmp_path / "run", model={"dtype": "bfloat16"}, optimizer={"lr": 1e-6}))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert any(tensor.any() for name, tensor in state.items() if "lora_B" in name)


def test_full_rank_over_bfloat16_keeps_small_updates(base: Tree, tmp_path: Path) -> None:
    """Updates of 1e-6 vanish in bfloat16 weights of size 1: they must be summed in float32."""
    from safetensors.torch import load_file as load

    sections = {"model": {"dtype": "bfloat16"}, "tuning": {"kind": "full"}, "optimizer": {"lr": 1e-6}, "train": {"steps": 2}}
    directory = run(base, tmp_path / "run", **sections)
    exported = weights(directory)
    assert {tensor.dtype for tensor in exported.values()} == {torch.bfloat16}
    original = load(next((Path(base["model"]["path"]) / "transformer").glob("*.safetensors")))
    assert all((exported[n].float() - original[n]).abs().max() < 0.05 for n in original)
    state = Checkpoints(Path(directory) / "checkpoints", keep=1)
    assert state.steps() == [2]


def test_only_the_named_modules_train_in_full(base: Tree, tmp_path: Path) -> None:
    original = load_file(next((Path(base["model"]["path"]) / "transformer").glob("*.safetensors")))
    changed = weights(run(base, tmp_path / "run", tuning={"kind": "full", "modules": r"^proj_out\."}))
    moved = {name for name in original if not torch.equal(original[name], changed[name])}
    assert moved == {"proj_out.weight", "proj_out.bias"}


def test_pickles_among_weights_are_not_read(base: Tree, tmp_path: Path) -> None:
    """diffusers takes a .bin where there is no safetensors."""
    full = {"model": {"dtype": "float32"}, "tuning": {"kind": "full", "modules": "norm"}}
    weights = Path(run(base, tmp_path / "run", **full)) / "weights/step-000004"
    (file,) = (weights / "transformer").glob("*.safetensors")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    start = merged(full, {"tuning": {"start_from": str(weights)}})
    with pytest.raises(ConfigError, match=r"tuning\.start_from: .* does not fit"):
        run(base, tmp_path / "next", **start)


def test_a_module_that_is_not_there_is_an_error(base: Tree, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tuning\.modules: 'nothing' matches no parameter"):
        run(base, tmp_path / "one", tuning={"kind": "full", "modules": "nothing"})
    with pytest.raises(ConfigError, match=r"tuning\.targets: no layer's name ends in 'to_x'"):
        run(base, tmp_path / "other", tuning={"targets": ["to_q", "to_x"]})
    with pytest.raises(ConfigError, match=r"tuning\.targets: no layer's full name matches 'to_q'"):
        run(base, tmp_path / "third", tuning={"targets": "to_q"})


SCRIPT = """
import json, sys
from finetrainers import train
from finetrainers.config import parse_config
train(parse_config(json.loads(sys.argv[1])))
"""


@pytest.mark.long
def test_a_script_that_ends_with_an_error_waits_for_no_worker(tiny_flux: Path, tmp_path: Path) -> None:
    """Loader workers ignore the signals of job managers, so they have to be ended before the process can end."""
    tree = flux_tree(
        tiny_flux,
        write_pictures(tmp_path / "data", 6),
        tmp_path,
        optimizer={"name": "sgd", "lr": 1e30},
        train={"steps": 500, "clip_norm": 1e30},
        loader={"workers": 1},
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(tree)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "NonFiniteError" in done.stderr


class Breaks:
    """Fails with an error of its own at its n-th call, before the call or after it."""

    def __init__(self, call: Any, number: int, *, after: bool = False, error: BaseException | None = None) -> None:
        self._call, self._left, self._after = call, number, after
        self._error = RuntimeError("a defect") if error is None else error

    def __get__(self, owner: Any, _: Any) -> Any:
        return self if owner is None else partial(self, owner)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise self._error
        result = self._call(*arguments, **options)
        if self._left == 0:
            raise self._error
        return result


def own_data(base: Tree) -> Tree:
    held_out = Path(base["data"][0]["path"]).with_name("held-out")
    return {"data": [{"path": str(held_out), "buckets": [[1, 64, 64]]}], "noise_levels": 1}


BREAKS = {  # place -> (what breaks, at which call, its error, steps that were taken then)
    "loader": ("finetrainers.data.loader.make_batch", 4, DataError("an item is gone"), 3),
    "forward pass": (
        "finetrainers.training.trainer.Trainer.micro_losses",
        4,
        torch.OutOfMemoryError("CUDA out of memory."),
        3,
    ),
    "backward pass": ("torch.Tensor.backward", 4, RuntimeError("a defect"), 3),
    "validation": ("finetrainers.training.validation.validate.HeldOut._losses", 9, RuntimeError("a defect"), 2),
    "log": ("finetrainers.training.run.StepLog.__call__", 3, OSError(28, "No space left on device"), 3),
    "Ctrl-C elsewhere": ("finetrainers.training.run.StepLog.__call__", 3, KeyboardInterrupt(), 3),
}


@pytest.fixture(scope="module")
def unbroken(base: Tree, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A run that nothing ends early, with all that a checkpoint holds."""
    sections = {
        "output_dir": str(tmp_path_factory.mktemp("unbroken") / "run"),
        "train": {"ema_decay": 0.5, "steps": 6},
        "validation": {**own_data(base), "every": 2},
        "tuning": {"dropout": 0.3},
    }
    tree = merged(base, sections)
    train(config_of(tree))
    return tree


@pytest.mark.parametrize("place", BREAKS)
def test_an_error_saves_the_steps_before_it(
    unbroken: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Whatever it is: the steps since the last checkpoint are kept, the error is what is said, and the run can go on."""
    target, number, error, steps = BREAKS[place]
    with monkeypatch.context() as patch:
        patch.setattr(target, Breaks(resolve(target), number, after="Log" in target, error=error))
        with pytest.raises((type(error), ConfigError, StorageError)) as raised:
            run(unbroken, tmp_path / "broken")
    assert error in (raised.value, raised.value.__cause__)
    assert Checkpoints(tmp_path / "broken" / "checkpoints", keep=1).find("latest") == steps
    assert (tmp_path / "broken" / "weights" / f"step-{steps:06d}").is_dir()
    said = [event for event in events_of(tmp_path / "broken") if event["event"] == "warning"]
    assert [(event["step"], event["message"]) for event in said] == [
        (steps, f"the checkpoint of step {steps} is saved: the same command continues from there")
    ]
    run(unbroken, tmp_path / "broken")
    assert [e["resumed_from"] for e in events_of(tmp_path / "broken") if e["event"] == "run"] == [None, steps]
    assert curve(tmp_path / "broken", *LOSSES) == curve(unbroken["output_dir"], *LOSSES)
    assert same_weights(tmp_path / "broken", unbroken["output_dir"])


def resolve(target: str) -> Any:
    """What stands at a dotted place."""
    import pkgutil

    return pkgutil.resolve_name(target)


def test_an_error_in_a_later_window_saves_the_steps_before_it(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetrainers.data.cache.store import Cache

    sections = {"train": {"batch_size": 1, "micro_batch_size": 1}}
    whole = run(base, tmp_path / "whole", **merged(sections, {"cache": {"path": str(tmp_path / "whole-cache")}}))
    size = sum(entry.bytes for entry in Cache(tmp_path / "whole-cache").entries())
    windows = merged(sections, {"cache": {"path": str(tmp_path / "cache"), "max_gb": 0.6 * size / 1e9}})
    with monkeypatch.context() as patch:
        encode_steps = resolve("finetrainers.training.run.encode_steps")
        patch.setattr("finetrainers.training.run.encode_steps", Breaks(encode_steps, 2, error=DataError("a clip is broken")))
        with pytest.raises(DataError, match="a clip is broken"):
            run(base, tmp_path / "broken", **windows)
    (steps,) = Checkpoints(tmp_path / "broken" / "checkpoints", keep=1).steps()
    assert 0 < steps < 4
    run(base, tmp_path / "broken", **windows)
    assert curve(tmp_path / "broken", *LOSSES) == curve(whole, *LOSSES)
    assert same_weights(tmp_path / "broken", whole)


@pytest.mark.parametrize("place", ["the update", "the averages", "the way back from the averages"])
def test_a_state_between_two_steps_is_never_saved(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The weights of one step with the averages of another would go on as a run that never was."""
    target = {
        "the update": "torch.optim.AdamW.step",
        "the averages": "diffusers.training_utils.EMAModel.step",
        "the way back from the averages": "diffusers.training_utils.EMAModel.restore",
    }[place]
    monkeypatch.setattr(target, Breaks(resolve(target), 2, after=place == "the update"))
    validation = {**own_data(base), "every": 1}
    with pytest.raises(RuntimeError, match="a defect"):
        run(base, tmp_path / "run", train={"ema_decay": 0.5}, validation=validation)
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    (said,) = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    assert said == "the state of step 1 cannot be saved (an update was cut off in the middle); there is no checkpoint yet"


def test_a_save_that_fails_does_not_hide_the_error_that_led_to_it(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.stage
    monkeypatch.setattr("finetrainers.training.trainer.Trainer.micro_losses", Bound(Poison(13)))
    monkeypatch.setattr(Checkpoints, "stage", Breaks(save, 2, error=CheckpointError("the disk is full")))
    with pytest.raises(NonFiniteError, match="step 4"):
        run(base, tmp_path / "run", checkpoint={"every": 2})
    assert Checkpoints(tmp_path / "run" / "checkpoints", keep=1).steps() == [2]
    (said,) = [event["message"] for event in events_of(tmp_path / "run") if event["event"] == "warning"]
    assert said == "the state of step 3 cannot be saved (the disk is full); the checkpoint of step 2 is kept"


def test_a_checkpoint_that_could_not_be_written_is_not_tried_again(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "write", Breaks(Checkpoints.write, 1, error=CheckpointError("the disk is full")))
    with pytest.raises(CheckpointError, match="the disk is full"):
        run(base, tmp_path / "run", checkpoint={"every": 2, "background": False})
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
