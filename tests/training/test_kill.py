"""kill -9 at any moment: started again, a run ends with the weights of the one that nobody killed, bit for bit."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from runs import adapter_file, config_of, curve, events_of, flux_tree, merged, write_pictures
from safetensors.torch import load_file

from finetrainers import train
from finetrainers.config import Config
from finetrainers.testing.control import assert_equal_files
from finetrainers.testing.model_under_test import FULL, LORA, ModelUnderTest

NUM_KILLS = 20
PATIENCE_SECONDS = 120


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter_file(directory / "weights" / "step-000040"))


class Child:
    """A run in a process of its own: not forked from here, where threads and perhaps a GPU are in use."""

    def __init__(self, config: Config) -> None:
        self._process = context(config).Process(target=run_in_child, args=(config,))
        self._process.start()

    def wait(self, seconds: float) -> int | None:
        """Wait for its end; its exit status, or None if it is still running after that time."""
        self._process.join(seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        self._process.kill()
        assert self.wait(PATIENCE_SECONDS) in (-signal.SIGKILL, 0)  # 0: it was quicker


def context(config: Config) -> Any:
    """How children begin: from a process that has imported all and used nothing; on a GPU, from nothing at all."""
    if config.train.device != "cpu":
        return multiprocessing.get_context("spawn")
    return ranks.context()


def run_in_child(config: Config) -> None:
    """Train; what is said goes into a file beside the run."""
    multiprocessing.set_start_method("fork", force=True)  # of its own processes, as where it was started by a shell
    os.fsync = lambda _: None  # as in all tests
    with config.output_dir.with_suffix(".log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        if config.train.device != "cpu":
            torch.use_deterministic_algorithms(True)
        train(config)


@pytest.mark.slow
def test_killed_at_twenty_moments_it_ends_with_the_same_weights(tiny_flux: Path, tmp_path: Path) -> None:
    """Checkpoints at every second step, so that many kills hit a save; the first ones hit the encoding."""
    data = write_pictures(tmp_path / "data", 6)
    tree = flux_tree(tiny_flux, data, tmp_path, train={"steps": 40, "ema_decay": 0.9}, checkpoint={"every": 2, "keep": 2})
    whole = merged(tree, {"output_dir": str(tmp_path / "whole"), "cache": {"path": str(tmp_path / "whole-cache")}})
    first = context(config_of(whole)).Process(target=int)  # before which all has to be imported
    first.start()
    first.join()
    began = time.monotonic()
    assert Child(config_of(whole)).wait(3600) == 0
    duration = time.monotonic() - began
    chance = random.Random(4)
    kills = 0
    resumed_from: set[int | None] = set()
    while True:
        child = Child(config_of(tree))
        patience = chance.uniform(0.05, 0.8 * duration) if kills < NUM_KILLS else 300
        status = child.wait(patience)
        if status is None:
            child.kill()
            kills += 1
            continue
        assert status == 0, (tmp_path / "run.log").read_text()[-2000:]
        resumed_from |= {e["resumed_from"] for e in events_of(tmp_path / "run") if e["event"] == "run"}
        if kills >= NUM_KILLS:
            break
        # It finished before all kills were spent: begin a new run, with the cache that is there.
        check(tmp_path)
        Path(tree["output_dir"]).rename(tmp_path / f"finished-{len(list(tmp_path.glob('finished-*')))}")
    check(tmp_path)
    assert kills == NUM_KILLS
    assert len(resumed_from) > 1


def test_a_killed_run_can_be_started_again_at_once(tiny_flux: Path, tmp_path: Path) -> None:
    """Its loader workers outlive it by seconds; they must not hold its directory."""
    data = write_pictures(tmp_path / "data", 4)
    tree = flux_tree(tiny_flux, data, tmp_path, train={"steps": 200}, loader={"workers": 1}, checkpoint={"every": 5})
    child = Child(config_of(tree))
    checkpoints = tmp_path / "run" / "checkpoints"
    while not list(checkpoints.glob("step-*")):
        assert child.wait(0.05) is None, (tmp_path / "run.log").read_text()[-2000:]
    child.kill()
    steps = max(int(folder.name.removeprefix("step-")) for folder in checkpoints.glob("step-*"))
    again = Child(config_of(merged(tree, {"train": {"steps": steps + 1}})))
    assert again.wait(PATIENCE_SECONDS) == 0, (tmp_path / "run.log").read_text()[-2000:]


ON_GPU: dict[str, tuple[str, tuple[int, int, int], Mapping[str, Any]]] = {
    "flux": ("dev", (1, 64, 64), LORA),
    "ltx_video": ("0.9.0", (9, 64, 64), LORA),
    "wan": ("2.1-t2v", (9, 64, 64), FULL),
}


def killed_and_whole(subject: ModelUnderTest, tuning: Mapping[str, Any], device: str) -> tuple[Path, Path]:
    """Two run directories: of a run that was killed behind a checkpoint and started again, and of one that nobody killed."""
    keys: dict[str, Any] = {"model": {"dtype": "bfloat16"}, "checkpoint": {"every": 2}}
    keys["train"] = {"steps": 60, "gradient_checkpointing": True, "ema_decay": 0.9, "device": device}
    killed, whole = (subject.config(name, tuning, **keys) for name in ("killed", "whole"))
    child = Child(killed)
    while not len(list((killed.output_dir / "checkpoints").glob("step-*"))) > 1:
        assert child.wait(0.01) is None, killed.output_dir.with_suffix(".log").read_text()[-2000:]
    child.kill()
    for config in (killed, whole):
        assert Child(config).wait(PATIENCE_SECONDS) == 0, config.output_dir.with_suffix(".log").read_text()[-2000:]
    assert any(event["resumed_from"] for event in events_of(killed.output_dir) if event["event"] == "run")
    return killed.output_dir, whole.output_dir


@pytest.mark.gpu
@pytest.mark.parametrize("family", ON_GPU)
def test_on_a_gpu_a_killed_run_ends_with_the_same_bits(
    family: str, tiny: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, with kernels that repeat their bits; all in children, which use CUDA first."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    variant, size, tuning = ON_GPU[family]
    subject = ModelUnderTest({"path": str(tiny(family, variant))}, size, tmp_path)
    killed, whole = killed_and_whole(subject, tuning, "cuda")
    assert curve(killed, "loss", "grad_norm") == curve(whole, "loss", "grad_norm")
    assert_equal_files(whole / "weights", killed / "weights", "the run that was killed")


def check(root: Path) -> None:
    """The run equals the one that nobody killed: curve and weights."""
    assert curve(root / "run", "loss", "grad_norm") == curve(root / "whole", "loss", "grad_norm")
    killed, whole = weights_of(root / "run"), weights_of(root / "whole")
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
