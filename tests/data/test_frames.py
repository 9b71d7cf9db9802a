"""Which latent frames of a control are shown: those of the kind, those that there are, and each set as often as is said."""

from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from finetrainers.config import ChannelConcatConfig
from finetrainers.data.frames import FrameSelection, FrameSet
from finetrainers.data.order.draws import uniform

KINDS = get_args(FrameSet)
SHOWN = st.builds(
    FrameSelection, st.sampled_from(KINDS), index=st.integers(0, 9), dropout=st.sampled_from([0.0, 0.0, 0.3, 0.9])
)


def draw(shown, positions, frames, seed=0):
    """The draws [B, n] of these positions, made as the loader makes its own."""
    draws = (uniform(seed, np.asarray(positions), purpose) for purpose in shown.draws(frames, "control"))
    return torch.stack([torch.from_numpy(u) for u in draws], dim=1)


def shown_at(shown, count, frames, available, seed=0):
    """What is shown of the first ``count`` positions, [count, frames], all controls being of one length."""
    u = draw(shown, np.arange(count), frames, seed)
    return shown.at(u, frames=frames, available=torch.full([count], available))


def subsets(frames):
    """All sets of F frames but the empty one, as rows."""
    return {row for row in product([0.0, 1.0], repeat=frames) if any(row)}


def possible(shown, frames, available):
    """By definition, the rows that a kind can show without dropout."""
    there = [float(frame < available) for frame in range(frames)]
    match shown.kind:
        case "full":
            rows = {tuple(there)}
        case "index":
            rows = {tuple(float(frame == shown.index) * there[frame] for frame in range(frames))}
        case "first_and_last":
            rows = {tuple(float(frame in (0, frames - 1)) * there[frame] for frame in range(frames))}
        case "prefix":
            lengths = range(1, min(available, frames) + 1)
            rows = {tuple(float(frame < length) for frame in range(frames)) for length in lengths}
        case "random":
            rows = {row for row in subsets(frames) if all(a <= b for a, b in zip(row, there, strict=True))}
    return rows or {(0.0,) * frames}


def rows_of(tensor):
    return {tuple(row) for row in tensor.tolist()}


def test_the_kinds_are_those_of_the_configuration():
    assert set(KINDS) == set(get_args(ChannelConcatConfig.model_fields["frames"].annotation))
    default = ChannelConcatConfig(kind="channel_concat", signal="gray")
    assert FrameSelection() == FrameSelection(default.frames, index=default.frame_index, dropout=1 - default.probability)


@given(SHOWN, st.integers(1, 7), st.lists(st.integers(0, 10), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=300, deadline=None)
def test_only_sets_of_the_kind_are_shown_and_only_of_what_there_is(shown, frames, lengths, seed):
    u = draw(shown, np.arange(len(lengths)), frames, seed)
    mask = shown.at(u, frames=frames, available=torch.tensor(lengths))
    assert mask.dtype == torch.float32
    assert mask.shape == (len(lengths), frames)
    assert rows_of(mask) <= set(product([0.0, 1.0], repeat=frames))
    for row, length, (dropped, *_) in zip(mask.tolist(), lengths, u.tolist(), strict=True):
        assert tuple(row) in (possible(shown, frames, length) if dropped >= shown.dropout else {(0.0,) * frames})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("available", [0, 1, 2, 3, 4, 9])
def test_every_set_of_the_kind_occurs(kind, frames, available):
    shown = FrameSelection(kind, index=1)
    assert rows_of(shown_at(shown, 2000, frames, available)) == possible(shown, frames, available)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "index"])
def test_a_control_of_one_frame_is_shown(kind):
    assert bool((shown_at(FrameSelection(kind), 20, frames=1, available=1) == 1).all())
    assert FrameSelection(kind).for_sampling(1, 1).tolist() == [[1.0]]


def test_an_index_beyond_the_frames_shows_nothing():
    for index, expected in ((0, 1.0), (1, 0.0), (100, 0.0)):
        shown = FrameSelection("index", index=index)
        assert bool((shown_at(shown, 20, frames=1, available=1) == expected).all())
        assert shown.for_sampling(1, 1).tolist() == [[expected]]


