"""The plan: the jobs of many steps are those of each step, and are made only when they are looked at."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings, strategies as st

import finetrainers.data.order.distinct as distinct_module
from finetrainers.config import DataConfig
from finetrainers.data.cache.store import Cache, make_key
from finetrainers.data.catalog.catalog import Catalog, Dataset
from finetrainers.data.order.choices import NO_CAPTION
from finetrainers.data.order.jobs import SampleJob, TextJob
from finetrainers.data.order.lazy import Joined, Lazy
from finetrainers.data.order.order import Order
from finetrainers.data.order.plan import Plan
from finetrainers.data.streams import MEDIA
from finetrainers.distributed.board import Place
from finetrainers.encoding.shares import Progress, missing


def make_set(name: str, random: np.random.Generator, *, num_items: int, **config: Any) -> Dataset:
    """Items of few contents with up to three of few captions; some items have two windows."""
    captions = [[f"caption {random.integers(4)}" for _ in range(random.integers(1, 4))] for _ in range(num_items)]
    media = [f"/{name}/{i}.mp4" for i in range(num_items)]
    table = pa.table({"media": pa.array(media, pa.large_string()), "captions": captions})
    item = np.repeat(np.arange(num_items), random.integers(1, 3, num_items))
    return Dataset(
        config=DataConfig(path="/data", buckets=[[1, 64, 64]], **config),
        table=table,
        digests={"media": random.integers(0, 3, (num_items, 16), np.uint8)},
        frames={"media": np.full(num_items, 9)},
        fps=np.zeros(num_items),
        item=item,
        chunk=np.zeros(len(item), np.int32),
        bucket=random.integers(0, 2, len(item)).astype(np.int32),
        num_captions=np.array([len(c) for c in captions]),
        problems=(),
    )


def make_plan(seed: int, *, text_sees_image: bool = False) -> tuple[Plan, Order]:
    random = np.random.default_rng(seed)
    sets = (
        make_set("a", random, num_items=5, views=3, resize="random_crop", caption_dropout=0.3),
        make_set("b", random, num_items=3, repeats=1.5),
    )
    catalog = Catalog(sets, ((1, 64, 64), (9, 64, 64)))
    return Plan(catalog, seed, "vae", "text", text_sees_image), Order(seed, int(random.integers(1, 5)), catalog.groups())


def each_pair_once(plan: Plan, order: Order, start: int, stop: int) -> list[SampleJob]:
    """The definition: look at the jobs of all steps, keep the first of each (sample, view, caption)."""
    found: dict[tuple[Any, ...], SampleJob] = {}
    for step in range(start, stop):
        chosen = order.step(step)
        for sample, job in zip(chosen.samples.tolist(), plan.step(order, step), strict=True):
            views, captions = plan.choices.of(np.array([sample]), np.array([job.position]))
            found.setdefault((sample, int(views[0]), int(captions[0])), job)
    return list(found.values())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999), start=st.integers(0, 9), length=st.integers(0, 40), at_once=st.sampled_from([1, 7, 1 << 21])
)
def test_distinct_jobs_are_those_of_the_steps_each_once(seed: int, start: int, length: int, at_once: int) -> None:
    plan, order = make_plan(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distinct_module, "DRAWS_AT_ONCE", at_once)
        jobs = plan.distinct(order, start, start + length)
    expected = each_pair_once(plan, order, start, start + length)
    assert len(jobs) == len(expected)
    assert list(jobs.all()) == expected
    assert list(jobs.all()) == expected  # again


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 999), length=st.integers(0, 40), sees=st.booleans())
def test_latents_and_texts_are_those_of_the_jobs_in_the_order_of_first_use(seed: int, length: int, sees: bool) -> None:
    """Keys, and what they stand for; each comes once, but for equal items and equal captions of other items."""
    plan, order = make_plan(seed, text_sees_image=sees)
    jobs = plan.distinct(order, 0, length)
    expected = each_pair_once(plan, order, 0, length)
    assert list(dict.fromkeys(jobs.texts())) == list(dict.fromkeys(job.text for job in expected))
    assert list(dict.fromkeys(jobs.latents())) == list(dict.fromkeys(job.target for job in expected))
    assert len(jobs.latents()) <= 3 * plan.catalog.num_samples
    num_captions = int(sum(data.num_captions[data.item].sum() for data in plan.catalog.sets))
    assert len(jobs.texts()) <= (len(expected) if sees else num_captions + 1)


def test_a_text_is_named_by_its_caption_and_by_what_is_seen_with_it(tmp_path: Path) -> None:
    """Dropped captions are one text for all samples, unless their clips are seen."""
    (one, other), (plan, _) = ((tmp_path / name for name in "ab"), make_plan(1))
    one.write_bytes(b"red")
    other.write_bytes(b"blue")
    seeing, _ = make_plan(1, text_sees_image=True)
    assert plan.text_job("a cat", str(one)) == plan.text_job("a cat")
    views = [(sample, view) for sample in range(plan.catalog.num_samples) for view in (0, 1)]
    dropped, texts = (
        {each.sample_text(sample, NO_CAPTION, view=view).key for sample, view in views} for each in (plan, seeing)
    )
    assert dropped == {plan.text_job("").key}
    assert len(texts) == len({seeing.stream_job(MEDIA, sample, view).key for sample, view in views}) > 1
    keys = {seeing.text_job(caption, str(file)).key for caption in ("a cat", "a dog") for file in (one, other)}
    assert len(keys | {seeing.text_job("a cat").key}) == 5
    before = seeing.text_job("a cat", str(one)).key
    one.write_bytes(b"green")
    assert seeing.text_job("a cat", str(one)).key != before


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


def test_the_cache_is_asked_once_for_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a caption comes; what is missing keeps the order of first use."""
    texts = [TextJob(make_key(i % 7), str(i % 7)) for i in range(100)]
    cache = Cache(tmp_path)
    for job in texts[:7:3]:
        cache.write("text", job.key, {"x": torch.zeros(1)}, {})
    asked: list[str] = []
    known = Cache.known

    def asking(self: Cache, kind: Any, keys: Any) -> Any:
        asked.extend(key.tobytes().hex() for key in keys)
        return known(self, kind, keys)

    monkeypatch.setattr(Cache, "known", asking)
    assert [job.caption for job in missing(cache, "text", texts)] == ["1", "2", "4", "5"]
    assert sorted(asked) == sorted(job.key for job in texts[:7])


def test_progress_is_told_once_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(0.3 * tick for tick in range(10_000))
    monkeypatch.setattr("finetrainers.encoding.shares.time.monotonic", lambda: next(clock))
    told: list[tuple[int, int]] = []
    progress = Progress(lambda *event: told.append(event), 50, Place(), "encode text")
    for _ in range(50):
        progress.add(1)
    progress.end()
    assert told[0] == (1, 50)
    assert told[-1] == (50, 50)
    assert 8 < len(told) < 20
    assert len(set(told)) == len(told)
