"""Checkpoints: whole or not there, rotated only after the new one is whole, and never half restored."""

import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetrainers.checkpoint import Checkpoints
from finetrainers.config import TrainConfig
from finetrainers.errors import CheckpointError
from finetrainers.loop import Trainer


def trainer(width: int = 64, step: int = 0, optimizer: str = "adamw") -> Trainer:
    """A trainer of one layer that has taken ``step`` steps; nothing but its state matters here."""
    torch.manual_seed(0)
    layer = nn.Linear(width, width)
    made: Any = torch.optim.AdamW(layer.parameters()) if optimizer == "adamw" else torch.optim.SGD(layer.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda s: 1 / (s + 1))
    nothing: Any = None
    result = Trainer(
        config=TrainConfig(), seed=0, adapter=nothing, denoiser=layer, conditioning=nothing, objective=nothing,
        optimizer=made, schedule=schedule, device=torch.device("cpu"),
    )  # fmt: skip
    for _ in range(step):
        layer(torch.randn(3, width)).square().mean().backward()
        made.step()
        schedule.step()
        made.zero_grad()
        result.step += 1
    return result


def same(a: Trainer, b: Trainer) -> bool:
    states = [
        [*t.denoiser.state_dict().values(), *(v for s in t.optimizer.state.values() for v in s.values())] for t in (a, b)
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
    assert after.schedule.get_last_lr() == before.schedule.get_last_lr()


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
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        Checkpoints(tmp_path, keep=2).restore(trainer(width=32), 1)


def test_another_optimizer_does_not_fit(tmp_path: Path) -> None:
    """AdamW's averages have no place in SGD: leaving them out would be a silent restart."""
    Checkpoints(tmp_path, keep=2).save(trainer(step=1))
    with pytest.raises(CheckpointError, match=r"it has optimizer\.state\..*, which the run has no place for"):
        Checkpoints(tmp_path, keep=2).restore(trainer(optimizer="sgd"), 1)


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
