"""Samples go to trackers with their prompts: to TensorBoard itself, and to W&B and trackio by what they are called with."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import config_of

from finetrainers.events import ValidationEvent
from finetrainers.sampling.sampler import write_video
from finetrainers.training.report import read_events
from finetrainers.training.track.samples import small_gif
from finetrainers.training.track.sinks import RunTracker, TensorBoard
from finetrainers.training.track.track import begin_trackers, build_tracker

PROMPTS = ["a <b>red</b> square", "it moves"]


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture and a video."""
    folder = tmp_path_factory.mktemp("validation") / "step-000005"
    folder.mkdir()
    Image.new("RGB", (16, 8), "red").save(folder / "00.png")
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3), dtype=np.uint8)
    write_video(folder / "01.mp4", [Image.fromarray(frame) for frame in noise], fps=8)
    told = {"step": 5, "samples": ["00.png", "01.mp4"], "prompts": [{"prompt": prompt} for prompt in PROMPTS]}
    (folder / "validation.json").write_text(json.dumps(told))
    return folder


def test_tensorboard_shows_samples_with_their_prompts(validation: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    board.write(ValidationEvent(step=5, directory=str(validation)))
    board.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert found.Tags()["images"] == ["samples/00", "samples/01"]
    (picture,), (video,) = found.Images("samples/00"), found.Images("samples/01")
    assert picture.encoded_image_string == (validation / "00.png").read_bytes()
    assert (picture.step, picture.width, picture.height) == (5, 16, 8)
    with Image.open(io.BytesIO(video.encoded_image_string)) as moving:
        assert (moving.format, moving.size, moving.n_frames) == ("GIF", (96, 64), 20)
    assert found.SummaryMetadata("samples/01").summary_description == "it moves"


@pytest.mark.parametrize("module", ["wandb", "trackio"])
def test_trackers_get_samples_with_their_prompts(module: str, validation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the numbers of the same step, in one call."""
    calls: list[tuple[dict[str, Any], int]] = []
    tracker = RunTracker.__new__(RunTracker)
    made = {kind: lambda file, caption, kind=kind: (kind, file, caption) for kind in ("Image", "Video")}
    tracker._library = SimpleNamespace(**made)
    tracker._run = SimpleNamespace(log=lambda values, step: calls.append((values, step)))
    tracker.write(ValidationEvent(step=5, held_out_loss=0.5, directory=str(validation)))
    tracker.write(ValidationEvent(step=6, directory=str(validation.parent / "gone")))
    samples = {
        "samples/00": ("Image", str(validation / "00.png"), PROMPTS[0]),
        "samples/01": ("Video", str(validation / "01.mp4"), PROMPTS[1]),
    }
    assert calls == [({"validation/held_out_loss": 0.5, **samples}, 5)]


@pytest.mark.parametrize("module", ["wandb", "trackio"])
def test_trackers_take_what_they_are_given(module: str, validation: Path) -> None:
    """The packages themselves: names of classes and of arguments."""
    library = pytest.importorskip(module)
    from finetrainers.training.track.samples import drawn, media_of

    made = media_of(library, drawn(validation))
    assert [type(one).__name__.lower().removeprefix("trackio") for one in made.values()] == ["image", "video"]


def test_a_sample_that_cannot_be_shown_is_told_of_once_and_ends_no_run(validation: Path, tmp_path: Path) -> None:
    """The others are shown, and the numbers of the same validation are there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "step-000005"
    shutil.copytree(validation, folder)
    (folder / "00.png").write_bytes(b"no picture")
    told: list[str] = []
    board = TensorBoard(tmp_path / "board")
    board.warn = told.append
    for _ in range(2):
        board.write(ValidationEvent(step=5, held_out_loss=0.5, directory=str(folder)))
    board.close()
    found = EventAccumulator(str(tmp_path / "board"))
    found.Reload()
    assert (found.Tags()["images"], found.Tags()["scalars"]) == (["samples/01"], ["validation/held_out_loss"])
    (message,) = told
    assert message.startswith("TensorBoard did not receive all samples (UnidentifiedImageError: ")


def test_numbers_are_tracked_where_samples_cannot_be(
    validation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And events.jsonl says what is wrong."""
    calls: list[dict[str, Any]] = []

    def fail(*_: object, **__: object) -> None:
        raise ImportError("no moviepy")

    def init(self: RunTracker, *_: object) -> None:
        self._name, self._library = "wandb", SimpleNamespace(Image=fail, Video=fail, finish=lambda: None)
        self._run = SimpleNamespace(log=lambda values, step: calls.append(values))

    monkeypatch.setattr(RunTracker, "__init__", init)
    data = [{"path": "d", "buckets": [[1, 64, 64]]}]
    tree = {"output_dir": str(tmp_path), "model": {"path": "m"}, "data": data, "track": {"wandb": "project"}}
    tracker = build_tracker(config_of(tree))
    begin_trackers(tracker, config_of(tree))
    for step in (5, 6):
        tracker.emit(ValidationEvent(step=step, held_out_loss=0.5, directory=str(validation)))
    tracker.close()
    assert calls == 2 * [{"validation/held_out_loss": 0.5}]
    warnings = [event["message"] for event in read_events(tmp_path, {"warning"})]
    assert warnings == ["wandb did not receive all samples (ImportError: no moviepy); the run continues"]


def test_of_a_long_video_few_small_frames_are_held(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((64, 512, 3), number, dtype=np.uint8)) for number in range(0, 250, 2)]
    write_video(tmp_path / "a.mp4", frames, fps=8)
    with Image.open(io.BytesIO(small_gif(tmp_path / "a.mp4"))) as moving:
        assert (moving.size, moving.n_frames) == ((256, 32), 32)
