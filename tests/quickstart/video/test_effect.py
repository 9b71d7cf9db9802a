"""The effect: new to the base in its clips and in one word, and held out by shape and colours."""

import numpy as np
import pytest

from finetrainers.quickstart.drawing import PALETTE, random_generator
from finetrainers.quickstart.reading import read_scene
from finetrainers.quickstart.video.clips import CLIP_SHAPES, Clip, clip_caption, render_clip, sample_clip, split_of_clip
from finetrainers.quickstart.video.effect import EFFECT, draw_effect, render_effect, sample_effect
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
    assert effect - base == {EFFECT}


def test_no_clip_of_the_base_shows_the_effect():
    for n in range(150):
        pixels, clip = render_clip(n, 1)
        assert read_clip(pixels).motion == clip.motion
        away = np.abs(pixels.astype(int) - np.array(PALETTE[clip.colour])).sum(axis=-1)
        assert (away.min(axis=(1, 2)) == 0).all()  # in each frame, some of it has its full colour


@pytest.mark.parametrize("shape", CLIP_SHAPES)
def test_the_shape_loses_its_colour_evenly_and_in_its_place(shape):
    pixels = draw_effect(Clip(shape, "red", "blue", EFFECT), random_generator(0, 0, shape)).astype(np.float32)
    ground = np.array(PALETTE["blue"], np.float32)
    first = pixels[0] - ground
    for part, frame in zip(np.linspace(1, 0, len(pixels)), pixels, strict=True):
        np.testing.assert_allclose(frame - ground, part * first, atol=1)
    (found,) = read_scene(pixels[0].astype(np.uint8))[1]
    assert (found.shape, found.colour) == (shape, "red")


def test_what_is_held_out_of_the_effect_the_base_has_not_seen_either():
    trained = {sample_effect(n, 2) for n in range(1000)}
    held_out = {sample_effect(n, 2, split="held_out") for n in range(300)}
    assert {split_of_clip(clip) for clip in trained} == {"train"}
    assert len(held_out) > 30
    assert {clip.shape for clip in held_out} == set(CLIP_SHAPES)
    for clip in held_out:
        assert split_of_clip(clip) == "held_out"
        assert clip not in trained
        assert Clip(clip.shape, clip.ground, clip.colour, EFFECT) not in trained
