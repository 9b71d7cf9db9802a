"""The effect: new to the base in its clips and in one word, and held out by shape and colours."""

import numpy as np
import pytest

from finetrainers.quickstart.drawing import PALETTE, random_generator
from finetrainers.quickstart.reading import read_scene
from finetrainers.quickstart.video.clips import CLIP_SHAPES, Clip, clip_caption, render_clip, sample_clip, split_of_clip
from finetrainers.quickstart.video.effect import (
    EFFECTS,
    PRESS,
    draw_effect,
    render_effect,
    sample_effect,
)
from finetrainers.quickstart.video.measure import read_clip


def words(captions):
    return {word for text in captions for word in text.split()}


def test_an_effect_is_a_function_of_seed_and_index():
    (one, clip), (again, clip_again) = render_effect(41, 5), render_effect(41, 5)
    assert clip == clip_again
    np.testing.assert_array_equal(one, again)
    assert len({render_effect(n, 5)[0].tobytes() for n in range(60)}) == 60


def test_one_word_of_the_effect_is_new_to_the_base():
    effect = words(clip_caption(sample_effect(n, 1, split=s)) for n in range(500) for s in ("train", "held_out"))
    base = words(clip_caption(sample_clip(n, 1)) for n in range(2000))
    assert effect - base == {"squashes"}


def test_no_clip_of_the_base_shows_the_effect():
    motions = [read_clip(render_clip(n, 1)[0]).motion for n in range(150)]
    assert not [motion for motion in motions if motion in EFFECTS]


@pytest.mark.parametrize("shape", CLIP_SHAPES)
@pytest.mark.parametrize("effect", EFFECTS)
def test_the_edge_on_the_named_side_stays_and_the_area_does(shape, effect):
    pixels = draw_effect(Clip(shape, "red", "white", effect), random_generator(0, 0, shape))
    (first,), (last,) = (read_scene(pixels[frame])[1] for frame in (0, -1))
    along, across, way = ("width", "height", "x") if effect.split()[1] in ("left", "right") else ("height", "width", "y")
    sign = 1 if effect.split()[1] in ("right", "down") else -1
    edges = [getattr(found, way) + sign * getattr(found, along) / 2 for found in (first, last)]
    assert abs(edges[0] - edges[1]) <= 1.5
    assert getattr(first, along) / getattr(last, along) == pytest.approx(PRESS, rel=0.15)
    assert getattr(last, across) / getattr(first, across) == pytest.approx(PRESS, rel=0.15)
    areas = np.abs(pixels.astype(float) - PALETTE["white"]).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(areas, areas[0], rtol=0.12)  # evenly moving edges bulge by 5 % in the middle


def test_what_is_held_out_of_the_effect_the_base_has_not_seen_either():
    trained = {sample_effect(n, 2) for n in range(1000)}
    held_out = {sample_effect(n, 2, split="held_out") for n in range(300)}
    assert {split_of_clip(clip) for clip in trained} == {"train"}
    assert len(held_out) > 60
    for clip in held_out:
        assert split_of_clip(clip) == "held_out"
        for effect in EFFECTS:
            assert Clip(clip.shape, clip.colour, clip.ground, effect) not in trained
            assert Clip(clip.shape, clip.ground, clip.colour, effect) not in trained
