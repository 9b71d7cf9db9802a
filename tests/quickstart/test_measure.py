"""The measurer: right on what was rendered, also a little blurred, and near zero on anyone else's caption."""

from pathlib import Path

import numpy as np
import pytest
from loading import load_script
from PIL import Image, ImageFilter

from finetrainers.quickstart.concept import Banner, draw_banner, render_banner
from finetrainers.quickstart.drawing import COLOURS, random_generator
from finetrainers.quickstart.measure import measure
from finetrainers.quickstart.reading import read_scene
from finetrainers.quickstart.scenes import Scene, Thing, draw_scene, render_scene

COUNT = 120


SCRIPT = load_script("measure_outline_check")


def soften(pixels, radius, noise=0):
    """Blur and add noise, as an autoencoder does."""
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)), np.float32)
    disturbed = blurred + noise * np.random.default_rng(0).standard_normal(pixels.shape)
    return disturbed.round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["train", "held_out"])
def scenes(request):
    return [render_scene(n, 21, split=request.param) for n in range(COUNT)]


@pytest.fixture(scope="module", params=["train", "held_out"])
def banners(request):
    return [render_banner(n, 21, split=request.param) for n in range(COUNT)]


def right(pairs):
    return sum(measure(pixels, truth).is_right for pixels, truth in pairs) / len(pairs)


def test_rendered_scenes_measure_right(scenes):
    assert right(scenes) >= 0.99


def test_rendered_banners_measure_right(banners):
    assert right(banners) >= 0.99


def test_shuffled_captions_of_scenes_are_at_the_floor(scenes):
    assert right([(scenes[n][0], scenes[n - 1][1]) for n in range(COUNT)]) <= 0.01


def test_shuffled_captions_of_banners_are_at_the_floor(banners):
    assert right([(banners[n][0], banners[n - 1][1]) for n in range(COUNT)]) <= 0.02


def test_slightly_blurred_scenes_measure_right(scenes):
    assert right([(soften(pixels, 0.7, noise=4), truth) for pixels, truth in scenes]) >= 0.98


def test_slightly_blurred_banners_measure_right(banners):
    assert right([(soften(pixels, 0.7, noise=4), truth) for pixels, truth in banners]) >= 0.98


def draw(scene):
    return draw_scene(scene, random_generator(0, 0, "test"))


STAR = Scene("single", "white", (Thing("star", "blue", "large"),), place="top left")


@pytest.mark.parametrize(
    "other, failing",
    [
        (Scene("single", "pink", STAR.things, place="top left"), {"ground"}),
        (Scene("single", "white", (Thing("star", "red", "large"),), place="top left"), {"colour", "shape", "place"}),
        (Scene("single", "white", (Thing("heart", "blue", "large"),), place="top left"), {"shape", "place"}),
        (Scene("single", "white", (Thing("star", "blue", "small"),), place="top left"), {"size"}),
        (Scene("single", "white", STAR.things, place="bottom right"), {"place"}),
    ],
)
def test_each_error_fails_its_own_check(other, failing):
    checks = measure(draw(other), STAR).checks
    assert {name for name, holds in checks.items() if not holds} == failing


def test_a_relation_is_not_its_opposite():
    one, other = Thing("star", "red", "small"), Thing("ring", "blue", "large")
    pixels = draw(Scene("pair", "white", (one, other), place="left of"))
    assert measure(pixels, Scene("pair", "white", (one, other), place="left of")).is_right
    assert measure(pixels, Scene("pair", "white", (other, one), place="right of")).is_right
    for wrong in (
        Scene("pair", "white", (other, one), place="left of"),
        Scene("pair", "white", (one, other), place="above"),
        Scene("pair", "white", (one, other), place="below"),
    ):
        assert not measure(pixels, wrong).is_right


def test_the_order_of_a_row_counts():
    row = tuple(Thing("circle", colour) for colour in ("red", "green", "blue"))
    pixels = draw(Scene("row", "white", row, place="row"))
    assert measure(pixels, Scene("row", "white", row, place="row")).is_right
    reversed_checks = measure(pixels, Scene("row", "white", row[::-1], place="row")).checks
    assert reversed_checks["shape"]
    assert not reversed_checks["place"]
    assert not measure(pixels, Scene("row", "white", row, place="column")).is_right


