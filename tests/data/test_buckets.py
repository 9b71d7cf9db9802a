"""Buckets: each item goes to the nearest one that fits, and the reason is given where none does."""

import math
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from finetrainers.config import parse_config
from finetrainers.config.data import PixelBudget
from finetrainers.data.catalog.buckets import BLOCK_ITEMS, assign_buckets, resolve_buckets, why_unassigned
from finetrainers.errors import ConfigError


def assign(items, buckets, max_upscale=2.0):
    """Bucket of each item (frames, height, width), or None."""
    columns = [np.array(column) for column in zip(*items, strict=True)]
    chosen = assign_buckets(*columns, buckets=buckets, max_upscale=max_upscale)
    assert chosen.dtype == np.int32
    return [None if i < 0 else buckets[i] for i in chosen]


# Generation


def test_a_list_stays_a_list_without_duplicates():
    assert resolve_buckets(((49, 8, 8), (1, 8, 8), (49, 8, 8))) == ((49, 8, 8), (1, 8, 8))


@given(st.integers(32, 1 << 21), st.sampled_from([1, 8, 16, 32]), st.floats(1, 4))
@settings(max_examples=60, deadline=None)
def test_generated_sizes_fill_the_budget(pixels, step, max_aspect):
    assume(pixels >= step**2)
    sizes = [(h, w) for _, h, w in resolve_buckets(PixelBudget(pixels=pixels, step=step, max_aspect=max_aspect))]

    def fits(h, w):
        return h * w <= pixels and max(h / w, w / h) <= max_aspect + 1e-6

    assert sizes
    assert len(set(sizes)) == len(sizes)
    assert {(w, h) for h, w in sizes} == set(sizes)  # as many wide as tall
    for h, w in sizes:
        assert h % step == w % step == 0
        assert fits(h, w)
        assert not fits(h + step, w)
        assert not fits(h, w + step)


def test_generated_sizes_cover_all_aspects():
    sizes = [(h, w) for _, h, w in resolve_buckets(PixelBudget(pixels=512 * 512, step=32, max_aspect=2))]
    aspects = np.log([w / h for h, w in sizes])
    wanted = np.linspace(-math.log(2), math.log(2), 200)
    assert np.abs(wanted[:, None] - aspects).min(1).max() < math.log(1.12)
    assert min(h * w for h, w in sizes) > 0.9 * 512 * 512
    assert (512, 512) in sizes


def test_each_frame_count_has_each_size():
    one, two = (resolve_buckets(PixelBudget(pixels=65536, frames=frames)) for frames in ((1,), (1, 49)))
    assert two == one + tuple((49, h, w) for _, h, w in one)


def test_a_budget_below_one_step_is_an_error():
    sections = {"output_dir": "runs", "model": {"name": "flux", "path": "x"}}
    message = r"data\.0\.buckets\.pixels: 1000 is too small for a size in steps of 32; set at least 1024"
    with pytest.raises(ConfigError, match=message):
        parse_config({**sections, "data": [{"path": "x", "buckets": {"pixels": 1000}}]})


# Assignment

BUCKETS = ((1, 512, 512), (1, 512, 768), (1, 768, 512), (49, 512, 768), (97, 512, 768), (49, 256, 384))


def test_the_nearest_in_aspect_and_duration():
    assert assign(
        [(1, 600, 600), (1, 600, 1000), (1, 1000, 600), (60, 512, 768), (95, 512, 768), (300, 1080, 1920), (48, 512, 768)],
        BUCKETS,
    ) == [BUCKETS[0], BUCKETS[1], BUCKETS[2], BUCKETS[3], BUCKETS[3], BUCKETS[4], BUCKETS[1]]


def test_ties_prefer_no_enlargement_then_the_larger():
    assert assign([(49, 500, 750), (49, 512, 768), (49, 2000, 3000)], BUCKETS) == [BUCKETS[5], BUCKETS[3], BUCKETS[3]]
    assert assign([(49, 300, 450)], BUCKETS) == [BUCKETS[5]]
    assert assign([(49, 128, 192)], BUCKETS) == [BUCKETS[5]]  # both enlarge, only one by no more than 2


