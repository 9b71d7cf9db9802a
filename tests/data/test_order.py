"""Order: what the n-th sample is, for any way of asking."""

import math
import multiprocessing
import pickle
import sys
import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from finetrainers.config import LoaderConfig
from finetrainers.data.loader import load_steps
from finetrainers.data.order.draws import keys_of, shuffled, uniform
from finetrainers.data.order.epochs import Epochs
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
    count = Epochs._group_drawn
    monkeypatch.setattr(Epochs, "_group_drawn", lambda *args: looks.append(1) or count(*args))
    for step in steps:
        order.step(step)
    assert not looks


def test_an_order_keeps_nothing_that_grows_with_the_samples() -> None:
    """Steps of several epochs of half a million samples leave less behind than a byte for each."""
    order = Order(0, 8, make_groups([400_000, 100_000], [0, 1], [1.0, 2.0]))
    tracemalloc.start()
    for step in (0, order.first_step(1), order.first_step(3) + 7):
        order.step(step)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept <= peak < 500_000


class TellsOfWorker:
    """Stands for the steps of a run; each batch says how its worker was born."""

    def __getitem__(self, step: int) -> str:
        return type(multiprocessing.current_process()).__name__


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not forked")
def test_loader_workers_share_what_the_run_holds() -> None:
    """Also where the run itself was spawned."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        (told,) = load_steps(TellsOfWorker(), LoaderConfig(workers=1), start=0, stop=1, pin=False)
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert told == "ForkProcess"


class Fails:
    """Stands for the steps of a run that cannot be read, by a mistake of the program."""

    def __getitem__(self, step: int) -> str:
        raise RuntimeError("planted")


def test_workers_end_with_an_error_that_is_still_held() -> None:
    """They ignore signals: a process that ends with it would wait for them for ever."""
    with pytest.raises(RuntimeError, match="planted") as held:
        list(load_steps(Fails(), LoaderConfig(workers=1), start=0, stop=9, pin=False))
    assert not multiprocessing.active_children(), held


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


def order_of(count: int, key: int) -> list[int]:
    return shuffled(np.arange(count), np.asarray(count), np.asarray(key, np.uint64)).tolist()


def test_a_random_order_has_each_number_once() -> None:
    """For all small counts, side by side with keys of their own, and for some large ones."""
    counts = np.repeat(np.arange(1, 301), np.arange(1, 301))
    places = np.concatenate([np.arange(count) for count in range(1, 301)])
    found = shuffled(places, counts, keys_of(np.asarray(1, np.uint64), counts))
    assert found.tolist() != places.tolist()
    assert np.array_equal(found[np.lexsort((found, counts))], places)
    for count in (65_536, 99_991, 2**20 + 1):
        assert np.array_equal(np.sort(order_of(count, count)), np.arange(count))


def test_random_orders_of_more_than_memory_holds_are_within_their_counts() -> None:
    places = np.array([0, 1, 2**40, 2**61 - 1])
    found = shuffled(places, np.asarray(2**61), np.asarray(5, np.uint64))
    assert len(set(found.tolist())) == len(places)
    assert 0 <= found.min() <= found.max() < 2**61


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 12])
def test_all_random_orders_are_equally_likely(count: int) -> None:
    """Over many keys: each number at each place, each pair of neighbours, and for a few numbers each order."""
    num_keys = 30_000
    keys = keys_of(np.asarray(11, np.uint64), np.arange(num_keys))
    orders = np.stack([shuffled(np.full(num_keys, i), np.full(num_keys, count), keys) for i in range(count)], axis=1)
    for place in range(count):
        assert chi_square(np.bincount(orders[:, place], minlength=count)) < 5
    pairs = np.bincount(orders[:, 0] * count + orders[:, -1], minlength=count**2)
    assert chi_square(pairs[np.arange(count**2) % (count + 1) > 0]) < 5
    if count <= 6:
        codes, seen = np.unique(orders @ count ** np.arange(count), return_counts=True)
        assert len(codes) == math.factorial(count)
        assert chi_square(seen) < 5


def chi_square(seen: NDArray[np.int64]) -> float:
    """How many standard deviations counts are further from equal ones than chance has it."""
    freedom = max(1, len(seen) - 1)
    return (((seen - seen.mean()) ** 2 / seen.mean()).sum() - freedom) / math.sqrt(2 * freedom)


def test_random_orders_depend_on_their_key_and_are_those_of_every_version() -> None:
    """Another order here is another order of all runs, which nobody can then continue."""
    assert order_of(8, 1) == [4, 0, 1, 6, 5, 2, 3, 7]
    assert order_of(8, 2) == [4, 1, 3, 0, 5, 7, 2, 6]
    order = Order(7, 3, make_groups([5, 7, 2], [0, 1, 0], [1.0, 1.5, 2.0]))
    assert [order.step(step).samples.tolist() for step in (0, 1, 30)] == [[12, 3, 1], [12, 4, 13], [0, 13, 4]]


@settings(deadline=None, max_examples=60)
@given(orders(), st.integers(0, 60))
def test_what_steps_take_of_each_group_is_counted_without_a_walk(made: tuple[Order, list[Group]], steps: int) -> None:
    order, groups = made
    taken = Counter(order.steps(0, steps)[1].ravel().tolist())
    counts, examples = order.counts(steps)
    expected = {int(group.samples[0]): sum(taken[int(s)] for s in group.samples) for group in groups if len(group.samples)}
    assert dict(zip(examples.tolist(), counts.tolist(), strict=True)) == expected


@settings(deadline=None, max_examples=40)
@given(orders(), st.integers(0, 40), st.integers(0, 200))
def test_many_steps_at_once_are_those_steps(made: tuple[Order, list[Group]], start: int, count: int) -> None:
    order, _ = made
    buckets, samples = order.steps(start, start + count)
    assert buckets.tolist() == [order.step(start + i).bucket for i in range(count)]
    assert samples.tolist() == [order.step(start + i).samples.tolist() for i in range(count)]