@pytest.mark.parametrize("kind", ["vertical", "horizontal"])
def test_reversed_stripes_have_the_colours_but_not_the_order(kind):
    banner = Banner(kind, ("blue", "white", "red"), "green")
    checks = measure(draw_banner(Banner(kind, banner.colours[::-1], "green"), random_generator(0, 0, "")), banner).checks
    assert {name for name, holds in checks.items() if not holds} == {"order"}


def test_a_cross_is_neither_its_field_nor_stripes():
    banner = Banner("cross", ("red", "white"), "black")
    pixels = draw_banner(banner, random_generator(0, 0, ""))
    assert measure(pixels, banner).is_right
    assert not measure(pixels, Banner("cross", ("white", "red"), "black")).is_right
    assert not measure(pixels, Banner("vertical", ("red", "white", "red"), "black")).is_right


@pytest.mark.parametrize("truth", [STAR, Banner("cross", ("red", "white"), "black")], ids=["scene", "banner"])
@pytest.mark.parametrize("picture", ["plain", "noise", "checks"])
def test_pictures_of_nothing_measure_wrong_and_raise_nothing(truth, picture):
    pixels = {
        "plain": np.full((64, 64, 3), 246, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8),
        "checks": np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8)))[..., None].repeat(3, -1).astype(np.uint8) * 255,
    }[picture]
    result = measure(pixels, truth)
    assert not result.is_right
    assert result.score < 0.5


def test_blobs_are_no_shapes():
    """A shape that is half there is not a shape."""
    pixels = draw(Scene("single", "white", (Thing("star", "blue", "large"),), place="middle"))
    pixels[32:] = pixels[0, 0]
    assert read_scene(pixels)[1][0].shape != "star"


def test_every_palette_colour_reads_as_itself():
    for colour in COLOURS:
        ground = "white" if colour != "white" else "black"
        read_ground, found = read_scene(draw(Scene("banner", ground, (Thing("banner", colour),))))
        assert (read_ground, [(thing.shape, thing.colour) for thing in found]) == (ground, [("banner", colour)])


@pytest.mark.parametrize("name", [*SCRIPT.SMALL, *SCRIPT.LARGE])
def test_small_steps_of_an_outline_are_right_and_large_ones_and_other_errors_are_not(name):
    """What the script measures, of a few banners: what passes and what does not is the eye's, not the rule's."""
    for n in range(4):
        pixels, banner = render_banner(n, 7, split="held_out")
        changed = {**SCRIPT.SMALL, **SCRIPT.LARGE}[name](pixels, banner, np.random.default_rng(n))
        checks = measure(changed, banner).checks
        assert checks["outline"] == (name in SCRIPT.SMALL)
        assert checks["ground"]


def test_the_table_of_outlines_has_what_is_found_and_what_is_missed():
    page = (Path(__file__).parents[2] / "docs/quickstart_measures.md").read_text()
    table = page.partition("<!-- table: outline -->")[2].partition("<!-- end of table -->")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert names == [*SCRIPT.SMALL, *SCRIPT.LARGE, *SCRIPT.MISSED]


@pytest.mark.parametrize("name", SCRIPT.MISSED)
def test_what_is_said_to_be_missed_is_missed(name):
    """Once it is found, the page says too little of the check."""
    pixels, banner = render_banner(0, 7, split="held_out")
    changed = SCRIPT.MISSED[name](pixels, banner, np.random.default_rng(0))
    assert (changed != pixels).any()
    assert measure(changed, banner).checks["outline"]


def test_an_outline_that_is_wrong_is_the_only_fault_of_a_banner_that_is_divided_right():
    pixels, banner = render_banner(0, 7, split="held_out")
    changed = SCRIPT.LARGE["a lump of radius 8"](pixels, banner, np.random.default_rng(0))
    assert measure(changed, banner).faults == ["outline"]
