"""Order: what the n-th sample is, for any way of asking."""

import pickle
from collections import Counter
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from finetrainers.data.order.draws import permutation, uniform
from finetrainers.data.order.order import Group, Order
from finetrainers.errors import DataError

sizes = st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any)


def make_groups(counts: list[int], buckets: list[int], repeats: list[float]) -> list[Group]:
    starts = [0, *accumulate(counts)]
    return [
        Group(bucket, np.arange(start, start + count), repeat)
        for start, count, bucket, repeat in zip(starts, counts, buckets, repeats, strict=False)
    ]


@st.composite
def orders(draw: st.DrawFn) -> tuple[Order, list[Group]]:
    counts = draw(sizes)
    buckets = [draw(st.integers(0, 2)) for _ in counts]
    repeats = [draw(st.sampled_from([1.0, 2.0, 0.5, 1.5, 0.3])) for _ in counts]
    groups = make_groups(counts, buckets, repeats)
    return Order(draw(st.integers(0, 99)), draw(st.integers(1, 7)), groups), groups


@settings(deadline=None, max_examples=60)
@given(orders())
def test_every_step_takes_a_full_batch_of_one_bucket(made: tuple[Order, list[Group]]) -> None:
    order, groups = made
    bucket_of = {int(sample): group.bucket for group in groups for sample in group.samples}
    for step in range(20):
        chosen = order.step(step)
        assert len(chosen.samples) == order.batch_size
        assert {bucket_of[int(sample)] for sample in chosen.samples} == {chosen.bucket}


@settings(deadline=None, max_examples=60)
@given(orders())
def test_positions_count_samples_without_a_gap(made: tuple[Order, list[Group]]) -> None:
    order, _ = made
    positions = np.concatenate([order.step(step).positions for step in range(9)])
    assert positions.tolist() == list(range(9 * order.batch_size))


@settings(deadline=None, max_examples=40)
@given(orders())
def test_no_sample_is_dropped_and_none_is_favoured(made: tuple[Order, list[Group]]) -> None:
    """After many epochs, each sample has come ``repeats`` times an epoch, but for the few that wait for a full batch."""
    order, groups = made
    epochs = 40
    seen = Counter(s for step in range(order.first_step(epochs)) for s in order.step(step).samples.tolist())
    for group in groups:
        counts = [seen[int(sample)] for sample in group.samples]
        waiting = order.batch_size
        assert all(count <= group.repeats * epochs + 1 for count in counts)
        assert sum(counts) >= int(group.repeats * epochs * len(counts)) - waiting


@pytest.mark.parametrize("batch_size", [1, 2, 5, 10])
def test_an_epoch_of_one_bucket_is_a_permutation(batch_size: int) -> None:
    """Where batches fill an epoch, each epoch shows each sample once, in an order of its own."""
    order = Order(3, batch_size, [Group(0, np.arange(10), 1.0)])
    stream = np.concatenate([order.step(step).samples for step in range(-(-40 // batch_size))])
    epochs = [stream[start : start + 10].tolist() for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_any_step_can_be_asked_for_at_any_time() -> None:
    """A fresh order asked for one step, in whatever sequence, says what one that was asked for all says."""
    groups = make_groups([5, 7, 2], [0, 1, 0], [1.0, 1.5, 2.0])
    order = Order(1, 3, groups)
    steps = [order.step(step).samples.tolist() for step in range(30)]
    for step in (29, 0, 17, 5):
        assert Order(1, 3, groups).step(step).samples.tolist() == steps[step]
        assert order.step(step).samples.tolist() == steps[step]
        assert pickle.loads(pickle.dumps(order)).step(step).samples.tolist() == steps[step]


def test_seeds_give_other_orders() -> None:
    groups = make_groups([50], [0], [1.0])
    first = [Order(seed, 10, groups).step(0).samples.tolist() for seed in range(3)]
    assert len({tuple(batch) for batch in first}) == 3


def test_buckets_take_turns() -> None:
    """Batches of all buckets are mixed within an epoch, not one bucket after the other."""
    order = Order(0, 2, make_groups([40, 40], [0, 1], [1.0, 1.0]))
    buckets = [order.step(step).bucket for step in range(order.first_step(1))]
    assert buckets != sorted(buckets)
    assert buckets != sorted(buckets, reverse=True)


def test_a_starved_bucket_is_named() -> None:
    order = Order(0, 4, make_groups([8, 1], [0, 1], [1.0, 1.0]))
    assert order.starved(4) == [1]
    assert order.starved(100) == []
    assert order.starved(0) == []


@settings(deadline=None, max_examples=60)
@given(orders(), st.integers(0, 30))
def test_starved_buckets_are_those_that_no_step_takes(made: tuple[Order, list[Group]], steps: int) -> None:
    order, groups = made
    buckets = {group.bucket for group in groups if len(group.samples)}
    assert order.starved(steps) == (sorted(buckets - {order.step(s).bucket for s in range(steps)}) if steps else [])


@settings(deadline=None, max_examples=60)
@given(orders())
def test_epochs_are_counted_as_their_definition_says(made: tuple[Order, list[Group]]) -> None:
    """An epoch takes ``repeats`` times each group, exactly over many epochs; full batches of each bucket count."""
    order, groups = made
    for epoch in (0, 1, 2, 7, 1000, 10**6 + 1):
        drawn: Counter[int] = Counter()
        for group in groups:
            drawn[group.bucket] += int(epoch * Fraction(str(group.repeats)) * len(group.samples))
        first = sum(count // order.batch_size for count in drawn.values())
        assert order.first_step(epoch) == first
        for step in range(max(0, first - 2), first + 2):
            assert order.first_step(order.epoch_of(step)) <= step < order.first_step(order.epoch_of(step) + 1)


def test_a_step_of_a_known_epoch_costs_no_walk_through_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(0, 4, make_groups([50] * 120, [i // 2 for i in range(120)], [1.0] * 120))
    steps = range(order.first_step(9), order.first_step(10))
    for step in steps:
        order.step(step)
    looks: list[int] = []
    count = Order._group_drawn
    monkeypatch.setattr(Order, "_group_drawn", lambda *args: looks.append(1) or count(*args))
    for step in steps:
        order.step(step)
    assert not looks


def test_no_sample_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no sample to train on"):
        Order(0, 1, [Group(0, np.arange(0), 1.0)])


def test_uniform_draws_are_uniform_and_depend_on_all_their_arguments() -> None:
    positions = np.arange(200_000)
    u = uniform(7, positions, "sigma")
    assert 0 <= u.min() <= u.max() < 1
    assert abs(u.mean() - 0.5) < 0.002
    assert np.histogram(u, 20, (0, 1))[0] == pytest.approx(10_000, rel=0.05)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(u, uniform(8, positions, "sigma"))[0, 1]) < 0.01
    assert abs(np.corrcoef(u, uniform(7, positions, "view"))[0, 1]) < 0.01
    assert uniform(7, np.array([123]), "sigma")[0] == u[123]


def test_permutations_are_pure_functions() -> None:
    assert permutation(100, 1, "a").tolist() == permutation(100, 1, "a").tolist()
    assert permutation(100, 1, "a").tolist() != permutation(100, 1, "b").tolist()
    assert sorted(permutation(100, 1, "a")) == list(range(100))
