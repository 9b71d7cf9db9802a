"""Clips that a plain LTXConditionPipeline draws: what their noise depends on, and what is counted of them."""

import numpy as np
import pytest
from diffusers import LTXConditionPipeline

from finetrainers.quickstart import figures
from finetrainers.quickstart.video import evaluate
from finetrainers.quickstart.video.clips import NUM_FRAMES, clip_caption, render_clip, sample_clip
from finetrainers.quickstart.video.evaluate import draw_clips, evaluate_clips
from finetrainers.testing import make_tiny

CAPTIONS = [clip_caption(sample_clip(n, 0)) for n in range(3)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return LTXConditionPipeline.from_pretrained(make_tiny("ltx_video", tmp_path_factory.mktemp("tiny"), variant="0.9.5"))


def test_a_clips_noise_depends_on_seed_and_number_alone(pipeline, monkeypatch):
    together = draw_clips(pipeline, CAPTIONS, seed=4, steps=2)
    assert together.shape == (3, NUM_FRAMES, 64, 64, 3)
    assert together.dtype == np.uint8
    monkeypatch.setattr(figures, "BATCH_SIZE", 2)
    in_batches = draw_clips(pipeline, CAPTIONS, seed=4, steps=2)
    np.testing.assert_allclose(in_batches.astype(int), together, atol=1)  # other batch sizes round otherwise
    same_captions = draw_clips(pipeline, CAPTIONS[:1] * 2, seed=4, steps=2)
    assert np.abs(same_captions[0].astype(int) - same_captions[1]).mean() > 1
    assert np.abs(draw_clips(pipeline, CAPTIONS[:1], seed=5, steps=2)[0].astype(int) - together[0]).mean() > 1


def test_guidance_changes_what_is_drawn(pipeline):
    plain, guided = (draw_clips(pipeline, CAPTIONS[:1], seed=4, steps=2, guidance=scale) for scale in (1.0, 3.0))
    assert (plain != guided).any()


def test_figures_are_those_of_the_clips_that_are_drawn(pipeline, monkeypatch):
    rendered = [render_clip(n, 8) for n in range(6)]
    truths = [truth for _, truth in rendered]
    result, clips = evaluate_clips(pipeline, truths)
    assert (result.right, result.count, len(clips)) == (0.0, 6, 6)
    real = np.stack([pixels for pixels, _ in rendered])
    monkeypatch.setattr(evaluate, "draw_clips", lambda *_, **__: real)
    assert evaluate_clips(pipeline, truths)[0].right == 100.0
    assert evaluate_clips(pipeline, truths[::-1])[0].right == 0.0
