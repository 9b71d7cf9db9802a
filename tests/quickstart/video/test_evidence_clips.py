"""The sets of prompts: no caption is in two of them, and what is held out is."""

import numpy as np
from diffusers import LTXPipeline

from finetrainers.quickstart.comparison import CELL
from finetrainers.quickstart.video.clips import clip_caption, render_clip, split_of_clip
from finetrainers.quickstart.video.effect import split_of_effect
from finetrainers.quickstart.video.evaluate import draw_clips
from finetrainers.quickstart.video.evidence import BASE_SEED, GUIDANCE, draw_clip_sets, frame_grid, make_clip_sets
from finetrainers.quickstart.video.measure import measure_clip
from finetrainers.testing import make_tiny


def test_what_is_held_out_is_in_no_set_that_is_trained_on():
    sets = make_clip_sets(60, seed=3, num_train=40)
    captions = {name: {clip_caption(truth) for truth in prompts.truths} for name, prompts in sets.items()}
    assert not captions["base_train"] & captions["base_held_out"]
    assert not captions["concept_train"] & captions["concept_held_out"]
    assert {split_of_clip(truth) for truth in sets["base_held_out"].truths} == {"held_out"}
    assert {split_of_effect(truth) for truth in sets["concept_held_out"].truths} == {"held_out"}
    assert len(set(sets["concept_train"].truths)) <= 40
    assert sets["base_train"].truths[7] == render_clip(7, BASE_SEED)[1]


def test_real_clips_measure_right_and_others_captions_wrong():
    for prompts in make_clip_sets(20, seed=3, num_train=20).values():
        truths, real = prompts.truths, prompts.real
        assert all(measure_clip(pixels, truth).is_right for pixels, truth in zip(real, truths, strict=True))
        others = [*truths[1:], truths[0]]
        assert not any(measure_clip(pixels, truth).is_right for pixels, truth in zip(real, others, strict=True))


def test_sets_are_drawn_with_guidance_from_the_seed(tmp_path):
    base = make_tiny("ltx_video", tmp_path / "base")
    sets = {"one": make_clip_sets(2, seed=3, num_train=2)["concept_train"]}
    drawn = draw_clip_sets(sets, base, None, device="cpu", seed=5)
    captions = [clip_caption(truth) for truth in sets["one"].truths]
    expected = draw_clips(LTXPipeline.from_pretrained(base), captions, seed=5, guidance=GUIDANCE)
    np.testing.assert_array_equal(drawn["one"], expected)


def test_a_grid_holds_every_frame_in_reading_order():
    pixels, _ = render_clip(0, 1)
    grid = frame_grid(pixels)
    assert grid.shape == (CELL, CELL, 3)
    for n, frame in enumerate(pixels):
        row, column = divmod(n, 3)
        np.testing.assert_array_equal(grid[64 * row : 64 * row + 64, 64 * column : 64 * column + 64], frame)
