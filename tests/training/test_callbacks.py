"""What Python users get: callbacks of their own, configurations of dicts, types, and videos."""

from importlib.resources import files
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from runs import config_of, curve, events_of, flux_tree, write_pictures

from finetrainers import Callback, Config, ConfigError, DataError, Metrics, Trainer, train, write_video
from finetrainers.config import dump_config


class Ending(Callback):
    """Notes what it is called for, and ends the run after a step."""

    def __init__(self, last: int) -> None:
        self.last, self.calls = last, []

    def before_training(self, trainer: Trainer) -> None:
        self.calls.append(("before", trainer.step, False))

    def after_step(self, trainer: Trainer, metrics: Metrics) -> None:
        saved = Path(self.folder, f"checkpoints/step-{metrics.step:06d}").exists()
        self.calls.append(("step", metrics.step, saved))
        self.loss = metrics.loss
        trainer.is_over = trainer.step == self.last

    def after_training(self, trainer: Trainer) -> None:
        self.calls.append(("after", trainer.step, False))


def test_callbacks_see_each_step_and_may_end_the_run_which_then_goes_on(tiny_flux: Path, tmp_path: Path) -> None:
    size = {"steps": 3, "batch_size": 1, "micro_batch_size": 1}
    config = config_of(flux_tree(tiny_flux, write_pictures(tmp_path / "data", 2), tmp_path, train=size))
    first, second = Ending(2), Ending(3)
    first.folder = second.folder = config.output_dir
    result = train(config, callbacks=[first, Callback()])
    assert first.calls == [("before", 0, False), ("step", 1, False), ("step", 2, False), ("after", 2, False)]
    assert (result.steps, result.weights.name) == (2, "step-000002")
    assert result.report["stopped_by"] == "callback"
    assert first.loss == curve(config.output_dir, "loss")[-1][0]
    assert train(config, callbacks=[second]).steps == 3
    assert second.calls == [("before", 2, False), ("step", 3, False), ("after", 3, False)]
    assert events_of(config.output_dir)[-1]["status"] == "done"


def test_what_is_no_callback_is_refused_before_anything(tmp_path: Path) -> None:
    config = config_of(flux_tree(tmp_path / "model", tmp_path / "data", tmp_path))
    with pytest.raises(ConfigError, match=r"number 0 is <class .*Ending'>, which is no Callback"):
        train(config, callbacks=[Ending])  # the class, where an object of it is due
    assert not config.output_dir.exists()


def test_a_dict_is_read_as_a_file_is(tmp_path: Path) -> None:
    tree = flux_tree(tmp_path / "model", tmp_path / "data", tmp_path)
    config = Config.from_dict(tree, ["optimizer.lr=5e-5", "data.0.repeats=2"])
    assert (config.optimizer.lr, config.data[0].repeats, tree["optimizer"]) == (5e-5, 2.0, {"lr": 1e-3})
    assert dump_config(Config.from_dict(tree)) == dump_config(config_of(tree))
    with pytest.raises(ConfigError, match=r"tuning\.rnk"):
        Config.from_dict({**tree, "tuning": {"kind": "lora", "rnk": 4}})


def test_the_package_says_that_it_is_typed() -> None:
    assert (files("finetrainers") / "py.typed").is_file()


@pytest.mark.parametrize("kind", ["images", "bytes", "floats"])
def test_frames_of_any_kind_become_a_video(tmp_path: Path, kind: str) -> None:
    pixels = np.zeros((5, 32, 48, 3), np.uint8)
    pixels += (np.arange(5, dtype=np.uint8) * 50)[:, None, None, None]
    frames = {"images": [Image.fromarray(frame) for frame in pixels], "bytes": pixels, "floats": pixels / 255}[kind]
    file = write_video(str(tmp_path / "grey.mp4"), frames, fps=8)
    with av.open(str(file)) as video:
        found = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        assert video.streams.video[0].average_rate == 8
    assert np.abs(found.astype(int) - pixels).max() <= 4
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "name, frames, said",
    [
        ("a.mp4", np.zeros((2, 31, 32, 3), np.uint8), "32x31, and H.264 has even sizes"),
        ("a.mp4", [], "0 frames"),
        ("a.mp4", [np.zeros((32, 32, 3)), np.zeros((32, 30, 3))], "2 frames of 2 sizes"),
        ("a.mp4", [np.full((32, 32, 3), 200.0)], "frame 0 is float64"),
        ("a.gif", [np.zeros((32, 32, 3))], "name the file a.mp4"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, frames: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_video(tmp_path / name, frames, fps=8)
    assert not list(tmp_path.iterdir())
