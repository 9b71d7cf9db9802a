"""The plan: the jobs of many steps are those of each step, and are made only when they are looked at."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings, strategies as st

import finetrainers.data.plan as plan_module
from finetrainers.config import CacheConfig, DataConfig
from finetrainers.data.cache import Cache, make_key
from finetrainers.data.catalog import Catalog, DataSet
from finetrainers.data.order import Order
from finetrainers.data.plan import Joined, Lazy, Plan, SampleJob, TextJob
from finetrainers.encoding import Encoder


def make_set(name: str, random: np.random.Generator, *, num_items: int, **config: Any) -> DataSet:
    """Items of few contents with up to three of few captions; some items have two windows."""
    captions = [[f"caption {random.integers(4)}" for _ in range(random.integers(1, 4))] for _ in range(num_items)]
    media = [f"/{name}/{i}.mp4" for i in range(num_items)]
    table = pa.table({"media": pa.array(media, pa.large_string()), "captions": captions})
    item = np.repeat(np.arange(num_items), random.integers(1, 3, num_items))
    return DataSet(
        config=DataConfig(path="/data", buckets=[[1, 64, 64]], **config),
        table=table,
        digests=random.integers(0, 3, (num_items, 16), np.uint8),
        fps=np.zeros(num_items),
        item=item,
        chunk=np.zeros(len(item), np.int32),
        bucket=random.integers(0, 2, len(item)).astype(np.int32),
        num_captions=np.array([len(c) for c in captions]),
        problems=(),
    )


def make_plan(seed: int) -> tuple[Plan, Order]:
    random = np.random.default_rng(seed)
    sets = (
        make_set("a", random, num_items=5, views=3, resize="random_crop", caption_dropout=0.3),
        make_set("b", random, num_items=3, repeats=1.5),
    )
    catalog = Catalog(sets, ((1, 64, 64), (9, 64, 64)))
    return Plan(catalog, seed, "vae", "text"), Order(seed, int(random.integers(1, 5)), catalog.groups())


def each_pair_once(plan: Plan, order: Order, start: int, stop: int) -> list[SampleJob]:
    """The definition: look at the jobs of all steps, keep the first of each (sample, view, caption)."""
    found: dict[tuple[Any, ...], SampleJob] = {}
    for step in range(start, stop):
        chosen = order.step(step)
        for sample, job in zip(chosen.samples.tolist(), plan.step(order, step), strict=True):
            views, captions = plan._choices(np.array([sample]), np.array([job.position]))
            found.setdefault((sample, int(views[0]), int(captions[0])), job)
    return list(found.values())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999), start=st.integers(0, 9), length=st.integers(0, 40), at_once=st.sampled_from([1, 7, 1 << 21])
)
def test_distinct_jobs_are_those_of_the_steps_each_once(seed: int, start: int, length: int, at_once: int) -> None:
    plan, order = make_plan(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "DRAWS_AT_ONCE", at_once)
        jobs = plan.distinct(order, start, start + length)
    expected = each_pair_once(plan, order, start, start + length)
    assert len(jobs) == len(expected)
    assert list(jobs.all()) == expected
    assert list(jobs.all()) == expected  # again


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 999), length=st.integers(0, 40))
def test_latents_and_texts_are_those_of_the_jobs_in_the_order_of_first_use(seed: int, length: int) -> None:
    """Keys, and what they stand for; each comes once, but for equal items and equal captions of other items."""
    plan, order = make_plan(seed)
    jobs = plan.distinct(order, 0, length)
    expected = each_pair_once(plan, order, 0, length)
    assert list(dict.fromkeys(jobs.texts())) == list(dict.fromkeys(job.text for job in expected))
    assert list(dict.fromkeys(jobs.latents())) == list(dict.fromkeys(job.latents for job in expected))
    assert len(jobs.latents()) <= 3 * plan.catalog.num_samples
    assert len(jobs.texts()) <= int(sum(data.num_captions[data.item].sum() for data in plan.catalog.sets)) + 1


def test_jobs_are_made_only_when_they_are_looked_at() -> None:
    made: list[int] = []

    def make(index: int) -> int:
        made.append(index)
        return 10 * index

    lazy = Lazy(make, 1000)
    joined = Joined(lazy, [1, 2])
    assert (len(lazy), len(joined), made) == (1000, 1002, [])
    assert list(joined[998:]) == [9980, 9990, 1, 2]
    assert made == [998, 999]
    assert [*lazy[5:8], lazy[-1]] == [50, 60, 70, 9990]
    with pytest.raises(IndexError):
        joined[1002]


def make_encoder(root: Path, progress: Any) -> Encoder:
    """An encoder without a model: it can look into the cache only."""
    nothing: Any = None
    return Encoder(nothing, Cache(root), nothing, CacheConfig(), torch.device("cpu"), progress, warn=lambda _: None)


def test_the_cache_is_asked_once_for_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a caption comes; what is missing keeps the order of first use."""
    texts = [TextJob(make_key(i % 7), str(i % 7)) for i in range(100)]
    encoder = make_encoder(tmp_path, None)
    for job in texts[:7:3]:
        encoder.cache.write("text", job.key, {"x": torch.zeros(1)}, {})
    asked: list[str] = []
    has = Cache.has
    monkeypatch.setattr(Cache, "has", lambda self, kind, key: asked.append(key) or has(self, kind, key))
    assert [job.caption for job in encoder._missing("text", texts)] == ["1", "2", "4", "5"]
    assert asked == [job.key for job in texts[:7]]


def test_keys_that_were_forgotten_are_still_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetrainers.encoding.SEEN_SLOTS", 1)
    texts = [TextJob(make_key(i % 7), str(i % 7)) for i in range(100)]
    assert [job.caption for job in make_encoder(tmp_path, None)._missing("text", texts)] == list("0123456")


def test_progress_is_told_once_a_second_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(0.3 * tick for tick in range(10_000))
    monkeypatch.setattr("finetrainers.encoding.time.monotonic", lambda: next(clock))
    told: list[tuple[str, int, int]] = []
    report = make_encoder(tmp_path, lambda *event: told.append(event))._reporter("encode text", 50)
    for _ in range(50):
        report(1)
    assert told[0] == ("encode text", 1, 50)
    assert told[-1] == ("encode text", 50, 50)
    assert 8 < len(told) < 20
    assert len(set(told)) == len(told)
