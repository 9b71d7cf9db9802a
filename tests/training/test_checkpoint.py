"""Checkpoints: whole or not there, rotated only after the new one is whole, and never half restored."""

import json
import os
import pickle
import resource
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_trainers import bare_trainer
from torch import nn

from finetrainers.config import OptimizerConfig
from finetrainers.errors import CheckpointError
from finetrainers.files.whole import MANIFEST, damage, whole_directory
from finetrainers.optim.optimizers import build_optimizer
from finetrainers.optim.update import Update
from finetrainers.sampling.sample import find_weights
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.trainer import Trainer


def trainer(width: int = 64, step: int = 0, optimizer: str = "adamw") -> Trainer:
    """A trainer of one layer that has taken ``step`` steps; nothing but its state matters here."""
    torch.manual_seed(0)
    layer = nn.Linear(width, width)
    update = Update(
        layer,
        dict(layer.named_parameters()),
        make_optimizer=torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD,
        make_schedule=lambda made: torch.optim.lr_scheduler.LambdaLR(made, lambda s: 1 / (s + 1)),
        clip_norm=1.0,
    )
    result = bare_trainer(layer, update)
    for _ in range(step):
        layer(torch.randn(3, width)).square().mean().backward()
        update.optimizer.step()
        update.schedule.step()
        update.drop_gradients()
        result.step += 1
    return result


def same(a: Trainer, b: Trainer) -> bool:
    states = [
        [*t.denoiser.state_dict().values(), *(v for s in t.update.optimizer.state.values() for v in s.values())]
        for t in (a, b)
    ]
    return a.step == b.step and all(torch.equal(x, y) for x, y in zip(*states, strict=True))


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(trainer(step=step))
    assert checkpoints.steps() == [2, 3]
    assert checkpoints.latest() == 3


def test_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    before = trainer(step=3)
    Checkpoints(tmp_path, keep=2).save(before)
    after = trainer()
    Checkpoints(tmp_path, keep=2).restore(after, 3)
    assert same(before, after)
    assert after.update.schedule.get_last_lr() == before.update.schedule.get_last_lr()