def test_enlargement_has_a_limit():
    assert assign([(1, 256, 256), (1, 255, 256), (1, 256, 255)], BUCKETS) == [BUCKETS[0], None, None]
    assert assign([(1, 255, 255)], BUCKETS, max_upscale=3.0) == [BUCKETS[0]]
    assert assign([(1, 511, 512), (1, 512, 512)], BUCKETS[:1], max_upscale=1.0) == [None, BUCKETS[0]]


def test_an_image_goes_to_image_buckets_only():
    assert assign([(1, 2000, 2000)], BUCKETS[3:]) == [None]


@given(
    st.lists(st.tuples(st.integers(2, 60), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=10),
    st.lists(st.tuples(st.sampled_from([1, 9, 17]), st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=6),
)
@settings(deadline=None)
def test_what_stays_video_is_assigned_as_if_there_were_no_image_buckets(items, buckets):
    columns = [np.array(column) for column in zip(*items, strict=True)]
    options = {"buckets": buckets, "max_upscale": 2.0}
    without = [bucket for bucket in buckets if bucket[0] > 1]
    video = assign_buckets(*columns, **options, stays_video=np.ones(len(items), np.bool_))
    found = [None if choice < 0 else buckets[choice] for choice in video]
    assert found == assign(items, tuple(without))
    assert assign_buckets(*columns, **options, stays_video=np.zeros(len(items), np.bool_)).tolist() == (
        assign_buckets(*columns, **options).tolist()
    )


def test_unreadable_items_go_nowhere():
    assert assign([(0, 0, 0)], BUCKETS) == [None]


def nearest(item, buckets, max_upscale):
    """The rule, written for one item."""
    frames, height, width = item

    def rank(bucket):
        upscale = max(bucket[1] / height, bucket[2] / width)
        aspects = abs(math.log(width / height) - math.log(bucket[2] / bucket[1]))
        distance = aspects + abs(math.log(frames) - math.log(bucket[0]))
        return round(distance, 9), upscale > 1, -bucket[1] * bucket[2]

    fits = [b for b in buckets if b[0] <= frames and max(b[1] / height, b[2] / width) <= max_upscale + 1e-9]
    return rank(min(fits, key=rank)) if fits else None, rank


sizes = st.tuples(st.integers(1, 60), st.integers(1, 40), st.integers(1, 40))


@given(st.lists(sizes, min_size=1, max_size=30), st.lists(sizes, min_size=1, max_size=8, unique=True), st.floats(1, 5))
@settings(deadline=None)
def test_many_items_are_assigned_like_each_alone(items, buckets, max_upscale):
    for item, chosen in zip(items, assign(items, tuple(buckets), max_upscale), strict=True):
        best, rank = nearest(item, buckets, max_upscale)
        assert (None if chosen is None else rank(chosen)) == best


def test_a_million_items_take_a_moment():
    """A tenth of the promised ten million; blocks do not show in the result."""
    count = 10 * BLOCK_ITEMS + 7
    random = np.random.default_rng(0)
    columns = [random.integers(1, 200, count), random.integers(100, 2000, count), random.integers(100, 2000, count)]
    buckets = resolve_buckets(PixelBudget(pixels=512 * 512, frames=(1, 49)))[:20]
    start = time.process_time()
    chosen = assign_buckets(*columns, buckets=buckets, max_upscale=2.0)
    assert time.process_time() - start < 2
    part = slice(BLOCK_ITEMS - 50, BLOCK_ITEMS + 50)
    alone = assign_buckets(*(column[part] for column in columns), buckets=buckets, max_upscale=2.0)
    assert (chosen[part] == alone).all()


def test_the_reason_is_readable():
    options = {"buckets": BUCKETS[3:], "max_upscale": 2.0}
    assert why_unassigned(7, 512, 768, **options) == "has 7 frames; the shortest bucket needs 49"
    assert why_unassigned(1, 512, 768, **options) == "has 1 frame; the shortest bucket needs 49"
    assert why_unassigned(60, 4, 6, **options) == (
        "6x4 pixels would be enlarged 64 times for the bucket [49, 256, 384], max_upscale is 2"
    )
    assert why_unassigned(1, 1, 1, buckets=((1, 64, 64),), max_upscale=2.0).startswith(
        "1x1 pixels would be enlarged 64 times"
    )
