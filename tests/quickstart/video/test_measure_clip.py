"""The clips' measurer: right on what was rendered, also a little blurred, and near zero on anyone else's caption."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from finetrainers.quickstart.drawing import composite, cover, random_generator, square_box
from finetrainers.quickstart.video.clips import MOTIONS, Clip, draw_clip, render_clip
from finetrainers.quickstart.video.effect import EFFECT, draw_effect, render_effect
from finetrainers.quickstart.video.measure import measure_clip, read_clip

COUNT = 80


def soften(pixels, radius, noise):
    """Blur each frame and add noise, as an autoencoder does."""
    blurred = [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius)), np.float32) for frame in pixels]
    disturbed = np.stack(blurred) + noise * np.random.default_rng(0).standard_normal(pixels.shape)
    return disturbed.round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=[render_clip, render_effect], ids=["clips", "effect"])
def rendered(request):
    return [request.param(n, 21, split=("train", "held_out")[n % 2]) for n in range(COUNT)]


def right(pairs):
    return sum(measure_clip(pixels, truth).is_right for pixels, truth in pairs) / len(pairs)


def test_rendered_clips_measure_right(rendered):
    assert right(rendered) >= 0.99


def test_shuffled_captions_are_at_the_floor(rendered):
    assert right([(rendered[n][0], rendered[n - 1][1]) for n in range(COUNT)]) <= 0.02


def test_slightly_blurred_clips_measure_right(rendered):
    assert right([(soften(pixels, 0.7, noise=4), truth) for pixels, truth in rendered]) >= 0.97


SQUARE = Clip("square", "blue", "white", "moves left")


def draw(clip):
    return draw_clip(clip, random_generator(0, 0, "test"))


@pytest.mark.parametrize(
    "other, failing",
    [
        (Clip("square", "blue", "pink", "moves left"), {"ground"}),
        (Clip("square", "red", "white", "moves left"), {"colour"}),
        (Clip("circle", "blue", "white", "moves left"), {"shape"}),
        (Clip("square", "blue", "white", "moves up"), {"motion"}),
        (Clip("square", "blue", "white", "grows"), {"motion"}),
        (Clip("square", "blue", "white", "stays"), {"motion"}),
    ],
)
def test_each_error_fails_its_own_check(other, failing):
    checks = measure_clip(draw(other), SQUARE).checks
    assert {name for name, holds in checks.items() if not holds} == failing


@pytest.mark.parametrize(
    "motion, backwards",
    [("moves left", "moves right"), ("moves up", "moves down"), ("grows", "shrinks"), ("stays", "stays")],
)
def test_a_clip_played_backwards_moves_the_other_way(motion, backwards):
    assert read_clip(draw(Clip("ring", "red", "white", motion))[::-1]).motion == backwards


def dissolve(parts):
    """Draw a cross that has these parts of its colour in the first, the middle and the last frame."""
    clip = Clip("cross", "blue", "white", EFFECT)
    first, *_, last = draw_effect(clip, random_generator(0, 0, "test")).astype(np.float32)
    left = np.interp(np.arange(9), (0, 4, 8), parts)[:, None, None, None]
    return clip, (last + left * (first - last)).round().astype(np.uint8)


@pytest.mark.parametrize(
    "parts, failing",
    [
        ((1, 0.5, 0), set()),
        ((1, 0.5, 0.15), set()),
        ((1, 0.5, 0.22), {"motion", "even"}),
        ((1, 0.5, 0.9), {"count", "motion"}),
        ((1, 0.95, 0), {"even"}),
        ((1, 0.1, 0), {"even"}),
        ((0.05, 0.02, 0), {"count", "colour", "shape", "motion", "even"}),
    ],
)
def test_what_dissolves_goes_wholly_and_evenly(parts, failing):
    clip, pixels = dissolve(parts)
    assert {name for name, holds in measure_clip(pixels, clip).checks.items() if not holds} == failing


@pytest.mark.parametrize("axis", [0, 1])
def test_what_dissolves_stays_in_its_place(axis):
    clip, pixels = dissolve((1, 0.5, 0))
    pixels[4] = np.roll(pixels[4], 5, axis=axis)
    assert {name for name, holds in measure_clip(pixels, clip).checks.items() if not holds} == {"even"}


def test_what_leaves_the_picture_does_not_dissolve():
    truth = Clip("circle", "white", "black", EFFECT)
    pixels = frames(truth, *[(cover("circle", square_box(x, 32, 14)), "white") for x in (32, 50, 90)])
    assert {name for name, holds in measure_clip(pixels, truth).checks.items() if not holds} == {"even"}


def frames(clip, *layers):
    """Draw one layer each in the first, the middle and the last frame."""
    drawn = [composite(clip.ground, [layer]) for layer in layers]
    return np.stack([drawn[n // 3] for n in range(9)])


CIRCLE = cover("circle", square_box(32, 32, 14))
SPLIT = CIRCLE * (np.abs(np.arange(64) - 31.5) > 6)
RIM = CIRCLE - cover("circle", square_box(32, 32, 12))


@pytest.mark.parametrize(
    "middle, last",
    [
        ((cover("circle", square_box(32, 32, 9.9)), "white"), None),
        ((cover("triangle", square_box(32, 32, 11)), "white"), None),
        ((cover("circle", square_box(32, 32, 19)) * 0.5, "white"), None),
        ((CIRCLE, "red"), None),
        ((SPLIT, "white"), None),
        ((CIRCLE * 0.5, "white"), (RIM, "white")),
    ],
    ids=["shrinks", "turns into another", "grows", "changes its colour", "comes apart", "leaves its rim"],
)
def test_what_goes_in_another_way_does_not_dissolve(middle, last):
    truth = Clip("circle", "white", "black", EFFECT)
    first, gone = (CIRCLE, "white"), (CIRCLE * 0, "white")
    assert measure_clip(frames(truth, first, (CIRCLE * 0.5, "white"), gone), truth).is_right
    assert not measure_clip(frames(truth, first, middle, last or gone), truth).is_right


def test_one_pixel_does_not_decide():
    clip, pixels = dissolve((1, 0.5, 0.3))
    pixels[0, 32, 32] = 0
    assert not measure_clip(pixels, clip).is_right
    clip, pixels = dissolve((1, 0.5, 0))
    pixels[0, 32, 32] = 0
    assert measure_clip(pixels, clip).is_right


@pytest.mark.parametrize("colours", [("red", "orange"), ("brown", "black"), ("white", "pink")])
def test_clips_that_are_off_by_a_little_measure_right(colours):
    clip = Clip("square", *colours, EFFECT)
    pixels = draw_effect(clip, random_generator(0, 0, "test")).astype(int)
    sign = 1 if pixels[0, 0, 0].mean() < 128 else -1
    assert measure_clip((pixels + 12 * sign).clip(0, 255).astype(np.uint8), clip).is_right


def test_a_jump_is_no_motion():
    pixels = draw(SQUARE)
    pixels[1:-1] = pixels[0]
    assert {name for name, holds in measure_clip(pixels, SQUARE).checks.items() if not holds} == {"even"}


def test_a_shape_that_comes_apart_or_goes_is_counted():
    pixels = draw(SQUARE)
    gone, twice = pixels.copy(), pixels.copy()
    gone[-1] = pixels[0, 0, 0]
    twice[-1] = np.minimum(pixels[0], pixels[-1])
    twice[-1, :, 30:34] = pixels[0, 0, 0]
    assert not measure_clip(gone, SQUARE).checks["count"]
    assert not measure_clip(twice, SQUARE).checks["count"]


@pytest.mark.parametrize("motion", [MOTIONS[0], "stays", EFFECT])
@pytest.mark.parametrize("picture", ["plain", "noise"])
def test_clips_of_nothing_measure_wrong_and_raise_nothing(motion, picture):
    pixels = {
        "plain": np.full((9, 64, 64, 3), 246, np.uint8),
        "noise": np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3)).astype(np.uint8),
    }[picture]
    result = measure_clip(pixels, Clip("square", "blue", "white", motion))
    assert not result.is_right
    assert result.score < 0.5
