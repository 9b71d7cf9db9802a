"""The quick starts' numbers come from what is drawn, and from the LoRA that was trained. The bases are small and whole."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from finishing import CONCEPT, FLOOR, delete_lora
from PIL import Image
from safetensors.torch import load_file

from finetrainers.cli.entry import main
from finetrainers.cli.status import DONE
from finetrainers.quickstart.base import write_base
from finetrainers.quickstart.comparison import CELL, corner, size_of
from finetrainers.quickstart.image import IMAGE
from finetrainers.quickstart.run import quickstart
from finetrainers.quickstart.video.showcase import VIDEO

ROOT = Path(__file__).parents[2]
BASE = ("base_train", "base_held_out")

both_kinds = pytest.mark.parametrize("options", [IMAGE, VIDEO], ids=["image", "video"])


@pytest.fixture(scope="module", params=["finished", pytest.param("finished_video", marks=pytest.mark.long)])
def done(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def drawn_again(done):
    """The concept's prompts, drawn once more: nothing but base, LoRA and seed is in them."""
    return done.draw_concept(done.weights)


@pytest.mark.parametrize("name", CONCEPT)
def test_the_lora_draws_the_concept_and_the_base_does_not(done, name):
    assert done.right("captions", name, "before") <= FLOOR
    assert done.right("captions", name, "after") >= 20


@pytest.mark.parametrize("name", BASE)
def test_the_base_draws_its_own_prompts(done, name):
    assert done.right("captions", name, "before") >= 50


def test_the_held_out_loss_falls(done):
    losses = done.report["held_out_loss"]
    assert losses["after"] < 0.9 * losses["before"]


@pytest.mark.parametrize("name", [*BASE, *CONCEPT])
def test_what_is_rendered_measures_right(done, name):
    assert done.right("captions", name, "real") == 100


def test_the_figures_after_are_those_of_the_trained_lora(done, drawn_again):
    for name, drawn in drawn_again.items():
        assert done.measure(drawn, done.sets[name].truths) == done.reported("captions", name, "after")


def test_with_the_lora_deleted_the_figures_are_those_of_the_base(done, tmp_path):
    deleted = delete_lora(done.weights, tmp_path / "deleted")
    for name, drawn in done.draw_concept(deleted).items():
        result = done.measure(drawn, done.sets[name].truths)
        assert result == done.reported("captions", name, "before")
        assert result.right <= FLOOR


@pytest.mark.parametrize("column", ["after", "real"])
@pytest.mark.parametrize("name", [*BASE, *CONCEPT])
def test_shuffled_captions_are_at_the_floor(done, name, column):
    assert done.right("shuffled", name, column) <= FLOOR < done.right("captions", name, column)


def test_captions_shuffled_in_any_order_are_at_the_floor(done, drawn_again):
    truths, drawn = done.sets["concept_held_out"].truths, drawn_again["concept_held_out"]
    others = random.Random(0).sample(truths, len(truths))
    assert done.measure(drawn, others).right <= FLOOR < done.measure(drawn, truths).right


@pytest.mark.parametrize("options", [IMAGE, pytest.param(VIDEO, marks=pytest.mark.long)], ids=["image", "video"])
def test_zero_steps_change_no_pixel(options, tmp_path):
    sizes = {"num_train": 4, "num_rehearsal": 4, "num_held_out": 1, "num_prompts": 8}
    options = replace(options, output=tmp_path / "q", steps=0, device="cpu", **sizes)
    assert quickstart(options, command=main, say=lambda _: None) == DONE
    report = json.loads((options.output / "report.json").read_text())
    for name, tree in report["sets"].items():
        assert tree["captions"]["before"] == tree["captions"]["after"]
        assert (tree["captions"]["after"]["right"] <= 12.5) == (name in CONCEPT)  # one of eight
    assert report["held_out_loss"]["before"] == report["held_out_loss"]["after"]
    with Image.open(options.output / "comparison.png") as sheet:
        columns = next(columns for columns in range(1, 9) if size_of(columns, 3) == sheet.size)
        places = [(corner(0, column), corner(1, column)) for column in range(columns)]
        for before, after in places:
            one, other = (np.asarray(sheet.crop((x, y, x + CELL, y + CELL))) for x, y in (before, after))
            np.testing.assert_array_equal(one, other)


@both_kinds
def test_the_shipped_base_is_small_and_in_float16(options):
    files = [file for file in options.base.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 10e6
    weights = [file for file in files if file.suffix == ".safetensors"]
    index = json.loads((options.base / "model_index.json").read_text())
    assert {"transformer", "text_encoder", "vae"} <= {file.parent.name for file in weights} < set(index)
    for file in weights:
        assert {str(tensor.dtype) for tensor in load_file(file).values() if tensor.is_floating_point()} == {"torch.float16"}


@both_kinds
def test_the_shipped_base_loads_in_plain_diffusers(options):
    assert type(DiffusionPipeline.from_pretrained(options.base)) is options.showcase.pipeline


@both_kinds
def test_the_shipped_base_is_made_of_package_files(options):
    """Where the wheel takes them from: below src/finetrainers, and nothing of them is ignored by git."""
    assert options.base.is_relative_to(ROOT / "src/finetrainers")
    patterns = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    assert not any(file.match(pattern) for file in options.base.rglob("*") for pattern in patterns)


@both_kinds
def test_the_shipped_base_says_nothing_of_the_folders_it_was_made_in(options):
    texts = [file.read_text() for file in options.base.rglob("*.json") if file.name != "tokenizer.json"]
    assert len(texts) >= 6
    assert not [text for text in texts if "name_or_path" in text or '"/' in text]


def test_a_written_base_is_what_it_was(tmp_path):
    pipeline = DiffusionPipeline.from_pretrained(IMAGE.base)
    write_base(pipeline, tmp_path / "again")
    for file in (file for file in IMAGE.base.rglob("*") if file.suffix == ".safetensors"):
        again = load_file(tmp_path / "again" / file.relative_to(IMAGE.base))
        assert {name: tensor.dtype for name, tensor in again.items()} == {n: t.dtype for n, t in load_file(file).items()}
        assert all(torch.equal(tensor, again[name]) for name, tensor in load_file(file).items())
    # Tokenizers write down how they were used last.
    configs = [file for file in IMAGE.base.rglob("*.json") if file.name != "tokenizer_config.json"]
    settings = {file.relative_to(IMAGE.base): json.loads(file.read_text()) for file in configs}
    assert {file: json.loads((tmp_path / "again" / file).read_text()) for file in settings} == settings
    files = {file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*") if file.is_file()}
    assert files == {file.relative_to(IMAGE.base) for file in IMAGE.base.rglob("*") if file.is_file()}
