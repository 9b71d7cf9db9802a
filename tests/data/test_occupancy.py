"""What a run says of its buckets: how many samples each has, and which have none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from media_factory import write_counter
from runs import config_of, events_of, flux_tree, write_pictures

from finetrainers import train
from finetrainers.config import DataConfig
from finetrainers.data.catalog.catalog import Catalog, build_catalog
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.occupancy import about_empty, occupancy


def catalog_of(tmp_path: Path, *configs: dict[str, Any]) -> Catalog:
    memo = Memo(tmp_path / "memo.sqlite")
    sets = [DataConfig.model_validate(config) for config in configs]
    try:
        return build_catalog(sets, memo, workers=1, progress=lambda done, total: None)
    finally:
        memo.close()


def test_every_bucket_is_counted_over_all_sets(tmp_path: Path) -> None:
    one, two = ({"path": str(write_pictures(tmp_path / str(n), n, seed=n))} for n in (2, 3))
    other = [[1, 32, 64], [1, 64, 64]]
    catalog = catalog_of(tmp_path, {**one, "buckets": [[1, 64, 64]]}, {**two, "buckets": other})
    held_out = catalog_of(tmp_path, {**one, "buckets": [[1, 64, 32]]})
    assert occupancy(catalog, held_out, [(1, 64, 64), (1, 64, 64)]) == [
        {"size": [1, 64, 64], "samples": 5, "held_out": 2, "cropped": 0.0, "most_cropped": 0.0},
        {"size": [1, 32, 64], "samples": 0, "held_out": 0},
        {"size": [1, 64, 32], "samples": 0, "held_out": 0},
    ]


def test_a_listed_bucket_without_samples_is_warned_of(tmp_path: Path) -> None:
    path = str(write_pictures(tmp_path / "a", 2))
    (message,) = about_empty(catalog_of(tmp_path, {"path": path, "buckets": [[1, 64, 64], [9, 64, 64]]}), "data")
    assert message.startswith("data: no sample is in the bucket [9, 64, 64]: ")


def test_generated_sizes_may_be_empty_and_frame_counts_may_not(tmp_path: Path) -> None:
    path = str(write_pictures(tmp_path / "a", 2))
    budget = {"pixels": 4096, "step": 16, "frames": [1, 9]}
    catalog = catalog_of(tmp_path, {"path": path, "buckets": budget})
    assert len(catalog.buckets) > 4
    (message,) = about_empty(catalog, "data")
    assert message.startswith("data: no sample is in any bucket of 9 frames: ")
    assert about_empty(catalog, "data", is_wanted=lambda _: False) == []


def test_a_run_counts_its_buckets_and_warns_of_an_empty_one(
    tiny: Callable[[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures and a clip: each goes into the buckets of its kind; of two for clips, one stays empty."""
    media = write_pictures(tmp_path / "media", 3)
    write_counter(media / "clip.mp4", 10, height=64, width=64, fps=16)
    (media / "clip.txt").write_text("a clip")
    tree = flux_tree(tiny("wan", "2.1-t2v"), media, tmp_path, train={"steps": 4, "batch_size": 1, "micro_batch_size": 1})
    tree["data"][0]["buckets"] = [[1, 64, 64], [5, 64, 64], [9, 64, 64]]
    held_out = write_pictures(tmp_path / "held-out", 2, seed=1)
    tree["validation"] = {"data": [{"path": str(held_out), "buckets": [[1, 64, 64]]}], "noise_levels": 1}
    train(config_of(tree))
    events = events_of(tmp_path / "run")
    (run,) = (event for event in events if event["event"] == "run")
    assert run["buckets"] == [
        {"size": [1, 64, 64], "samples": 3, "held_out": 2, "cropped": 0.0, "most_cropped": 0.0},
        {"size": [5, 64, 64], "samples": 0, "held_out": 0},
        {"size": [9, 64, 64], "samples": 1, "held_out": 0, "cropped": 0.0, "most_cropped": 0.0},
    ]
    warned = [event["message"] for event in events if event["event"] == "warning"]
    assert [message.partition(": nothing fits")[0] for message in warned] == ["data: no sample is in the bucket [5, 64, 64]"]
    shown = capsys.readouterr().err
    assert "buckets  [1, 64, 64] 3 + 2 held out; [9, 64, 64] 1; [5, 64, 64] 0\n" in shown
