"""The catalog: buckets, windows, splits and views of all data sets."""

from pathlib import Path

import numpy as np
import pytest
from media_factory import write_counter
from runs import write_pictures

from finetrainers.config import DataConfig
from finetrainers.data.catalog import Catalog, build_catalog, view_of
from finetrainers.data.memo import Memo
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
    digests = [{d.digests[i].tobytes() for d in part.sets for i in d.item} for part in (training, held_out)]
    assert not digests[0] & digests[1]
    assert training.num_samples + held_out.num_samples == 30


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_either_side_of_the_split_keeps_an_item(tmp_path: Path, fraction: float) -> None:
    training, held_out = catalog_of(tmp_path, pictures(tmp_path / "a", count=5)).split(fraction)
    assert training.num_samples >= 1
    assert held_out.num_samples >= 1


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


def test_a_clip_shorter_than_its_buckets_follows_on_error(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for name, frames in (("short", 7), ("long", 12)):
        write_counter(tmp_path / "clips" / f"{name}.mp4", frames, height=64, width=64)
        (tmp_path / "clips" / f"{name}.txt").write_text(name)
    config = DataConfig(path=str(tmp_path / "clips"), buckets=((9, 64, 64),))
    with pytest.raises(DataError, match=r"1 bad samples:\n.*short\.mp4: .*7 frames.*9"):
        catalog_of(tmp_path, config)
    data = catalog_of(tmp_path, config.model_copy(update={"on_error": "skip"})).sets[0]
    assert [Path(problem.path).name for problem in data.problems] == ["short.mp4"]
    assert held_out_names(Catalog((data,), ((9, 64, 64),))) == {"long.mp4"}
