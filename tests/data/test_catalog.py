"""The catalog: buckets, windows, splits and views of all data sets."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from media_factory import write_counter
from runs import write_pictures

from finetrainers.config import DataConfig
from finetrainers.data.catalog.catalog import Catalog, build_catalog, view_of
from finetrainers.data.catalog.memo import Memo
from finetrainers.errors import ConfigError, DataError


def catalog_of(tmp_path: Path, *configs: DataConfig) -> Catalog:
    memo = Memo(tmp_path / "memo.sqlite")
    try:
        return build_catalog(configs, memo, workers=2, progress=lambda done, total: None)
    finally:
        memo.close()


def pictures(directory: Path, count: int = 20, seed: int = 0, **options: object) -> DataConfig:
    write_pictures(directory, count, seed=seed)
    return DataConfig.model_validate({"path": str(directory), "buckets": ((1, 64, 64),), **options})


def held_out_names(catalog: Catalog) -> set[str]:
    return {Path(data.table["media"][int(item)].as_py()).name for data in catalog.sets for item in np.unique(data.item)}


def test_the_split_is_disjoint_and_complete(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, pictures(tmp_path / "a"))
    training, held_out = (held_out_names(part) for part in catalog.split(0.3))
    assert not training & held_out
    assert training | held_out == held_out_names(catalog)
    assert 0 < len(held_out) < 15


def test_the_split_goes_by_content_and_new_files_move_no_other(tmp_path: Path) -> None:
    before = held_out_names(catalog_of(tmp_path, pictures(tmp_path / "a")).split(0.3)[1])
    write_pictures(tmp_path / "a" / "more", 10, seed=5)
    after = held_out_names(catalog_of(tmp_path, pictures(tmp_path / "a")).split(0.3)[1])
    more = {file.name for file in (tmp_path / "a" / "more").glob("*.png")}
    assert before - more <= after


def test_copies_of_one_file_stay_on_one_side(tmp_path: Path) -> None:
    """The same picture under two names: if one could be trained on, the other would not be held out."""
    for copy in range(3):
        pictures(tmp_path / "a" / str(copy), count=10)
    training, held_out = catalog_of(tmp_path, DataConfig(path=str(tmp_path / "a"), buckets=((1, 64, 64),))).split(0.3)
    digests = [{d.digests["media"][i].tobytes() for d in part.sets for i in d.item} for part in (training, held_out)]
    assert not digests[0] & digests[1]
    assert training.num_samples + held_out.num_samples == 30


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_either_side_of_the_split_keeps_an_item(tmp_path: Path, fraction: float) -> None:
    training, held_out = catalog_of(tmp_path, pictures(tmp_path / "a", count=5)).split(fraction)
    assert training.num_samples >= 1
    assert held_out.num_samples >= 1


SETS = st.lists(st.sets(st.integers(0, 11), min_size=1), min_size=1, max_size=4)


def sharing(directory: Path, sets: list[set[int]]) -> Catalog:
    """Data sets of some of the same twelve pictures."""
    pictures(directory / "all", 12)
    for number, chosen in enumerate(sets):
        (directory / str(number)).mkdir()
        for picture in chosen:
            for suffix in ("png", "txt"):
                shutil.copy(directory / "all" / f"{picture:02d}.{suffix}", directory / str(number))
    configs = [DataConfig(path=str(directory / str(number)), buckets=((1, 64, 64),)) for number in range(len(sets))]
    return catalog_of(directory, *configs)


def contents_of(catalog: Catalog) -> set[bytes]:
    return {data.digests["media"][item].tobytes() for data in catalog.sets for item in data.item}


@settings(max_examples=40, deadline=None)
@given(sets=SETS, fraction=st.floats(0.01, 0.99))
def test_what_is_held_out_in_one_set_is_held_out_in_all(
    tmp_path_factory: pytest.TempPathFactory, sets: list[set[int]], fraction: float
) -> None:
    """Data sets that share files: the fate of a content does not depend on the set that it is in."""
    catalog = sharing(tmp_path_factory.mktemp("sharing"), sets)
    ascending = sorted(contents_of(catalog), key=lambda content: int.from_bytes(content[-8:], "little"))
    below = sum(int.from_bytes(content[-8:], "little") < fraction * 2**64 for content in ascending)
    chosen = set(ascending[: min(max(below, 1), len(ascending) - 1)])
    if any(contents_of(Catalog((data,), catalog.buckets)) <= chosen for data in catalog.sets) or not chosen:
        with pytest.raises(ConfigError, match=r"^validation\.held_out: "):
            catalog.split(fraction)
        return
    training, held_out = catalog.split(fraction)
    assert contents_of(held_out) == chosen
    assert contents_of(training) == contents_of(catalog) - chosen
    assert training.num_samples + held_out.num_samples == catalog.num_samples
    training.check_apart(held_out)


def test_the_split_of_a_set_is_that_of_all_in_one(tmp_path: Path) -> None:
    """A data set in two halves is split as it is in one."""
    halves = sharing(tmp_path / "halves", [set(range(5)), set(range(5, 12))]).split(0.3)
    whole = sharing(tmp_path / "whole", [set(range(12))]).split(0.3)
    assert [contents_of(part) for part in halves] == [contents_of(part) for part in whole]


def test_a_set_that_is_held_out_as_a_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"validation\.held_out: .*1 are held out, and none is left to train on"):
        sharing(tmp_path, [set(range(12)), *({n} for n in range(12))]).split(0.5)


@settings(max_examples=25, deadline=None)
@given(sets=SETS, held_out=st.sets(st.integers(0, 11), min_size=1))
def test_what_is_in_validation_data_is_not_trained_on(
    tmp_path_factory: pytest.TempPathFactory, sets: list[set[int]], held_out: set[int]
) -> None:
    *parts, last = sharing(tmp_path_factory.mktemp("apart"), [*sets, held_out]).sets
    catalog, other = (Catalog(tuple(own), ((1, 64, 64),)) for own in (parts, [last]))
    if any(own <= held_out for own in sets):
        with pytest.raises(ConfigError, match=r"validation\.data: all items of .* are held out there"):
            catalog.apart_from(other)
        return
    apart, told = catalog.apart_from(other)
    assert [len(data.item) for data in apart.sets] == [len(own - held_out) for own in sets]
    apart.check_apart(other)
    counts = [len(own & held_out) for own in sets]
    found = [f"/{i}: validation.data has the contents of {n} of its" for i, n in enumerate(counts) if n]
    assert [part in message for part, message in zip(found, told, strict=True)] == [True] * len(found)
    if any(counts):
        with pytest.raises(AssertionError, match=f"{len(set().union(*sets) & held_out)} contents"):
            catalog.check_apart(other)


def test_a_warning_names_a_few_of_the_items_that_are_left_out(tmp_path: Path) -> None:
    one, two = sharing(tmp_path, [set(range(12)), {1, 2, 3, 4, 5}]).sets
    (message,) = Catalog((one,), ((1, 64, 64),)).apart_from(Catalog((two,), ((1, 64, 64),)))[1]
    assert message.endswith("/0/03.png and 2 more")
    assert message.startswith(f"{tmp_path}/0: validation.data has the contents of 5 of its items")


def test_all_windows_of_a_clip_are_on_one_side(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(4):
        write_counter(tmp_path / "clips" / f"{number}.mp4", 20 + number, height=64, width=64)
        (tmp_path / "clips" / f"{number}.txt").write_text("a clip")
    clips = {"path": str(tmp_path / "clips"), "buckets": ((5, 64, 64),)}
    configs = [DataConfig.model_validate({**clips, **keys}) for keys in ({"frame_sampling": "chunks"}, {"stride": 2})]
    catalog = catalog_of(tmp_path, *configs)
    training, held_out = catalog.split(0.5)
    assert not contents_of(training) & contents_of(held_out)
    counts = [[len(data.item) for data in part.sets] for part in (training, held_out)]
    assert [[windows // 4, windows % 4] for windows, _ in counts] == [[clips, 0] for _, clips in counts]
    assert training.num_samples + held_out.num_samples == 4 * 4 + 4


def test_one_item_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"validation\.held_out: .* has 1 different items"):
        catalog_of(tmp_path, pictures(tmp_path / "a", count=1)).split(0.5)


def test_data_sets_share_buckets(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, pictures(tmp_path / "a", 3), pictures(tmp_path / "b", 4, seed=1, repeats=2.0))
    assert catalog.buckets == ((1, 64, 64),)
    assert [(group.bucket, group.samples.tolist(), group.repeats) for group in catalog.groups()] == [
        (0, [0, 1, 2], 1.0),
        (0, [3, 4, 5, 6], 2.0),
    ]
    assert [catalog.locate(sample)[1] for sample in (0, 2, 3, 6)] == [0, 2, 0, 3]


def test_views_are_draws_of_the_content(tmp_path: Path) -> None:
    """Views differ from each other, and depend on neither the place in the list nor the name of the file."""
    options = {"resize": "random_crop", "horizontal_flip": True, "views": 4}
    one = catalog_of(tmp_path, pictures(tmp_path / "a", 3, **options)).sets[0]
    (tmp_path / "b").mkdir()
    for suffix in ("png", "txt"):
        (tmp_path / "a" / f"02.{suffix}").rename(tmp_path / "b" / f"renamed.{suffix}")
    other = catalog_of(tmp_path, DataConfig(path=str(tmp_path / "b"), buckets=((1, 64, 64),), **options)).sets[0]  # type: ignore[arg-type]
    views = [view_of(one, 2, view=view, bucket=(1, 64, 64)) for view in range(4)]
    assert views == [view_of(other, 0, view=view, bucket=(1, 64, 64)) for view in range(4)]
    assert len({view.crop for view in views}) == 4
    assert [view.flip for view in views] == [False, True, False, True]
    assert view_of(one, 0, view=0, bucket=(1, 64, 64)).crop != views[0].crop


def test_all_bad_samples_of_all_sets_are_named_at_once(tmp_path: Path) -> None:
    configs = [pictures(tmp_path / "a"), pictures(tmp_path / "b", seed=1)]
    (tmp_path / "a" / "00.png").write_bytes(b"")
    (tmp_path / "b" / "01.txt").write_text("  ")
    with pytest.raises(DataError, match="2 bad samples") as error:
        catalog_of(tmp_path, *configs)
    assert "a/00.png" in str(error.value)
    assert "b/01" in str(error.value)
    skipping = [config.model_copy(update={"on_error": "skip"}) for config in configs]
    catalog = catalog_of(tmp_path, *skipping)
    assert catalog.num_samples == 38
    assert sum(len(data.problems) for data in catalog.sets) == 2


def stills_and_clips(tmp_path: Path, buckets: list[list[int]], **options: object) -> DataConfig:
    """A picture and a clip of seven frames, to which a bucket of one frame is nearer than one of nine."""
    write_pictures(tmp_path / "mixed", 1)
    write_counter(tmp_path / "mixed" / "clip.mp4", 7, height=64, width=64)
    (tmp_path / "mixed" / "clip.txt").write_text("a clip")
    return DataConfig.model_validate({"path": str(tmp_path / "mixed"), "buckets": buckets, **options})


IMAGE, CLIP = [1, 64, 64], [9, 64, 64]


@pytest.mark.parametrize(
    ("buckets", "reason"),
    [
        (
            [IMAGE, CLIP],
            "has 7 frames at 24 frames a second; the shortest video bucket needs 9; add a bucket of 7 frames or fewer; "
            "or set videos_as_images: true",
        ),
        (
            [IMAGE],
            "has 7 frames at 24 frames a second, and all buckets are of one frame; add one of more frames, or set videos",
        ),
    ],
)
def test_a_clip_becomes_a_still_only_on_request(tmp_path: Path, buckets: list[list[int]], reason: str) -> None:
    with pytest.raises(DataError, match="1 bad sample") as error:
        catalog_of(tmp_path, stills_and_clips(tmp_path, buckets))
    assert f"clip.mp4: {reason}" in str(error.value)
    catalog = catalog_of(tmp_path, stills_and_clips(tmp_path, buckets, videos_as_images=True))
    assert [catalog.buckets[bucket] for bucket in catalog.sets[0].bucket] == [(1, 64, 64)] * 2


def test_a_clip_goes_to_a_video_bucket_that_fits_though_an_image_bucket_is_nearer(tmp_path: Path) -> None:
    buckets = [IMAGE, [5, 32, 64]]
    catalog = catalog_of(tmp_path, stills_and_clips(tmp_path, buckets))
    assert [catalog.buckets[bucket][0] for bucket in catalog.sets[0].bucket] == [1, 5]
    wide = [IMAGE, [5, 512, 512]]
    with pytest.raises(DataError, match=r"64x64 pixels would be enlarged 8 times for the bucket \[5, 512, 512\]"):
        catalog_of(tmp_path, stills_and_clips(tmp_path, wide))


def test_a_clip_shorter_than_its_buckets_follows_on_error(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name, frames in (("short", 7), ("long", 12)):
        write_counter(tmp_path / "clips" / f"{name}.mp4", frames, height=64, width=64)
        (tmp_path / "clips" / f"{name}.txt").write_text(name)
    config = DataConfig(path=str(tmp_path / "clips"), buckets=((9, 64, 64),))
    with pytest.raises(DataError, match=r"1 bad sample:\n.*short\.mp4: .*7 frames.*9"):
        catalog_of(tmp_path, config)
    data = catalog_of(tmp_path, config.model_copy(update={"on_error": "skip"})).sets[0]
    assert [Path(problem.path).name for problem in data.problems] == ["short.mp4"]
    assert held_out_names(Catalog((data,), ((9, 64, 64),))) == {"long.mp4"}
