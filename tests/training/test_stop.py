"""What stops a run from outside: signals, Ctrl-C once and twice, a terminal that is closed."""

import json
import os
import pty
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Tree, config_of, curve, events_of, flux_tree, merged, write_pictures

from finetrainers import Interrupted, train
from finetrainers.cli.entry import main
from finetrainers.cli.status import INTERRUPTED, STOPPED_AT_ONCE
from finetrainers.config import dump_config
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checkpoint.saving import SAVE_FILE
from finetrainers.training.signals import STOPPING_SOON
from finetrainers.training.trainer import Trainer

PATIENCE_SECONDS = 600
"""What never takes that long may, on a machine that does other things."""


@pytest.fixture(scope="module")
def base(tiny_flux: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A run of a minute or more, whose encoded items are already there; more steps would take long to plan."""
    root = tmp_path_factory.mktemp("stop")
    tree = flux_tree(tiny_flux, write_pictures(root / "data", 4), root)
    train(config_of(merged(tree, {"train": {"steps": 1}})))
    return merged(tree, {"train": {"steps": 5000}})


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """As in a terminal, also where a shell in the background, or nohup, ignores Ctrl-C and a closed terminal."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Command:
    """``finetrainers`` in a child that is forked from here, where everything is imported, on a terminal of its own.

    Where there is a GPU, which a forked child cannot use, it begins anew; then nothing of it can be patched.
    """

    def __init__(self, *words: str, patch: Callable[[], None] | None = None) -> None:
        if torch.cuda.is_available() and patch is not None:
            pytest.skip("patches a forked child, which cannot train where there is a GPU")
        self.pid, self.terminal = pty.fork()
        self.text = b""
        if self.pid == 0:
            status = 1
            try:
                if torch.cuda.is_available():
                    os.execv(sys.executable, [sys.executable, "-m", "finetrainers", *words])
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
                if patch is not None:
                    patch()
                status = main(words)
            finally:
                os._exit(status)
        os.set_blocking(self.terminal, False)

    def read(self) -> str:
        try:
            while part := os.read(self.terminal, 1 << 16):
                self.text += part
        except OSError:  # nothing to read now, or the child is over
            pass
        return self.text.decode()

    def wait(self) -> int:
        """Its exit status."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self.terminal >= 0:
                self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        pytest.fail(f"it does not end: {self.text.decode()[-2000:]}")

    def until(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_there():
            assert time.monotonic() < deadline, self.read()[-2000:]
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), self.read()[-2000:]
            self.read()
            time.sleep(0.02)


def start(tree: Tree, tmp_path: Path, *, command: str = "train", patch: Callable[[], None] | None = None) -> Command:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_of(merged(tree, {"output_dir": str(tmp_path / "run")}))))
    return Command(command, str(file), patch=patch)


def has_steps(directory: Path, number: int) -> Callable[[], bool]:
    def is_there() -> bool:
        file = directory / "events.jsonl"
        return file.exists() and file.read_text().count('"event": "step"') >= number

    return is_there


def last_line(command: Command) -> str:
    return command.read().splitlines()[-1]


def test_the_first_ctrl_c_saves_checkpoint_and_weights(base: Tree, tmp_path: Path) -> None:
    """To all processes of the terminal, as it is typed: loader workers live until the run has saved."""
    command = start(merged(base, {"loader": {"workers": 1}}), tmp_path)
    command.until(has_steps(tmp_path / "run", 3))
    os.write(command.terminal, b"\x03")
    assert command.wait() == INTERRUPTED
    step = Checkpoints(tmp_path / "run" / "checkpoints", keep=1).find("latest")
    assert step is not None
    assert (tmp_path / "run" / "weights" / f"step-{step:06d}" / "manifest.json").is_file()
    said = f"stopped by SIGINT (Ctrl-C) while training, after step {step}; start the same command again to continue"
    assert last_line(command) == f"finetrainers: {said}"
    assert "Traceback" not in command.read()
    end = events_of(tmp_path / "run")[-1]
    assert (end["event"], end["status"], end["message"]) == ("end", "interrupted", said)
    assert not [event for event in events_of(tmp_path / "run") if event["event"] == "error"]


def endless_from(step: int, begun: Path) -> Callable[[], None]:
    """Let this step not end, and make a file when it begins."""

    def patch() -> None:
        from finetrainers.training.trainer import Trainer

        taken = Trainer.train_step

        def endless(trainer: Any, *rest: Any, **options: Any) -> Any:
            if trainer.step + 1 >= step:
                begun.touch()
                time.sleep(PATIENCE_SECONDS)
            return taken(trainer, *rest, **options)

        Trainer.train_step = endless  # type: ignore[method-assign]

    return patch


@pytest.mark.parametrize("every, kept", [(1, "the checkpoint of step 2 is kept"), (100, "there is no checkpoint yet")])
def test_the_second_ctrl_c_stops_at_once(base: Tree, tmp_path: Path, every: int, kept: str) -> None:
    begun = tmp_path / "begun"
    command = start(merged(base, {"checkpoint": {"every": every}}), tmp_path, patch=endless_from(3, begun))
    command.until(begun.exists)
    if every == 1:
        command.until((tmp_path / "run" / "checkpoints" / "step-000002" / "manifest.json").is_file)
    os.write(command.terminal, b"\x03")
    command.until(lambda: STOPPING_SOON in command.read())
    os.write(command.terminal, b"\x03")
    assert command.wait() == STOPPED_AT_ONCE
    assert last_line(command) == f"finetrainers: stopped; {kept}"
    assert "Traceback" not in command.read()
    end = events_of(tmp_path / "run")[-1]
    assert (end["status"], end["message"]) == ("interrupted", f"stopped; {kept}")


def test_a_closed_terminal_saves(base: Tree, tmp_path: Path) -> None:
    """SIGHUP comes, and nothing can be written to the terminal any more."""
    command = start(base, tmp_path)
    command.until(has_steps(tmp_path / "run", 3))
    os.close(command.terminal)
    command.terminal = -1
    assert command.wait() == INTERRUPTED
    assert Checkpoints(tmp_path / "run" / "checkpoints", keep=1).find("latest") is not None
    assert "stopped by SIGHUP" in events_of(tmp_path / "run")[-1]["message"]


def test_ctrl_c_while_encoding_keeps_what_is_done(base: Tree, tmp_path: Path) -> None:
    cache, begun, typed = tmp_path / "cache", tmp_path / "begun", tmp_path / "typed"

    def patch() -> None:
        from finetrainers.encoding import encoder as encoding

        encode_pixels = encoding.encode_pixels

        def encode(*rest: Any, **options: Any) -> Any:
            while list(cache.glob("latents/*/*.safetensors")) and not typed.exists():
                begun.touch()
                time.sleep(0.01)
            return encode_pixels(*rest, **options)

        encoding.encode_pixels = encode

    command = start(merged(base, {"cache": {"path": str(cache)}}), tmp_path, command="encode", patch=patch)
    command.until(begun.exists)
    os.write(command.terminal, b"\x03")
    typed.touch()
    assert command.wait() == INTERRUPTED
    assert "stopped by SIGINT (Ctrl-C) while encode media" in last_line(command)
    assert 0 < len(list(cache.glob("latents/*/*.safetensors"))) < 4


@pytest.mark.parametrize("words", [["cache", "verify"], ["sample", "--prompt", "x"]], ids=lambda words: words[0])
def test_other_commands_stop_with_one_line(base: Tree, tmp_path: Path, words: list[str]) -> None:
    def slow() -> None:
        from finetrainers.data.cache.store import Cache
        from finetrainers.sampling import sample

        def wait(*_: Any, **__: Any) -> Any:
            (tmp_path / "begun").touch()
            time.sleep(PATIENCE_SECONDS)

        Cache.entries = wait  # type: ignore[method-assign]
        sample.open_model = wait

    place = base["cache"]["path"] if words[0] == "cache" else base["output_dir"]
    position = 2 if words[0] == "cache" else 1
    command = Command(*words[:position], place, *words[position:], patch=slow)
    command.until((tmp_path / "begun").exists)
    before = command.read()
    os.write(command.terminal, b"\x03")
    assert command.wait() == INTERRUPTED
    (line,) = [line for line in command.read()[len(before) :].splitlines() if line.strip("^C ")]
    assert line.removeprefix("^C").startswith("finetrainers: stopped by SIGINT (Ctrl-C) while ")


def test_weights_items_and_checkpoints_have_the_mode_of_the_umask(base: Tree, tiny_flux: Path) -> None:
    """Whoever shares a machine reads them as they read other files."""
    umask = os.umask(0)
    os.umask(umask)
    root, cache = Path(base["output_dir"]), Path(base["cache"]["path"])
    places = [root / "weights", root / "checkpoints", cache / "latents", cache / "text", tiny_flux / "vae"]
    for place in places:
        files = [file for file in place.rglob("*") if file.is_file()]
        assert {oct(file.stat().st_mode & 0o777) for file in files} == {oct(0o666 & ~umask)}, place


# -- in the middle of a validation ------------------------------------------------------------------------------------


def prompts_file(tmp_path: Path) -> str:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps([{"prompt": "picture number 1", "num_inference_steps": 5}]))
    return str(file)


@pytest.mark.parametrize("place", ["denoiser", "vae"])
def test_a_signal_is_seen_within_a_draw(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """A video can take longer than what a job manager leaves: each layer looks whether to stop."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    calls = {"denoiser": 0, "vae": 0}
    owner, name = (FluxTransformer2DModel, "forward") if place == "denoiser" else (AutoencoderKL, "decode")
    forward = getattr(owner, name)

    def signalled(self: Any, *rest: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            calls[place] += 1
            if calls[place] == (3 if place == "denoiser" else 1):
                os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *rest, **options)

    monkeypatch.setattr(owner, name, signalled)
    sections = {
        "validation": {"prompts": prompts_file(tmp_path)},
        "train": {"steps": 2},
        "output_dir": str(tmp_path / "run"),
    }
    with pytest.raises(Interrupted, match="stopped by SIGTERM while validating"):
        train(config_of(merged(base, sections)))
    assert calls[place] == (3 if place == "denoiser" else 1)
    assert not list((tmp_path / "run" / "validation").glob("step-*"))


def test_hooks_of_a_draw_are_gone_after_it(base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetrainers.training.trainer import Trainer

    seen = []
    monkeypatch.setattr(Trainer, "train_step", lambda trainer, *_, **__: seen.append(trainer) or pytest.fail("far enough"))
    sections = {"validation": {"prompts": prompts_file(tmp_path)}, "output_dir": str(tmp_path / "run")}
    with pytest.raises(pytest.fail.Exception):
        train(config_of(merged(base, sections)))
    assert not [layer for layer in seen[0].denoiser.modules() if layer._forward_pre_hooks]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_is_seen_between_held_out_noise_levels(
    base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from finetrainers.training.trainer import Denoising

    predict, levels = Denoising.__call__, []

    def signalled(self: Any, *rest: Any) -> Any:
        levels.append(0)
        if len(levels) == 2:
            os.kill(os.getpid(), signal.Signals[name])
        return predict(self, *rest)

    monkeypatch.setattr(Denoising, "__call__", signalled)
    other = write_pictures(tmp_path / "held-out", 4, seed=1)
    held_out = {"data": [{"path": str(other), "buckets": [[1, 64, 64]]}], "noise_levels": 50}
    with pytest.raises(Interrupted, match=f"stopped by {name} while validating"):
        train(config_of(merged(base, {"validation": held_out, "output_dir": str(tmp_path / "run")})))
    assert len(levels) == 2


@pytest.mark.parametrize("way", ["SIGUSR2", "a file"])
def test_a_run_saves_when_it_is_asked_to_and_goes_on(
    way: str, base: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each request, checkpoint and weights; the numbers are those of a run that nobody asked."""
    step = Trainer.train_step

    def asking(self: Trainer, *arguments: Any, **options: Any) -> Any:
        if self.step == 1 and way == "SIGUSR2":
            os.kill(os.getpid(), signal.SIGUSR2)
        elif self.step == 1:
            (tmp_path / "asked" / SAVE_FILE).touch()
        return step(self, *arguments, **options)

    short = merged(base, {"train": {"steps": 4}, "checkpoint": {"every": 100, "keep": 5}})
    plain = train(config_of(merged(short, {"output_dir": str(tmp_path / "plain")})))
    monkeypatch.setattr(Trainer, "train_step", asking)
    asked = train(config_of(merged(short, {"output_dir": str(tmp_path / "asked")})))
    assert Checkpoints(tmp_path / "asked/checkpoints", keep=5).steps() == [2, 4]
    assert sorted(folder.name for folder in (tmp_path / "asked/weights").iterdir()) == ["step-000002", "step-000004"]
    assert not (tmp_path / "asked" / SAVE_FILE).exists()
    assert curve(asked.output_dir, "loss", "grad_norm") == curve(plain.output_dir, "loss", "grad_norm")
