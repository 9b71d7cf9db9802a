"""The sets of prompts: no caption is in two of them, and what is held out is."""

from dataclasses import replace

import numpy as np
import pytest
from diffusers import LTXConditionPipeline

from finetrainers.quickstart.comparison import CAPTION_SIZE, CELL, HEADER, font, wrap
from finetrainers.quickstart.evidence import draw_sets, figures, make_sets, shuffled
from finetrainers.quickstart.video.clips import Clip, clip_caption, render_clip, split_of_clip
from finetrainers.quickstart.video.effect import sample_effect
from finetrainers.quickstart.video.evaluate import BASE_SEED, draw_clips
from finetrainers.quickstart.video.showcase import GUIDANCE, SHOWCASE, VIDEO, frame_grid
from finetrainers.testing import make_tiny


def test_what_is_held_out_is_in_no_set_that_is_trained_on():
    sets = make_sets(replace(VIDEO, num_prompts=60, num_train=40, seed=3))
    captions = {name: {clip_caption(truth) for truth in prompts.truths} for name, prompts in sets.items()}
    assert not captions["base_train"] & captions["base_held_out"]
    assert not captions["concept_train"] & captions["concept_held_out"]
    assert {split_of_clip(truth) for truth in sets["base_held_out"].truths} == {"held_out"}
    assert {split_of_clip(truth) for truth in sets["concept_held_out"].truths} == {"held_out"}
    assert len(set(sets["concept_train"].truths)) <= 40
    assert sets["base_train"].truths[7] == render_clip(7, BASE_SEED)[1]


def test_real_clips_measure_right_and_others_captions_wrong():
    for prompts in make_sets(replace(VIDEO, num_prompts=20, num_train=20, seed=3)).values():
        assert figures(SHOWCASE, prompts.real, prompts.truths).right == 100
        assert figures(SHOWCASE, prompts.real, shuffled(prompts.truths)).right == 0


def test_no_clip_gets_its_own_caption_when_they_are_shuffled():
    clips = [Clip("ring", colour, "blue", "stays") for colour in ("red", "red", "red", "pink", "white")]
    assert [clip.colour for clip in shuffled(clips)] == ["pink", "pink", "pink", "white", "red"]
    assert shuffled(clips[:2]) == clips[:2]  # there is no other


def test_sets_are_drawn_with_guidance_from_the_seed(tmp_path):
    options = replace(VIDEO, base=make_tiny("ltx_video", tmp_path / "base", variant="0.9.5"), num_prompts=2, seed=5)
    prompts = make_sets(options)["concept_train"]
    drawn = draw_sets(options, {"one": prompts}, None, device="cpu")
    captions = [clip_caption(truth) for truth in prompts.truths]
    expected = draw_clips(LTXConditionPipeline.from_pretrained(options.base), captions, seed=5, guidance=GUIDANCE)
    np.testing.assert_array_equal(drawn["one"], expected)


def test_a_grid_holds_every_frame_in_reading_order_with_lines_between():
    pixels, _ = render_clip(0, 1)
    grid = frame_grid(pixels)
    assert grid.shape == (CELL, CELL, 3)
    for n, frame in enumerate(pixels):
        row, column = divmod(n, 3)
        cell = grid[64 * row : 64 * row + 64, 64 * column : 64 * column + 64]
        np.testing.assert_array_equal(cell[:-1, :-1], frame[:-1, :-1])
        assert (cell[-1] == 255).all()
        assert (cell[:, -1] == 255).all()


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_every_caption_fits_above_its_clip(split):
    for n in range(200):
        lines = wrap(clip_caption(sample_effect(n, 3, split=split))).splitlines()
        assert max(font(CAPTION_SIZE).getlength(line) for line in lines) <= CELL
        assert len(lines) * (CAPTION_SIZE + 5) <= HEADER
