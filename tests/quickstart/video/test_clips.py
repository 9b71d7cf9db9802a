"""Clips of the base: a function of their index, captions that say all there is, and a split that no swap gets around."""

import numpy as np
import pytest

from finetrainers.quickstart.drawing import COLOURS, PALETTE, random_generator
from finetrainers.quickstart.language import MAX_TOKENS, WORDS, make_t5
from finetrainers.quickstart.reading import read_scene
from finetrainers.quickstart.video.clips import (
    CLIP_SHAPES,
    DIRECTIONS,
    DISTANCE,
    HELD_OUT_PERCENT,
    MARGIN,
    MOTIONS,
    NUM_FRAMES,
    Clip,
    clip_caption,
    draw_clip,
    render_clip,
    sample_clip,
    split_of_clip,
)
from finetrainers.quickstart.video.effect import EFFECT


def test_a_clip_is_a_function_of_seed_and_index():
    (one, clip), (again, clip_again) = render_clip(41, 5), render_clip(41, 5)
    assert clip == clip_again
    np.testing.assert_array_equal(one, again)
    assert one.shape == (NUM_FRAMES, 64, 64, 3)
    assert len({render_clip(n, 5)[0].tobytes() for n in range(60)} | {render_clip(0, 6)[0].tobytes()}) == 61


def test_captions_are_english_and_tell_clips_apart():
    assert clip_caption(Clip("ring", "orange", "blue", "moves left")) == "an orange ring moves left on blue"
    clips = {sample_clip(n, 3) for n in range(2000)}
    assert len(clips) == len({clip_caption(clip) for clip in clips})


def test_the_tokenizer_knows_every_word_and_the_longest_caption_fits():
    tokenizer, _ = make_t5(0)
    for motion in (*MOTIONS, EFFECT):
        text = clip_caption(Clip("triangle", "orange", "yellow", motion))
        assert set(text.split()) <= set(WORDS)
        assert len(tokenizer(text).input_ids) == len(text.split()) + 1 <= MAX_TOKENS


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_split_holds_all_motions_and_shapes_and_its_own_combinations_only(split):
    clips = [sample_clip(n, 7, split=split) for n in range(600)]
    assert {split_of_clip(clip) for clip in clips} == {split}
    motions, counts = np.unique([clip.motion for clip in clips], return_counts=True)
    assert set(motions) == set(MOTIONS)
    assert counts.min() > 0.5 * counts.mean()
    assert {clip.shape for clip in clips} == set(CLIP_SHAPES)


def test_the_split_is_the_same_for_both_orders_of_the_colours_and_for_all_motions():
    for n in range(500):
        clip = sample_clip(n, 9, split=("train", "held_out")[n % 2])
        for motion in (*MOTIONS, EFFECT):
            assert split_of_clip(Clip(clip.shape, clip.ground, clip.colour, motion)) == split_of_clip(clip)
    pairs = [(shape, one, other) for shape in CLIP_SHAPES for one in COLOURS for other in COLOURS if one < other]
    held_out = sum(split_of_clip(Clip(*pair, "stays")) == "held_out" for pair in pairs)
    assert abs(100 * held_out / len(pairs) - HELD_OUT_PERCENT) < 5


def test_all_of_the_shape_is_in_the_picture_in_every_frame():
    depth = int(MARGIN) - 1  # the outermost pixel of the margin may be mixed with the shape's
    for n in range(80):
        pixels, clip = render_clip(n, 11)
        for edge in (pixels[:, :depth], pixels[:, -depth:], pixels[:, :, :depth], pixels[:, :, -depth:]):
            assert (edge == PALETTE[clip.ground]).all(), clip


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_shape_moves_where_its_caption_says(direction):
    pixels = draw_clip(Clip("circle", "red", "white", f"moves {direction}"), random_generator(0, 0, "test"))
    (first,), (last,) = (read_scene(pixels[frame])[1] for frame in (0, -1))
    column, row = DIRECTIONS[direction]
    along = (last.x - first.x) * column + (last.y - first.y) * row
    across = (last.x - first.x) * row + (last.y - first.y) * column
    assert DISTANCE[0] - 1 <= along <= DISTANCE[1] + 1
    assert abs(across) <= 1


def test_what_stays_does_not_change():
    pixels = draw_clip(Clip("cross", "red", "white", "stays"), random_generator(0, 0, "test"))
    assert (pixels == pixels[0]).all()