@pytest.mark.parametrize("damage", ["manifest", "file", "byte", "truncated"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(trainer(step=step))
    newest = tmp_path / "step-000002"
    data = max(newest.rglob("*.safetensors"), key=lambda file: file.stat().st_size)
    match damage:
        case "manifest":
            (newest / "manifest.json").unlink()
        case "file":
            data.unlink()
        case "byte":
            contents = bytearray(data.read_bytes())
            contents[len(contents) // 2] ^= 1
            data.write_bytes(contents)
        case "truncated":
            data.write_bytes(data.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="step-000002 is no whole checkpoint and is skipped"):
        assert checkpoints.latest() == 1
    with pytest.raises(CheckpointError, match="no whole checkpoint of step 2"):
        checkpoints.find(2)


def test_only_damaged_checkpoints_are_an_error_not_a_start_from_zero(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(trainer(step=1))
    (tmp_path / "step-000001" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(CheckpointError, match="all checkpoints are damaged"):
        checkpoints.find("latest")


def test_no_checkpoint_is_a_start(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, keep=2).find("latest") is None


def test_another_model_does_not_fit(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=2).save(trainer(step=1))
    with pytest.raises(CheckpointError, match="does not fit this configuration: its model.bias has another shape"):
        Checkpoints(tmp_path, keep=2).restore(trainer(width=32), 1)


def test_another_optimizer_does_not_fit(tmp_path: Path) -> None:
    """AdamW's averages have no place in SGD: leaving them out would be a silent restart."""
    Checkpoints(tmp_path, keep=2).save(trainer(step=1))
    with pytest.raises(CheckpointError, match=r"it has optimizer\.state\..*, which the run has no place for"):
        Checkpoints(tmp_path, keep=2).restore(trainer(optimizer="sgd"), 1)


def change_state(directory: Path, change: Any) -> None:
    """Change what a checkpoint says, and make it whole again."""
    tree = json.loads((directory / "state.json").read_text())
    change(tree["state"]["dict"])
    contents = {file.name: file.read_bytes() for file in directory.iterdir() if file.name != MANIFEST}
    with whole_directory(directory) as temporary:
        for name, data in contents.items():
            (temporary / name).write_bytes(json.dumps(tree).encode() if name == "state.json" else data)


LACKING = {
    "model.weight": lambda state: state["model"]["dict"].pop("weight"),
    "optimizer.state.bias.exp_avg": lambda state: state["optimizer"]["dict"]["state"]["dict"]["bias"]["dict"].pop("exp_avg"),
    "optimizer.param_groups.0.lr": lambda state: state["optimizer"]["dict"]["param_groups"][0]["dict"].pop("lr"),
    "schedule.last_epoch": lambda state: state["schedule"]["dict"].pop("last_epoch"),
    "num_skipped": lambda state: state.pop("num_skipped"),
}


@pytest.mark.parametrize("key", LACKING)
def test_what_the_checkpoint_lacks_is_an_error(tmp_path: Path, key: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    change_state(checkpoints.save(trainer(step=1)), LACKING[key])
    fresh = trainer()
    with pytest.raises(CheckpointError, match=rf"it lacks {key}, which the run needs"):
        checkpoints.restore(fresh, checkpoints.find("latest") or 0)
    assert torch.equal(fresh.denoiser.weight, trainer().denoiser.weight)


def test_a_further_group_of_parameters_has_no_place(tmp_path: Path) -> None:
    def add(state: Any) -> None:
        groups = state["optimizer"]["dict"]["param_groups"]
        groups.append(groups[0])

    checkpoints = Checkpoints(tmp_path, keep=2)
    change_state(checkpoints.save(trainer(step=1)), add)
    with pytest.raises(CheckpointError, match=r"it has optimizer\.param_groups\.1\..*, which the run has no place for"):
        checkpoints.restore(trainer(), 1)


def test_betas_are_a_tuple_again(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=2).save(trainer(step=1))
    after = trainer()
    Checkpoints(tmp_path, keep=2).restore(after, 1)
    assert repr(after.update.optimizer.param_groups[0]["betas"]) == "(0.9, 0.999)"


def test_averages_that_began_as_another_shape_come_back(tmp_path: Path) -> None:
    """Prodigy keeps a single zero of weights that begin as zeros; those that were trained before begin as others."""

    def prodigy(weight: float) -> Trainer:
        result = trainer()
        nn.init.constant_(result.denoiser.weight, weight)
        result.update.optimizer = build_optimizer(OptimizerConfig(name="prodigy", lr=1.0), result.denoiser.parameters())
        result.update.schedule = torch.optim.lr_scheduler.LambdaLR(result.update.optimizer, lambda s: 1.0)
        return result

    before, after = prodigy(0.5), prodigy(0.0)
    before.denoiser(torch.randn(3, 64)).square().mean().backward()
    before.update.optimizer.step()
    before.step = 1
    Checkpoints(tmp_path, keep=1).save(before)
    Checkpoints(tmp_path, keep=1).restore(after, 1)
    begun, restored = (t.update.optimizer.state[t.denoiser.weight]["p0"] for t in (before, after))
    assert begun.shape == (64 * 64,)
    assert torch.equal(begun, restored)


# -- what is no checkpoint --------------------------------------------------------------------------------------------


STRAYS = (
    "step-000500-backup",
    "step-backup",
    "step-2",
    "step-0000002",
    "step-000002.zip",
    "step-\u0661\u0661\u0661\u0661\u0661\u0661",
    "notes",
)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_what_else_lies_among_the_steps_is_left_alone(tmp_path: Path, make: Any) -> None:
    """A backup of a step, or a file: it neither counts nor is it moved or removed."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    places = [tmp_path / kind / name for kind in ("checkpoints", "weights", "validation") for name in STRAYS]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        make(place)
    assert checkpoints.find("latest") is None
    for step in (1, 2):
        checkpoints.save(trainer(step=step))
        with whole_directory(tmp_path / "weights" / f"step-{step:06d}") as temporary:
            (temporary / "weights").touch()
    assert checkpoints.steps() == [2]
    assert find_weights(tmp_path, None).name == "step-000002"
    checkpoints.set_aside(1)
    assert checkpoints.steps() == []
    assert find_weights(tmp_path, None).name == "step-000001"
    assert all(place.exists() for place in places)


def test_the_last_step_is_that_of_the_largest_number(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        with whole_directory(tmp_path / "weights" / f"step-{step:06d}") as temporary:
            (temporary / "weights").touch()
    assert find_weights(tmp_path, None).name == "step-1000000"


def test_what_was_set_aside_before_is_never_overwritten(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    (tmp_path / "set-aside" / "1" / "checkpoints").mkdir(parents=True)  # the user has removed 0
    checkpoints.save(trainer(step=1))
    checkpoints.set_aside(-1)
    assert sorted(folder.name for folder in (tmp_path / "set-aside").iterdir()) == ["1", "2"]


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["state/.metadata", "state/__0_0.distcp", "state.json", "state-00000.safetensors"])
def test_nothing_of_a_checkpoint_is_unpickled(tmp_path: Path, name: str) -> None:
    """Whoever hands on a run directory must not be able to run code on the machine that goes on with it."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    directory = checkpoints.save(trainer(step=1))
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    contents = {file.name: file.read_bytes() for file in directory.iterdir() if file.name != MANIFEST}
    with whole_directory(directory) as temporary:
        for other, data in {**contents, name: trap}.items():
            (temporary / other).parent.mkdir(exist_ok=True)
            (temporary / other).write_bytes(data)
    assert damage(directory) is None
    if name == "state/__0_0.distcp":  # nothing reads it
        checkpoints.restore(trainer(), checkpoints.find("latest") or 0)
    else:
        with pytest.raises(CheckpointError):
            checkpoints.restore(trainer(), checkpoints.find("latest") or 0)
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_an_earlier_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """Its metadata are a pickle. torch's own writer made it, as it did then."""
    from torch.distributed.checkpoint.state_dict_saver import save

    checkpoints = Checkpoints(tmp_path, keep=2)
    with whole_directory(tmp_path / "step-000001") as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save({"step": 1, "weight": torch.ones(2)}, checkpoint_id=temporary / "state", no_dist=True)
    for asked in ("latest", 1):
        with pytest.raises(CheckpointError, match="earlier version.*can run code.*new output_dir.*tuning.start_from"):
            checkpoints.find(asked)


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the end of the disk: the same OSError comes out of the same write."""
    import signal

    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(trainer(step=1))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written .*earlier ones are as they were"):
            checkpoints.save(trainer(step=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints.steps() == [1]
    assert checkpoints.find("latest") == 1
    assert not [folder for folder in tmp_path.iterdir() if folder.name.startswith(".")]
    restored = trainer()
    checkpoints.restore(restored, 1)
    assert same(restored, trainer(step=1))


def test_what_a_kill_left_behind_is_replaced(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    directory = checkpoints.save(trainer(step=1))
    shutil.copytree(directory, tmp_path / ".step-000002.tmp")
    assert checkpoints.steps() == [1]
    checkpoints.save(trainer(step=2))
    assert checkpoints.steps() == [1, 2]
    assert not (tmp_path / ".step-000002.tmp").exists()
