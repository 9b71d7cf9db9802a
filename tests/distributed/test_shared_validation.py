"""Validation on several processes: the files and figures of one, by however many, and they leave it together."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import ranks
from runs import Tree, config_of, events_of, flux_tree, merged, write_pictures

from finetrainers import train
from finetrainers.cli.status import INTERRUPTED
from finetrainers.config import dump_config

PROMPTS = [{"prompt": f"picture number {number}", "num_inference_steps": 2, "seed": number} for number in range(3)]
PATIENCE_SECONDS = 600.0
"""What never takes that long may, on a machine that does other things."""
FORWARD_PASSES = 6
"""Of the held-out loss: three samples at two levels."""
FIGURES = ("held_out_loss", "held_out_bins", "held_out_samples", "samples", "step")


@pytest.fixture(scope="module")
def tree(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """No training, so that the weights are the same to the last bit; encoded, and validated by one process."""
    root = tmp_path_factory.mktemp("validation")
    (root / "prompts.jsonl").write_text("\n".join(map(json.dumps, PROMPTS)))
    held_out = [{"path": str(write_pictures(root / "held-out", 3, seed=1)), "buckets": [[1, 64, 64]]}]
    validation = {"data": held_out, "noise_levels": 2, "prompts": str(root / "prompts.jsonl")}
    train_of = {"steps": 0, "micro_batch_size": 1, "ema_decay": 0.5}
    whole = flux_tree(tiny_flux, write_pictures(root / "data", 4), root, train=train_of, validation=validation)
    train(config_of(whole))
    return whole


def saved(tree: Tree, tmp_path: Path, **sections: Any) -> str:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_of(merged(tree, {"output_dir": str(tmp_path / "run"), **sections}))))
    return str(file)


def contents(run: Path | str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((Path(run) / "validation/step-000000").iterdir())}


def figures(run: Path | str) -> list[tuple[Any, ...]]:
    return [tuple(e[name] for name in FIGURES) for e in events_of(run) if e["event"] == "validation"]


def train_noted(file: str, log: Path) -> int:
    """Train, and note which process drew what."""
    from finetrainers.sampling.sampler import Sampler

    frames, rank = Sampler.frames, os.environ["RANK"]

    def noted(self: Any, request: Any, *rest: Any, **options: Any) -> Any:
        with log.open("a") as out:
            out.write(f"{rank} {request.prompt}\n")
        return frames(self, request, *rest, **options)

    Sampler.frames = noted  # type: ignore[method-assign]
    return ranks.command("train", file)


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.distributed)])
def test_any_number_of_prompts_on_any_number_of_processes(tree: Tree, tmp_path: Path, count: int) -> None:
    """Three prompts, held-out samples and items: files and losses of one process, byte for byte; each drawn once."""
    log, one = tmp_path / "log", merged(tree, {"output_dir": str(tmp_path / "one"), "validation": {"items": 3}})
    train(config_of(one))
    assert ranks.results(train_noted, count, saved(one, tmp_path), log, folder=tmp_path / "ranks") == count * [0]
    assert contents(tmp_path / "run") == contents(one["output_dir"])
    assert figures(tmp_path / "run") == figures(one["output_dir"])
    items = [
        [e["items"] for e in events_of(run) if e["event"] == "validation"] for run in (tmp_path / "run", tmp_path / "one")
    ]
    assert items[0] == items[1]
    assert items[0][0]["items"] == 3
    drawn = [line.partition(" ") for line in log.read_text().splitlines()]
    assert sorted(prompt for _, _, prompt in drawn) == [own["prompt"] for own in PROMPTS]
    assert {rank for rank, _, _ in drawn} == {str(rank) for rank in range(min(count, 3))}


def end_in_step(file: str, step: int) -> int:
    """Train, with a signal to the second process at some step of a validation; return how many it took, and the status."""
    from finetrainers.training.validation.pace import Pace

    between, calls = Pace.between, 0

    def counted(self: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == step and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        between(self)

    Pace.between = counted  # type: ignore[method-assign]
    status = ranks.command("train", file)
    return 1000 * calls + status


def hang_in_a_draw(file: str, begun: Path) -> int:
    """Train; each layer of the denoiser takes long while a sample is drawn."""
    from finetrainers.training.validation.pace import Pace

    within, calls = Pace.within, 0

    def slow(self: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > FORWARD_PASSES:
            (begun / os.environ["RANK"]).touch()
        time.sleep(0.1)
        within(self)

    Pace.within = slow  # type: ignore[method-assign]
    return ranks.command("train", file)


def test_a_signal_to_one_process_stops_the_validation_of_all(tree: Tree, tmp_path: Path) -> None:
    """Long before the samples are drawn, with status 3, and nothing half-done; the same command goes on."""
    begun = tmp_path / "begun"
    begun.mkdir()
    (tmp_path / "long.jsonl").write_text("\n".join(json.dumps({**own, "num_inference_steps": 1000}) for own in PROMPTS))
    long = saved(tree, tmp_path, validation={"prompts": str(tmp_path / "long.jsonl")})
    running = ranks.start(hang_in_a_draw, 2, long, begun, folder=tmp_path / "stopped")
    until = time.monotonic() + PATIENCE_SECONDS
    while {file.name for file in begun.iterdir()} < {"0", "1"}:
        assert time.monotonic() < until, "nothing is drawn"
        time.sleep(0.05)
    os.kill(running.processes[1].pid or 0, signal.SIGTERM)
    assert [ended.result for ended in running.wait()] == [INTERRUPTED, INTERRUPTED]
    assert not list((tmp_path / "run/validation").glob("*step*"))
    assert ranks.results(ranks.command, 2, "train", saved(tree, tmp_path), folder=tmp_path / "again") == [0, 0]
    assert contents(tmp_path / "run") == contents(tree["output_dir"])


def test_processes_of_one_copy_leave_together_and_at_the_same_place(tree: Tree, tmp_path: Path) -> None:
    """A signal to one of them in the third forward pass: both end there, so that nobody waits for a part of the weights.

    The same command draws what processes that nobody disturbed do. One process draws it but for the last bits: gathered
    weights begin elsewhere in their cache lines, and kernels add up in another order (its loss differs by 4e-8).
    """
    file = saved(tree, tmp_path, parallel={"shard": 2}, output_dir=str(tmp_path / "whole"))
    assert ranks.results(ranks.command, 2, "train", file, folder=tmp_path / "undisturbed") == [0, 0]
    (whole,), (one,) = figures(tmp_path / "whole"), figures(tree["output_dir"])
    assert whole[0] == pytest.approx(one[0], rel=1e-6)
    assert whole[2:] == one[2:]
    file = saved(tree, tmp_path, parallel={"shard": 2})
    ended = ranks.results(end_in_step, 2, file, 3, folder=tmp_path / "ranks")
    assert ended == 2 * [3000 + INTERRUPTED]
    assert ranks.results(end_in_step, 2, file, -1, folder=tmp_path / "again") == 2 * [9000]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def fail_in_one(file: str) -> int:
    """Train; the second process has no room for its sample."""
    from finetrainers.sampling.sampler import Sampler

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    if os.environ["RANK"] == "1":
        Sampler.write = full  # type: ignore[method-assign]
    return ranks.command("train", file)


def test_an_error_in_one_process_ends_the_validation_of_all(tree: Tree, tmp_path: Path) -> None:
    ended = ranks.start(fail_in_one, 2, saved(tree, tmp_path), folder=tmp_path / "ranks").wait()
    assert all(each.result not in (0, None) for each in ended)
    assert "No space left" in ended[1].said
    assert not list((tmp_path / "run/validation").glob("*step*"))
