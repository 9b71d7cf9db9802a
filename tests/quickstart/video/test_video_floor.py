"""The video quick start's numbers come from the clips, and from the LoRA that it trained."""

import json
from dataclasses import replace

import pytest
from finishing import CONCEPT, FLOOR, delete_lora
from safetensors.torch import load_file

from finetrainers.cli import DONE, main
from finetrainers.quickstart.run import quickstart
from finetrainers.quickstart.video.showcase import VIDEO

pytestmark = pytest.mark.skipif(not (VIDEO.base / "model_index.json").exists(), reason="the base is not there yet")

BASE = ("base_train", "base_held_out")


@pytest.mark.parametrize("name", CONCEPT)
def test_the_lora_draws_the_effect_and_the_base_does_not(finished_video, name):
    assert finished_video.right("captions", name, "before") <= FLOOR
    assert finished_video.right("captions", name, "after") >= 20


@pytest.mark.parametrize("name", BASE)
def test_the_base_draws_its_own_prompts(finished_video, name):
    assert finished_video.right("captions", name, "before") >= 50


def test_the_held_out_loss_falls(finished_video):
    losses = finished_video.report["held_out_loss"]
    assert losses["after"] < losses["before"]


def test_the_figures_after_are_those_of_the_trained_lora(finished_video):
    """Drawn once more: nothing but base, LoRA and seed is in them."""
    for name, clips in finished_video.draw_concept(finished_video.weights).items():
        truths = finished_video.sets[name].truths
        assert finished_video.measure(clips, truths) == finished_video.reported("captions", name, "after")


def test_with_the_lora_deleted_the_figures_are_those_of_the_base(finished_video, tmp_path):
    deleted = delete_lora(finished_video.weights, tmp_path / "deleted")
    for name, clips in finished_video.draw_concept(deleted).items():
        result = finished_video.measure(clips, finished_video.sets[name].truths)
        assert result == finished_video.reported("captions", name, "before")
        assert result.right <= FLOOR


@pytest.mark.parametrize("column", ["after", "real"])
@pytest.mark.parametrize("name", [*BASE, *CONCEPT])
def test_shuffled_captions_are_at_the_floor(finished_video, name, column):
    assert finished_video.right("shuffled", name, column) <= FLOOR < finished_video.right("captions", name, column)


def test_zero_steps_change_no_pixel(tmp_path):
    sizes = {"num_train": 4, "num_rehearsal": 4, "num_held_out": 1, "num_prompts": 8}
    options = replace(VIDEO, output=tmp_path / "q", steps=0, device="cpu", **sizes)
    assert quickstart(options, command=main, say=lambda _: None) == DONE
    report = json.loads((options.output / "report.json").read_text())
    for name, tree in report["sets"].items():
        assert tree["captions"]["before"] == tree["captions"]["after"]
        assert (tree["captions"]["after"]["right"] <= 12.5) == (name in CONCEPT)  # one clip of eight
    assert report["held_out_loss"]["before"] == report["held_out_loss"]["after"]
    clips = options.output / "clips"
    for file in clips.glob("*-before.mp4"):
        assert file.read_bytes() == (clips / file.name.replace("before", "after")).read_bytes()


def test_the_shipped_base_is_small_whole_and_in_float16():
    files = [file for file in VIDEO.base.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 10e6
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert {file.parent.name for file in weights} == {"transformer", "text_encoder", "vae"}
    for file in weights:
        assert {str(tensor.dtype) for tensor in load_file(file).values() if tensor.is_floating_point()} == {"torch.float16"}
    index = json.loads((VIDEO.base / "model_index.json").read_text())
    assert index["_class_name"] == "LTXConditionPipeline"
