"""What turns out bad when it is decoded: others stand in for it, and no other position changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.test_plan import make_plan
from hypothesis import assume, given, settings, strategies as st

from finetrainers.data.catalog.left_out import BadViews, LeftOut, read_journal, write_journal
from finetrainers.data.order.jobs import LatentsJob
from finetrainers.data.order.order import Group, Order
from finetrainers.data.order.plan import Plan
from finetrainers.errors import DataError

STEPS = 30


def item(job: LatentsJob, since: int = 0) -> LeftOut:
    return LeftOut(job.key, job.digest, job.path, "is torn", since)


def some_items(plan: Plan, order: Order, seed: int, *, since: int = 0) -> list[LeftOut]:
    """A few of the media of the run."""
    jobs = sorted({job.target for step in range(STEPS) for job in plan.step(order, step)}, key=lambda job: job.key)
    chosen = np.random.default_rng(seed).permutation(len(jobs))[: len(jobs) // 4]
    return [item(jobs[i], since) for i in chosen]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), since=st.integers(0, STEPS))
def test_only_positions_of_what_is_left_out_change(seed: int, since: int) -> None:
    """From its step on; each takes a good sample of the same bucket."""
    plan, order = make_plan(seed)
    left_out = some_items(plan, order, seed, since=since)
    keys = {each.key for each in left_out}
    try:
        others = plan.leaving_out(left_out)
        after = [others.step(order, step) for step in range(STEPS)]
    except DataError:  # nothing is left of a bucket: the sets have few different contents
        assume(False)
    for step in range(STEPS):
        for job, other in zip(plan.step(order, step), after[step], strict=True):
            is_bad = job.target.key in keys and step >= since
            assert (other == job) != is_bad
            assert (other.position, other.bucket) == (job.position, job.bucket)
            assert other.target.key not in keys or step < since
    replaced = sum(a != b for step in range(STEPS) for a, b in zip(plan.step(order, step), after[step], strict=True))
    assert others.choices.num_replaced(order, range(STEPS)) == replaced


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), start=st.integers(0, STEPS - 1))
def test_what_stands_in_does_not_depend_on_when_it_is_found(seed: int, start: int) -> None:
    """All known from the start, or each step's own found as it is needed: the same samples, also all at once."""
    plan, order = make_plan(seed)
    bad = {each.key: each for each in some_items(plan, order, seed)}
    known: dict[str, LeftOut] = {}
    try:
        whole = plan.leaving_out(list(bad.values()))
        expected = [whole.step(order, step) for step in range(start, STEPS)]
        for step in range(start, STEPS):
            while True:  # as a window is encoded
                found = {job.target.key for job in plan.leaving_out(list(known.values())).step(order, step)} & bad.keys()
                if not found:
                    break
                known |= {key: replace(bad[key], since=step) for key in found}
            assert plan.leaving_out(list(known.values())).step(order, step) == expected[step - start]
    except DataError:  # nothing is left of a bucket
        assume(False)
    jobs = list(whole.distinct(order, start, STEPS).all())
    assert {job.keys for job in jobs} == {job.keys for jobs in expected for job in jobs}


def test_a_bucket_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    plan, order = make_plan(1)
    jobs = plan.distinct(order, 0, 200).latents()
    with pytest.raises(DataError, match=r"no good sample is left in the bucket \[\d, 64, 64\].*left_out\.json"):
        plan.leaving_out([item(job) for job in jobs]).step(order, 0)


def test_all_samples_of_a_bucket_may_stand_in() -> None:
    """Those of all its groups, each as likely; those of other buckets never."""
    groups = [Group(0, np.arange(3), 1.0), Group(1, np.arange(3, 8), 1.0), Group(0, np.arange(8, 10), 0.2)]
    order = Order(0, 2, groups)
    picked = order.pick(0, np.arange(1000) / 1000)
    assert sorted(order.samples_of(0)) == [0, 1, 2, 8, 9]
    assert np.bincount(picked, minlength=10).tolist() == [200, 200, 200, 0, 0, 0, 0, 0, 200, 200]


def test_held_out_samples_that_are_bad_are_left_out_and_the_others_stay() -> None:
    plan, _ = make_plan(2)
    before = plan.held_out(6)
    bad = before[2].target
    after = plan.leaving_out([item(bad, since=7)]).held_out(6)
    assert after == [job for job in before if job.target.key != bad.key]


def test_a_view_is_bad_from_the_earliest_step_that_any_of_its_items_is() -> None:
    bad = BadViews.of([(3, 1, 5), (3, 1, 2), (0, 0, 4)], num_views=2)
    samples, views = np.array([3, 3, 3, 0, 1]), np.array([1, 1, 0, 0, 0], np.int32)
    assert bad.rows(samples, views, np.array([1, 2, 9, 4, 9])).tolist() == [1, 3]
    assert bad.num_samples == 2


def test_the_journal_is_read_back_and_a_damaged_one_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "left_out.json"
    assert read_journal(file) == ()
    items = (LeftOut("ab", "cd", "/ein schönes Bild.png", "cannot be read: Input/output error", 3),)
    write_journal(file, items)
    assert read_journal(file) == items
    for text in ("{", "[]", '{"left_out": [{"key": "ab"}]}', '{"left_out": 3}'):
        file.write_text(text)
        with pytest.raises(DataError, match=r"left_out\.json cannot be read .* delete it to have all of them tried again"):
            read_journal(file)
