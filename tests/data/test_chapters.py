"""Chapters of sets that are read shard by shard: what comes, how often, and the same again from the journal alone."""

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from layout_makers import write_tar
from runs import write_pictures
from shards import write_shards
from torch import distributed

from finetrainers.config import Config, DataConfig, parse_config
from finetrainers.data.catalog.build import Common
from finetrainers.data.catalog.catalog import Catalog, build_catalog
from finetrainers.data.catalog.left_out import BadViews
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.probe import make_look
from finetrainers.data.order.chapter import Begin, Chapter, Shards
from finetrainers.data.order.chapters import Book
from finetrainers.data.order.choices import Choices
from finetrainers.data.order.mixture import Mixture
from finetrainers.data.streams import MEDIA
from finetrainers.distributed.launch import Launch
from finetrainers.distributed.talk import Talk
from finetrainers.distributed.world import World
from finetrainers.errors import ConfigError, DataError
from finetrainers.training.book import make_book
from finetrainers.training.chapters import Chapters

COMMON = Common(streams=(MEDIA,), min_frames={}, native_fps=None, frame_step=1, warn=pytest.fail)
SHARDS, ITEMS = 5, 4
BUCKETS = [[1, 64, 64], [1, 64, 32]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of shards and a folder of pictures."""
    root = tmp_path_factory.mktemp("chapters")
    write_shards(root / "a", SHARDS, ITEMS)
    write_shards(root / "b", 2, ITEMS, seed=7)
    write_pictures(root / "indexed", 6, seed=9)
    return root


def config_of(
    data: Path,
    *,
    batch_size: int = 3,
    chapter_items: int = 8,
    indexed: float = 0.0,
    second: float = 0.0,
    key: Literal["repeats", "weight"] = "repeats",
) -> Config:
    """Sets with ``repeats``, 1 for the first of shards, or with ``weight``."""
    streamed = {"buckets": BUCKETS, "stream": True, "chapter_items": chapter_items}
    sets = [{"path": str(data / "a" / "shards"), key: 1.0, **streamed}]
    if second:
        sets.append({"path": str(data / "b" / "shards"), key: second, **streamed})
    if indexed:
        sets.insert(0, {"path": str(data / "indexed"), "buckets": [[1, 64, 64]], key: indexed})
    train = {"batch_size": batch_size, "micro_batch_size": batch_size}
    return parse_config({"output_dir": "run", "model": {"path": "m"}, "data": sets, "train": train})


def chapters_of(
    config: Config,
    root: Path,
    output_dir: Path | None = None,
    held_out: Sequence[DataConfig] = (),
    *,
    writes: bool = True,
    world: World | None = None,
) -> Chapters:
    """The chapters as one start of a run opens them."""
    memo = Memo(root / "memo.sqlite")
    look = partial(make_look, memo, workers=1, progress=lambda done, total: None)
    indexed = [own for own in config.data if not own.stream]
    known, apart = (
        build_catalog(own, memo, workers=1, progress=lambda done, total: None, **COMMON) for own in (indexed, held_out)
    )
    output_dir = root / "run" if output_dir is None else output_dir
    output_dir.mkdir(exist_ok=True)
    return Chapters(make_book(config, known, apart, COMMON, look=look), output_dir, writes=writes, world=world)


def shown(chapter: Chapter, step: int) -> list[tuple[str, str]]:
    """Contents and first captions of the samples of a step, in order."""
    found = []
    for sample in chapter.order.step(step).samples.tolist():
        own, row = chapter.catalog.locate(sample)
        found.append((own.digest(row, "media"), own.table["captions"][int(own.item[row])][0].as_py()))
    return found


def rest_of(chapter: Chapter) -> Counter[str]:
    """Captions of what a chapter leaves over."""
    captions: Counter[str] = Counter()
    for number, rest in enumerate(chapter.end.rests):
        if rest.items is not None:
            captions.update(own[0] for own in rest.items["captions"].to_pylist())
        elif rest.samples:
            own = chapter.catalog.sets[chapter.owners.index(number)]
            captions.update(own.table["captions"][int(own.item[sample])][0].as_py() for sample in rest.samples)
    return captions


def passes(chapters: Chapters, count: int, *, own: int = 0) -> tuple[Counter[str], list[str], Chapter]:
    """Captions that came, shards in order, and the last chapter, after some passes of a streamed set."""
    came: Counter[str] = Counter()
    refs: list[str] = []
    step = 0
    while True:
        chapter = chapters.at(step)
        for step in range(chapter.order.start, chapter.order.stop):
            came.update(caption for _, caption in shown(chapter, step))
        refs += (chapter.begin.shards or ())[own]
        step = chapter.order.stop
        if chapter.end.taken[own] >= count * SHARDS:
            return came, refs, chapter


def test_each_sample_comes_once_a_pass_and_passes_differ(data: Path, tmp_path: Path) -> None:
    came, refs, last = passes(chapters_of(config_of(data), tmp_path), 3)
    total = came + rest_of(last)
    assert total == {f"a {n:02d}": 3 for n in range(SHARDS * ITEMS)}
    turns = [tuple(refs[start : start + SHARDS]) for start in range(0, 3 * SHARDS, SHARDS)]
    assert all(sorted(turn) == sorted(turns[0]) for turn in turns)
    assert len(set(turns)) == 3


def test_all_samples_of_a_step_are_of_one_bucket(data: Path, tmp_path: Path) -> None:
    chapters = chapters_of(config_of(data, indexed=1.0), tmp_path)
    for step in range(12):
        chapter = chapters.at(step)
        samples = chapter.order.step(step).samples
        assert len(samples) == 3
        assert len({chapter.catalog.about_shape(int(sample)) for sample in samples}) == 1


@pytest.mark.parametrize(("indexed", "second"), [(1.0, 0.0), (0.5, 0.0), (2.5, 1.0), (1.0, 2.0)])
def test_sets_are_mixed_in_proportion_and_each_goes_on_with_its_pass(
    data: Path, tmp_path: Path, indexed: float, second: float
) -> None:
    """After n passes of the first set the others have had their ``repeats`` times n, whatever the chapters are."""
    came, _, last = passes(chapters_of(config_of(data, indexed=indexed, second=second), tmp_path), 4, own=1)
    total = came + rest_of(last)
    assert all(total[f"a {n:02d}"] == 4 for n in range(SHARDS * ITEMS))
    of_folder = [total[f"picture number {n}"] for n in range(6)]
    assert sum(of_folder) == int(4 * indexed * 6)
    assert max(of_folder) - min(of_folder) <= 1
    of_second = [total[f"b {n:02d}"] for n in range(2 * ITEMS)]
    assert abs(sum(of_second) - 4 * second * 2 * ITEMS) <= ITEMS  # whole shards are taken
    assert max(of_second) - min(of_second) <= 1


@pytest.mark.parametrize("step", range(0, 30, 3))
@pytest.mark.parametrize("key", ["repeats", "weight"])
def test_a_run_that_goes_on_shows_what_would_have_come(
    data: Path, tmp_path: Path, step: int, key: Literal["repeats", "weight"]
) -> None:
    """From the journal alone, and as exactly without it; and it knows what it has shown."""
    config = config_of(data, indexed=1.5, second=1.0, key=key)
    whole = chapters_of(config, tmp_path)
    expected = [shown(whole.at(n), n) for n in range(30)]
    mix = mix_of(whole, 30)
    for directory in (tmp_path / "run", tmp_path / "without a journal"):
        again = chapters_of(config, tmp_path, directory)
        assert [shown(again.at(n), n) for n in range(step, 30)] == expected[step:]
        assert mix_of(again, 30) == mix


@pytest.mark.parametrize(("indexed", "second"), [(1.0, 0.0), (0.25, 0.0), (7.5, 0.0), (1.5, 2.0)])
def test_weights_are_shares_of_the_samples_whatever_the_sizes(
    data: Path, tmp_path: Path, indexed: float, second: float
) -> None:
    """After each chapter; of two sets of shards, up to one shard."""
    chapters = chapters_of(config_of(data, indexed=indexed, second=second, key="weight"), tmp_path)
    step, came = 0, Counter[str]()
    for _ in range(7):
        chapter = chapters.at(step)
        for step in range(chapter.order.start, chapter.order.stop):
            came.update(caption.split()[0] for _, caption in shown(chapter, step))
        step = chapter.order.stop
        total = Counter(caption.split()[0] for caption in rest_of(chapter).elements()) + came
        assert total["picture"] == int(Fraction(indexed) * (total["a"] + total["b"]) / Fraction(1 + second))
        assert abs(total["b"] - second * total["a"]) <= max(1.0, second) * ITEMS
    assert total["a"] > SHARDS * ITEMS or second


def mix_of(chapters: Chapters, stop: int) -> list[Mixture]:
    chapter = chapters.at(stop - 1)
    return chapters.mixture(Choices(chapter.catalog, 0, BadViews()), stop)


@pytest.mark.parametrize("stop", [1, 7, 20, 40])
@pytest.mark.parametrize("key", ["repeats", "weight"])
def test_the_mix_of_a_streamed_run_counts_what_its_steps_have_shown(
    data: Path, tmp_path: Path, stop: int, key: Literal["repeats", "weight"]
) -> None:
    chapters = chapters_of(config_of(data, indexed=1.5, second=0.5, key=key), tmp_path)
    names = [name for step in range(stop) for _, caption in shown(chapters.at(step), step) for name in caption.split()[:1]]
    mix = mix_of(chapters, stop)
    assert [own["images"] for own in mix] == [names.count(name) for name in ("picture", "a", "b")]
    assert [own["taken"] for own in mix] == [names.count(name) / len(names) for name in ("picture", "a", "b")]
    assert [own["samples"] for own in mix] == [6, SHARDS * ITEMS, 2 * ITEMS]  # all shards here have as many
    drawn = [1.5, 1.0, 0.5] if key == "weight" else [1.5 * 6, 1.0 * SHARDS * ITEMS, 0.5 * 2 * ITEMS]
    assert [own["asked"] for own in mix] == pytest.approx([each / sum(drawn) for each in drawn])


def test_what_stands_in_counts_for_what_it_is_of(data: Path, tmp_path: Path) -> None:
    """All pictures of the folder turn out bad: samples of the shards are shown, before this chapter as well."""
    chapters = chapters_of(config_of(data, indexed=1.5), tmp_path)
    plain = mix_of(chapters_of(config_of(data, indexed=1.5), tmp_path, tmp_path / "plain"), 20)

    def choices(catalog: Catalog) -> Choices:
        return Choices(catalog, 0, BadViews.of([(sample, 0, 0) for sample in range(6)], 1))

    chapter = chapters.at(19, choices)
    folder, shards = chapters.mixture(choices(chapter.catalog), 20)
    assert chapter.begin.number > 1
    assert plain[0]["images"] > 0
    assert (folder["images"], shards["images"]) == (0, 60)


def test_a_journal_of_before_samples_were_counted_leads_to_the_same_samples(data: Path, tmp_path: Path) -> None:
    config = config_of(data, indexed=1.5)
    whole = chapters_of(config, tmp_path)
    expected, mix = [shown(whole.at(n), n) for n in range(12)], mix_of(whole, 12)
    for file in (tmp_path / "run" / "chapters").iterdir():
        tree = json.loads(file.read_text())
        del tree["seen"], tree["shown"]
        file.write_text(json.dumps({**tree, "version": 2}))
    again = chapters_of(config, tmp_path)
    assert [shown(again.at(n), n) for n in range(8, 12)] == expected[8:]
    assert mix_of(again, 12) == mix


def test_a_set_none_of_whose_shards_has_a_sample_is_named_beside_one_that_has(data: Path, tmp_path: Path) -> None:
    """It would be left out of the run without a word."""
    for number in range(2):
        write_tar(tmp_path / "b" / "shards" / f"{number}.tar", [("read.me", b"nothing")])
    (tmp_path / "a").symlink_to(data / "a")
    for key in ("repeats", "weight"):
        chapters = chapters_of(config_of(tmp_path, second=1.0, key=key), tmp_path)
        with pytest.raises(DataError, match=rf"'{tmp_path}/b/shards' has no sample to train on in any of 2 shards"):
            chapters.at(30)


@pytest.mark.parametrize(("second", "key"), [(0.0, "repeats"), (1.0, "repeats"), (1.0, "weight")])
def test_shards_that_all_went_away_end_a_run_and_are_no_endless_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: float, key: Literal["repeats", "weight"]
) -> None:
    """Though they had samples before, and another set still has; also a run that goes on later."""
    folder = write_shards(tmp_path / "a", SHARDS, ITEMS)
    write_shards(tmp_path / "b", 2, ITEMS, seed=7)
    config, open_chapter, opened = skipping(config_of(tmp_path, second=second, key=key)), Book.open, list[int]()

    def opening(book: Book, begin: Begin) -> Chapter:
        opened.append(begin.number)
        assert len(opened) < 50, "no end"
        return open_chapter(book, begin)

    monkeypatch.setattr(Book, "open", opening)
    chapters = chapters_of(config, tmp_path)
    chapters.at(0)
    for file in folder.glob("*.tar"):
        file.unlink()
    last = rf"; the last problem is of {folder}/\d+\.tar: .*No such file"
    with pytest.raises(DataError, match=rf"^data\.0\.path: '{folder}' has no sample to train on in any of 5 shards{last}"):
        chapters.at(100)


def test_a_column_that_no_shard_has_is_named_where_bad_samples_are_skipped(tmp_path: Path) -> None:
    """All of the set is bad by one key of the configuration."""
    table = pa.table({"image": [{"bytes": b"", "path": None}], "text": ["a"]})
    (tmp_path / "a" / "shards").mkdir(parents=True)
    for number in range(2):
        pq.write_table(table, tmp_path / "a" / "shards" / f"{number}.parquet")
    config = skipping(config_of(tmp_path))
    data = config.data[0].model_copy(update={"caption_column": "captoin"})
    with pytest.raises(DataError, match=r"data\.0\.caption_column: there is no column 'captoin', only image, text"):
        chapters_of(config.model_copy(update={"data": (data,)}), tmp_path).at(0)


def test_a_run_that_goes_on_lists_no_shard_of_earlier_chapters(data: Path, tmp_path: Path) -> None:
    config = config_of(data, chapter_items=4)
    whole = chapters_of(config, tmp_path)
    starts = {chapter.begin.number: chapter for chapter in (whole.at(step) for step in range(5))}
    last = starts[max(starts)]
    again = chapters_of(config, tmp_path)
    listed: list[str] = []
    (source,) = again._book.sources
    object.__setattr__(source, "layout", Listening(source.layout, listed))
    again.at(last.order.start)
    assert set(listed) == {ref for refs in last.begin.shards for ref in refs}


@pytest.mark.parametrize(("changed", "said"), [("indexed", "other samples"), ("a", "other shards")])
def test_a_run_does_not_go_on_in_sets_that_are_others_now(tmp_path: Path, changed: str, said: str) -> None:
    """Numbers of the journal would be those of other samples; without the journal it counts anew."""
    write_shards(tmp_path / "a", SHARDS, ITEMS)
    write_pictures(tmp_path / "indexed", 6, seed=9)
    config = config_of(tmp_path, indexed=1.5)
    whole = chapters_of(config, tmp_path)
    step = next(step for step in range(1, 20) if whole.at(step).begin.number > 1)
    if changed == "a":
        write_tar(tmp_path / "a" / "shards" / "999.tar", [])
    else:
        for file in (tmp_path / "indexed").glob("00.*"):
            file.unlink()
    number = [Path(own.path).is_relative_to(tmp_path / changed) for own in config.data].index(True)
    with pytest.raises(
        DataError, match=rf"data\.{number}\.path: '{tmp_path}/{changed}.*' has {said} .*delete {tmp_path}/run/chapters"
    ):
        chapters_of(config, tmp_path).at(step)
    shutil.rmtree(tmp_path / "run" / "chapters")
    chapters_of(config, tmp_path).at(step)


def test_a_run_goes_on_with_shards_that_were_moved(tmp_path: Path) -> None:
    """Shards of the chapter and what was left over, found where they are now, and a bad sample told once."""
    folder = write_shards(tmp_path / "old" / "a", SHARDS, ITEMS, bad=1)
    whole = chapters_of(skipping(config_of(folder.parents[1])), tmp_path)
    expected = [shown(whole.at(n), n) for n in range(12)]
    step = whole.at(8).order.start
    assert whole.at(8).begin.rests[0].items is not None
    (tmp_path / "old").rename(tmp_path / "new")
    again = chapters_of(skipping(config_of(tmp_path / "new")), tmp_path)
    assert [shown(again.at(n), n) for n in range(step, 12)] == expected[step:]
    assert len(again.problems) == 1
    assert f"{tmp_path}/new/" in again.problems[0].path


def skipping(config: Config) -> Config:
    return config.model_copy(update={"data": tuple(own.model_copy(update={"on_error": "skip"}) for own in config.data)})


def test_a_run_that_trained_nothing_begins_with_mended_sets(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", SHARDS, ITEMS)
    chapters_of(config_of(tmp_path), tmp_path).at(0)
    write_tar(tmp_path / "a" / "shards" / "999.tar", [])
    assert chapters_of(config_of(tmp_path), tmp_path).at(0).order.start == 0


@pytest.mark.parametrize("damage", ["gone", "no archive", "cut"])
def test_a_shard_that_cannot_be_read_stops_or_is_named(tmp_path: Path, damage: str) -> None:
    """While the run goes on, and in the shard's later passes; all else comes as often as before."""
    folder = write_shards(tmp_path / "a", SHARDS, ITEMS)
    chapters, skipped = (chapters_of(c(config_of(tmp_path, batch_size=1)), tmp_path) for c in (lambda own: own, skipping))
    bad = folder / "003.tar"
    if damage == "gone":
        bad.unlink()
    else:
        bad.write_bytes(b"no archive" * 200 if damage == "no archive" else bad.read_bytes()[:2000])
    with pytest.raises(DataError, match=rf"{bad}.*") as raised:
        passes(chapters, 2)
    assert "bad samples" in str(raised.value) or str(raised.value).startswith(str(bad))
    came, _, last = passes(skipped, 2)
    total = came + rest_of(last)
    lost = {f"a {n:02d}" for n in range(3 * ITEMS, 4 * ITEMS)}
    assert all(total[f"a {n:02d}"] == 2 for n in range(SHARDS * ITEMS) if f"a {n:02d}" not in lost)
    assert not set(total) & lost
    assert {problem.path.partition("#")[0].removeprefix("tar:") for problem in skipped.problems} == {str(bad)}


def test_a_chapter_stays_what_it_was_when_a_shard_that_it_skipped_can_be_read_again(tmp_path: Path) -> None:
    """Else samples that came before would come once more; the next pass has the shard."""
    folder = write_shards(tmp_path / "a", SHARDS, ITEMS)
    config, bad = skipping(config_of(tmp_path, batch_size=1, chapter_items=100)), folder / "001.tar"
    good = bad.read_bytes()
    bad.write_bytes(b"no archive" * 200)
    before = chapters_of(config, tmp_path)
    stop = before.at(0).order.stop
    assert stop == (SHARDS - 1) * ITEMS
    expected = [shown(before.at(n), n) for n in range(stop)]
    bad.write_bytes(good)
    for _ in range(2):  # the journal that a run writes when it goes on is no other
        again = chapters_of(config, tmp_path)
        assert [shown(again.at(n), n) for n in range(3, stop)] == expected[3:]
        assert [problem.path for problem in again.problems] == [str(bad)]
    assert again.at(stop).order.stop - stop == SHARDS * ITEMS


class Flaky:
    """A layout that cannot read one shard."""

    name = "flaky"

    def __init__(self, layout: object, bad: str) -> None:
        self._layout, self._bad = layout, bad

    def shard_items(self, ref: str, wanted: object) -> object:
        if ref == self._bad:
            raise DataError(f"{ref}: the network is down")
        return self._layout.shard_items(ref, wanted)  # type: ignore[attr-defined]


def two_processes(config: Config, root: Path, *, flaky: int, shard: str) -> list[Chapters]:
    """The chapters as two processes open them, one of which cannot read a shard; the first waits for nobody."""
    store, found = distributed.HashStore(), []
    for rank in range(2):
        world = World(torch.device("cpu"), Launch(rank, 2), talk=Talk(rank, 2, store))
        chapters = chapters_of(config, root, writes=rank == 0, world=world)
        if rank == flaky:
            (source,) = chapters._book.sources
            assert isinstance(source, Shards)
            object.__setattr__(source, "layout", Flaky(source.layout, shard))
        found.append(chapters)
    return found


def test_what_the_first_process_skips_no_process_trains_on(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "a", SHARDS, ITEMS)
    config = skipping(config_of(tmp_path, batch_size=2))
    first, second = two_processes(config, tmp_path, flaky=0, shard=str(folder / "001.tar"))
    for step in range(14):
        assert shown(first.at(step), step) == shown(second.at(step), step)
    assert first.problems


def test_a_process_that_cannot_read_what_the_first_one_trains_on_says_so(tmp_path: Path) -> None:
    """Else it would train on other samples, or wait for the others without an end."""
    folder = write_shards(tmp_path / "a", SHARDS, ITEMS)
    config = skipping(config_of(tmp_path, batch_size=2, chapter_items=100))
    first, second = two_processes(config, tmp_path, flaky=1, shard=str(folder / "001.tar"))
    first.at(0)
    said = rf"rank-1 finds other samples .*; here {folder}/001\.tar: the network is down\. See that all processes"
    with pytest.raises(DataError, match=said):
        second.at(0)


def test_a_set_smaller_than_a_batch_fills_it_by_passes(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", 1, 3)
    chapters = chapters_of(config_of(tmp_path, batch_size=8), tmp_path)
    came = Counter(caption for step in range(3) for _, caption in shown(chapters.at(step), step))
    assert sum(came.values()) == 24
    assert came["a 00"] + came["a 01"] >= 16


class Listening:
    """A layout that says which shards it lists."""

    name = "listening"

    def __init__(self, layout: object, listed: list[str]) -> None:
        self._layout, self._listed = layout, listed

    def shard_items(self, ref: str, wanted: object) -> object:
        self._listed.append(ref)
        return self._layout.shard_items(ref, wanted)  # type: ignore[attr-defined]


def test_what_is_held_out_comes_in_no_chapter(data: Path, tmp_path: Path) -> None:
    """The same bytes in another set: they are left out of each chapter that has them."""
    held_out = DataConfig(path=str(write_pictures(tmp_path / "held-out", 2)), buckets=((1, 64, 64),))
    came, _, last = passes(chapters_of(config_of(data), tmp_path, held_out=[held_out]), 2)
    assert came + rest_of(last) == {f"a {n:02d}": 2 for n in range(2, SHARDS * ITEMS)}


def test_another_seed_is_another_order(data: Path, tmp_path: Path) -> None:
    one, other = config_of(data), config_of(data).model_copy(update={"seed": 5})
    shows = [[shown(chapters.at(n), n) for n in range(4)] for chapters in (chapters_of(c, tmp_path) for c in (one, other))]
    assert shows[0] != shows[1]


def test_a_batch_larger_than_a_chapter_is_filled_from_several(data: Path, tmp_path: Path) -> None:
    chapters = chapters_of(config_of(data, batch_size=16, chapter_items=1), tmp_path)
    chapter = chapters.at(0)
    assert chapter.begin.number > 0
    assert len(chapter.order.step(0).samples) == 16
    assert np.array_equal(chapter.order.step(0).positions, np.arange(16))


def test_shards_without_anything_to_train_on_are_an_error_and_no_endless_search(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", SHARDS, ITEMS)
    config = config_of(tmp_path)
    small = config.data[0].model_copy(update={"buckets": ((49, 64, 64),), "on_error": "skip"})
    with pytest.raises(DataError, match="no sample to train on in any of 5 shards"):
        chapters_of(config.model_copy(update={"data": (small,)}), tmp_path).at(0)


def test_a_bad_sample_of_a_later_chapter_stops_or_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "a", SHARDS, ITEMS)
    write_tar(folder / "005.tar", [("bad.png", b"no picture"), ("bad.txt", b"bad")])
    config = config_of(tmp_path, chapter_items=4)
    with pytest.raises(DataError, match=r"1 bad sample:\n .*bad\.png"):
        chapters_of(config, tmp_path).at(20)
    skipping = config.model_copy(update={"data": (config.data[0].model_copy(update={"on_error": "skip"}),)})
    chapters = chapters_of(skipping, tmp_path)
    chapters.at(20)
    again = chapters_of(skipping, tmp_path)
    again.at(20)
    for own in (chapters, again):  # the journal tells it to a run that goes on
        assert ["bad.png" in problem.path for problem in own.problems] == [True]


def taken_without(chapter: Chapter, bad: Sequence[int]) -> tuple[list[int], list[int]]:
    """Samples, and their buckets, that all positions of a chapter show when some are bad; as its workers find them."""
    catalog, order = chapter.catalog, pickle.loads(pickle.dumps(chapter.order))
    choices = Choices(catalog, 0, BadViews.of([(sample, 0, 0) for sample in bad], 1))
    positions = np.arange(order.start * order.batch_size, order.stop * order.batch_size)
    found = choices.at(order, positions)[0]
    by_step = [choices.at(order, own)[0].tolist() for own in positions.reshape(-1, order.batch_size)]
    assert found.tolist() == [sample for own in by_step for sample in own]  # whatever is asked for at once
    assert not set(found.tolist()) & set(bad)
    buckets = np.concatenate(catalog.shape_numbers())
    assert all(len(np.unique(buckets[own])) == 1 for own in by_step)
    return found.tolist(), buckets[found].tolist()


def test_for_a_bad_sample_another_of_its_bucket_stands_in_though_it_is_left_over(data: Path, tmp_path: Path) -> None:
    """A chapter with one batch, that is bad as a whole; and all else of it is bad."""
    chapter = chapters_of(config_of(data, batch_size=4), tmp_path).at(0)
    whole, of_whole = taken_without(chapter, [])
    assert chapter.order.stop == 1
    found, of_found = taken_without(chapter, whole)
    assert len(set(found)) <= 2  # six are of that bucket
    assert of_found == of_whole
    with pytest.raises(DataError, match="no good sample is left"):
        taken_without(chapter, range(chapter.catalog.num_samples))


def test_where_all_of_a_bucket_are_bad_another_step_of_the_chapter_comes(data: Path, tmp_path: Path) -> None:
    """Only in the place of those: all other steps stay as they are."""
    chapter = chapters_of(config_of(data, batch_size=1), tmp_path).at(0)
    whole, of_whole = taken_without(chapter, [])
    gone = min(of_whole, key=of_whole.count)
    found, of_found = taken_without(chapter, [own for own, bucket in zip(whole, of_whole, strict=True) if bucket == gone])
    assert gone not in of_found
    assert [found[n] for n, bucket in enumerate(of_whole) if bucket != gone] == [
        own for own, bucket in zip(whole, of_whole, strict=True) if bucket != gone
    ]


def test_a_folder_of_pictures_has_no_shards(data: Path, tmp_path: Path) -> None:
    sets = [DataConfig(path=str(data / "indexed"), buckets=((1, 64, 64),), stream=True)]
    with pytest.raises(DataError, match=r"data\.0\.stream: true reads .*the layout sidecars, which has no shards"):
        chapters_of(config_of(data).model_copy(update={"data": tuple(sets)}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"validation": {"held_out": 0.1}},
            "validation.held_out: 0.1 cannot be held out of data that data.0.stream: true lists during training",
        ),
        ({"validation": {"data": [{"path": "v", "buckets": BUCKETS, "stream": True}]}}, "validation.data.0.stream"),
        ({"data": [{"path": "v", "buckets": BUCKETS, "chapter_items": 5}]}, "chapter_items: 5 has no effect without stream"),
        ({"data": [{"path": "v", "buckets": BUCKETS, "stream": True, "recheck": "never"}]}, "recheck"),
        ({"data": [{"path": "v", "buckets": BUCKETS, "stream": True, "folders": {"mask": "m"}}]}, "from the folder 'm'"),
    ],
)
def test_what_cannot_be_with_a_streamed_set_is_refused(changes: dict[str, object], said: str) -> None:
    tree = {"output_dir": "run", "model": {"path": "m"}, "data": [{"path": "v", "buckets": BUCKETS, "stream": True}]}
    with pytest.raises(ConfigError, match=said):
        parse_config({**tree, **changes})