@pytest.mark.parametrize("available", [3, 5, 8])
def test_lengths_of_prefixes_are_uniform(available):
    mask = shown_at(FrameSelection("prefix"), 20000, frames=5, available=available)
    longest = min(available, 5)
    shares = torch.bincount(mask.sum(1).long(), minlength=6).double() / len(mask)
    expected = torch.tensor([1 / longest if 1 <= length <= longest else 0.0 for length in range(6)]).double()
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.015)


@pytest.mark.parametrize("available", [2, 3, 4, 7])
def test_sizes_of_random_sets_are_uniform_and_so_are_the_sets_of_a_size(available):
    mask = shown_at(FrameSelection("random"), 40000, frames=4, available=available)
    longest = min(available, 4)
    sizes = torch.bincount(mask.sum(1).long(), minlength=5).double() / len(mask)
    assert sizes[0] == 0
    torch.testing.assert_close(sizes[1 : longest + 1], torch.full([longest], 1 / longest).double(), rtol=0, atol=0.015)
    for size in range(1, longest + 1):
        rows, counts = mask[mask.sum(1) == size].unique(dim=0, return_counts=True)
        torch.testing.assert_close(counts / counts.sum(), torch.full([len(rows)], 1 / len(rows)), rtol=0, atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_shown_as_often_as_is_asked_for_whatever_would_be(kind):
    always, sometimes = (shown_at(FrameSelection(kind, dropout=p), 20000, frames=4, available=4) for p in (0.0, 0.2))
    is_dropped = sometimes.sum(1) == 0
    assert float(is_dropped.double().mean()) == pytest.approx(0.2, abs=0.01)
    assert bool((always.sum(1) > 0).all())
    assert torch.equal(sometimes[~is_dropped], always[~is_dropped])
    # What is dropped has nothing to do with what would be shown.
    torch.testing.assert_close(always[is_dropped].mean(0), always[~is_dropped].mean(0), rtol=0, atol=0.04)


@given(SHOWN, st.integers(1, 6), st.integers(2, 12), st.data())
@settings(max_examples=150, deadline=None)
def test_draws_belong_to_the_position_whatever_the_batch(shown, frames, count, data):
    available = torch.tensor(data.draw(st.lists(st.integers(0, 7), min_size=count, max_size=count)))
    split = data.draw(st.integers(1, count - 1))
    order = data.draw(st.permutations(range(count)))
    positions = np.arange(100, 100 + count)
    whole = shown.at(draw(shown, positions, frames), frames=frames, available=available)
    for part in (slice(None, split), slice(split, None), order):
        alone = shown.at(draw(shown, positions[part], frames), frames=frames, available=available[part])
        assert torch.equal(alone, whole[part])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6))
def test_equal_draws_choose_the_same_in_every_batch(frames, count, batch):
    u = torch.full((1, 2 + frames), 0.5, dtype=torch.float64)
    alone = FrameSelection("random").at(u, frames=frames, available=torch.tensor([count]))
    many = FrameSelection("random").at(u.expand(batch, -1), frames=frames, available=torch.tensor([count]).expand(batch))
    assert torch.equal(many, alone.expand(batch, -1))
    assert alone[0, 0] == 1  # the first of those that are equal


@pytest.mark.parametrize("kind", KINDS)
def test_every_draw_has_a_purpose_of_its_own(kind):
    purposes = FrameSelection(kind).draws(12, "control")
    assert len(set(purposes)) == len(purposes)
    assert all(purpose.startswith("control ") for purpose in purposes)  # and none of the objective's


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["prefix", "random"])
def test_the_smallest_and_the_largest_draw_stay_within_the_frames(kind, dtype):
    for value, size in ((0.0, 1), (1 - 2.0**-24, 3)):
        u = torch.full((1, 2 + 5), value, dtype=dtype)
        for available, expected in ((3, size), (1, 1), (0, 0)):
            mask = FrameSelection(kind).at(u, frames=5, available=torch.tensor([available]))
            assert mask.sum() == expected


@given(SHOWN, st.integers(1, 6), st.integers(0, 9))
@settings(deadline=None)
def test_what_a_picture_is_drawn_with_is_all_that_training_can_show(shown, frames, available):
    mask = shown.for_sampling(frames, available)
    assert mask.dtype == torch.float32
    assert mask.shape == (1, frames)
    largest = max(possible(shown, frames, available), key=sum)
    assert mask[0].tolist() == list(largest)
