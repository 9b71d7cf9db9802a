"""The concept: new to the base in its pictures, known to it in every word, and held out by colours."""

from itertools import permutations

import numpy as np
import pytest

from finetrainers.quickstart.concept import (
    CROSSES,
    FLAGS,
    Banner,
    banner_caption,
    draw_banner,
    render_banner,
    sample_banner,
    split_of_banner,
    split_of_colours,
)
from finetrainers.quickstart.divisions import read_banner
from finetrainers.quickstart.drawing import COLOURS, PALETTE, random_generator
from finetrainers.quickstart.scenes import caption, render_scene, sample_scene


def words(captions):
    return {word for text in captions for word in text.replace(",", " ,").split()}


def test_a_banner_is_a_function_of_seed_and_index():
    (one, banner), (again, banner_again) = render_banner(41, 5), render_banner(41, 5)
    assert banner == banner_again
    np.testing.assert_array_equal(one, again)
    assert len({render_banner(n, 5)[0].tobytes() for n in range(100)}) == 100


def test_captions_are_english_and_tell_banners_apart():
    assert (
        banner_caption(Banner("vertical", ("blue", "white", "red"), "green"))
        == "a banner with three vertical stripes, blue, white and red, on green"
    )
    assert banner_caption(Banner("cross", ("red", "orange"), "blue")) == "a red banner with an orange cross on blue"
    banners = {sample_banner(n, 3) for n in range(2000)}
    assert len(banners) == len({banner_caption(banner) for banner in banners})


def test_the_base_knows_every_word_of_the_concept():
    concept = words(banner_caption(sample_banner(n, 1, split=s)) for n in range(1000) for s in ("train", "held_out"))
    base = words(caption(sample_scene(n, 1)) for n in range(3000))
    assert concept - base == set()


def test_the_words_of_the_concept_are_as_common_in_the_base_as_to_be_learned():
    captions = [words([caption(sample_scene(n, 1))]) for n in range(3000)]
    for word in ("banner", "with", "three", "vertical", "horizontal", "stripes", "cross", ",", "and", "an"):
        assert sum(word in text for text in captions) > 60, word


def test_no_picture_of_the_base_is_a_picture_of_the_concept():
    """No scene reads as a divided banner, and no caption of a scene is one of a banner."""
    divisions = [read_banner(render_scene(n, 1)[0])[2] for n in range(250)]
    assert divisions == [None] * 250
    texts = [caption(sample_scene(n, 1)) for n in range(3000)]
    assert not any("banner with" in text for text in texts)


def test_a_plain_banner_of_the_base_reads_as_a_banner_without_division():
    for n in range(20):
        assert read_banner(render_scene(n, 1, kinds=("banner",))[0])[1:] == (True, None)


@pytest.mark.parametrize("length", [2, 3])
def test_all_orders_of_some_colours_are_in_one_split(length):
    for colours in permutations(COLOURS, length):
        assert split_of_colours(colours) == split_of_colours(sorted(colours))
    assert split_of_colours(("red", "blue", "red")) == split_of_colours(("blue", "red"))


def test_splits_are_disjoint_in_the_sets_of_their_colours():
    sets = {s: {frozenset(sample_banner(n, 2, split=s).colours) for n in range(2000)} for s in ("train", "held_out")}
    assert not sets["train"] & sets["held_out"]
    assert all(len(s) > 20 for s in sets.values())
    assert all(split_of_banner(sample_banner(n, 2, split=s)) == s for n in range(100) for s in ("train", "held_out"))


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_each_split_holds_every_kind_every_colour_and_national_flags(split):
    banners = [sample_banner(n, 2, split=split) for n in range(1500)]
    for kind in ("vertical", "horizontal"):
        assert {c for b in banners if b.kind == kind for c in b.colours} == set(COLOURS)
    assert len({c for b in banners if b.kind == "cross" for c in b.colours}) >= 8
    assert {(b.kind, b.colours) for b in banners} & set(FLAGS.values())


def test_four_national_flags_are_held_out():
    assert {name for name, (_, colours) in FLAGS.items() if split_of_colours(colours) == "held_out"} == {
        "Belgium",
        "Finland",
        "Gabon",
        "Germany",
    }


def test_neighbours_differ_and_the_ground_is_none_of_the_banners_colours():
    for n in range(500):
        banner = sample_banner(n, 4)
        assert banner.ground not in banner.colours
        assert all(one != other for one, other in zip(banner.colours, banner.colours[1:], strict=False))


def test_denmark_has_the_cross_that_its_law_describes():
    """12:4:21 by 12:4:12 parts, measured on the pixels."""
    pixels = draw_banner(Banner("cross", FLAGS["Denmark"][1], "green"), random_generator(0, 0, "test"))
    is_white = np.all(pixels == PALETTE["white"], axis=-1)
    is_flag = ~np.all(pixels == PALETTE["green"], axis=-1)
    width, height = is_flag.any(0).sum(), is_flag.any(1).sum()
    assert height / width == pytest.approx(28 / 37, abs=0.04)
    upright = is_white.sum(0).argmax() - is_flag.any(0).argmax()
    assert (upright + 1) / width == pytest.approx(14 / 37, abs=0.05)
    assert CROSSES["Denmark"].ratio == pytest.approx(28 / 37)
