"""Scenes: what a caption says is all there is to know, and a held-out combination never trains."""

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest

from finetrainers.quickstart.drawing import COLOURS, SHAPES, composite, cover
from finetrainers.quickstart.scenes import (
    ALL_KINDS,
    KIND_WEIGHTS,
    Scene,
    Thing,
    caption,
    combinations,
    is_held_out,
    render_scene,
    sample_scene,
    split_of,
)

COUNT = 3000


@pytest.fixture(scope="module")
def train() -> list[Scene]:
    return [sample_scene(n, seed=3) for n in range(COUNT)]


@pytest.fixture(scope="module")
def held_out() -> list[Scene]:
    return [sample_scene(n, seed=3, split="held_out") for n in range(COUNT)]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_picture_is_a_function_of_seed_and_index(split):
    for n in (0, 7, 123456789):
        (one, scene), (again, scene_again) = render_scene(n, 5, split=split), render_scene(n, 5, split=split)
        assert scene == scene_again
        np.testing.assert_array_equal(one, again)


def test_seed_and_index_both_matter():
    pictures = {render_scene(n, seed)[0].tobytes() for n, seed in product(range(50), (0, 1))}
    assert len(pictures) == 100


def test_the_first_captions_stay_what_they_are():
    """A base on disk was trained on these: a change of the order of draws must be on purpose."""
    assert [caption(sample_scene(n, seed=0)) for n in range(3)] == [
        "a large orange cross at the bottom right on pink",
        "a small purple star at the right on pink",
        "a red circle with a purple star on orange",
    ]


def test_two_scenes_are_equal_if_and_only_if_their_captions_are(train, held_out):
    scenes = set(train + held_out)
    assert len(scenes) == len({caption(scene) for scene in scenes})


def test_a_caption_can_be_read_back(train):
    singles = [scene for scene in train if scene.kind == "single"]
    for scene in singles:
        match = re.fullmatch(r"a (small|large) (\w+) (\w+) (?:in|at) the ([\w ]+) on (\w+)", caption(scene))
        assert match is not None
        size, colour, shape, place, ground = match.groups()
        assert scene == Scene("single", ground, (Thing(shape, colour, size),), place=place)


def test_captions_are_english():
    assert caption(Scene("banner", "blue", (Thing("banner", "orange"),))) == "an orange banner on blue"
    row = Scene("row", "white", tuple(Thing("circle", c) for c in ("red", "blue", "green")), place="row")
    assert caption(row) == "three circles in a row, red, blue and green, on white"
    pair = Scene("pair", "white", (Thing("star", "red", "small"), Thing("ring", "blue", "large")), place="left of")
    assert caption(pair) == "a small red star left of a large blue ring on white"
    stripes = Scene("stripes", "red", (Thing("stripe", "blue"),) * 2, orientation="vertical")
    assert caption(stripes) == "two blue vertical stripes on red"


def test_no_training_scene_shows_a_held_out_combination(train, held_out):
    seen = set().union(*(combinations(scene) for scene in train))
    assert not any(is_held_out(*combination) for combination in seen)
    assert all(combinations(scene) - seen for scene in held_out)
    assert {split_of(scene) for scene in train} == {"train"}
    assert {split_of(scene) for scene in held_out} == {"held_out"}


def test_both_orders_of_two_colours_are_held_out_together():
    for shape, colour, ground in product((*SHAPES, "bar", "stripe", "banner"), COLOURS, COLOURS):
        assert is_held_out(shape, colour, ground) == is_held_out(shape, ground, colour)


def test_every_shape_and_colour_is_in_both_splits_of_single_shapes(train, held_out):
    for scenes in (train, held_out):
        things = [scene.things[0] for scene in scenes if scene.kind == "single"]
        assert {thing.shape for thing in things} == set(SHAPES)
        assert {thing.colour for thing in things} == set(COLOURS)


def test_both_splits_have_the_same_proportions_of_kinds(train, held_out):
    for scenes in (train, held_out):
        counts = Counter(scene.kind for scene in scenes)
        for kind, weight in KIND_WEIGHTS.items():
            assert counts[kind] / COUNT == pytest.approx(weight, abs=0.03)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_kinds_can_be_chosen(kind):
    assert {sample_scene(n, 1, split="held_out", kinds=(kind,)).kind for n in range(20)} == {kind}


def test_colours_of_touching_things_differ(train):
    for scene in train:
        for _, colour, ground in combinations(scene):
            assert colour != ground


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_moves_with_its_box(shape):
    """A whole pixel of movement moves every pixel of the picture, anti-aliasing included."""
    here, there = cover(shape, (20.3, 25.7, 20, 20)), cover(shape, (31.3, 30.7, 20, 20))
    np.testing.assert_array_equal(np.roll(here, (5, 11), axis=(0, 1)), there)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_in_the_middle_of_its_box_and_anti_aliased(shape):
    coverage = cover(shape, (32, 32, 28, 28))
    assert (coverage > 0).any(0).nonzero()[0][[0, -1]].sum() == pytest.approx(63, abs=1)  # mirror-symmetric
    assert ((coverage > 0) & (coverage < 1)).any()
    assert 15 <= (coverage > 0).any(0).nonzero()[0][0] <= 19


def test_layers_are_painted_in_order():
    everything = np.ones((64, 64), np.float32)
    assert composite("red", [(everything, "blue"), (everything, "white")])[5, 5].tolist() == [246, 246, 246]
