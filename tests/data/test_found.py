"""What a run says of where its data lie: which layout, by what it was found, and what of it is not used."""

import io
from pathlib import Path

import pytest
from layout_makers import write_tar
from media_factory import counter
from PIL import Image

from finetrainers.config import DataConfig
from finetrainers.data.catalog.catalog import build_catalog
from finetrainers.data.catalog.found import found_sets, set_lines
from finetrainers.data.catalog.memo import Memo
from finetrainers.data.catalog.snapshot import Snapshots
from finetrainers.errors import DataError


def test_a_line_for_each_set_says_its_layout_and_what_is_not_used(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(counter(7)).save(file, "png")
    members = [("a.png", file.getvalue()), ("a.txt", b"A"), ("a.cls", b"1"), ("b.png", b"bad"), ("b.txt", b"B")]
    write_tar(tmp_path / "set/train-0.tar", [*members, ("c.cls", b"2"), ("c.pkl", b"")])
    write_tar(tmp_path / "set/test-0.tar", members)
    config = DataConfig(path=str(tmp_path / "set"), buckets=[[1, 64, 64]], on_error="skip")
    memo, warned = Memo(tmp_path / "memo.sqlite"), list[str]()
    try:
        catalog = build_catalog([config, config], memo, workers=1, progress=lambda done, total: None, warn=warned.append)
    finally:
        memo.close()
    assert len(warned) == 1
    assert warned[0].startswith("data.0 and data.1 both have 1 of their media, such as tar:")
    found = found_sets(catalog)
    assert found[0] == {
        "path": str(tmp_path / "set"),
        "layout": "webdataset",
        "why": "2 .tar shards, split train",
        "items": 1,
        "left_out": 1,
        "passed_over": {"files of the split test": 1, ".cls": 2, ".pkl (never read)": 1},
    }
    line = f"{tmp_path}/set: webdataset (2 .tar shards, split train), 1 item, 1 left out, not used: 2 .cls, "
    assert set_lines(found) == [line + "1 files of the split test, 1 .pkl (never read)"] * 2
    plain = {**found[0], "left_out": 0, "items": 2, "passed_over": {}}
    assert set_lines([plain]) == [f"{tmp_path}/set: webdataset (2 .tar shards, split train), 2 items"]


def test_the_line_says_which_items_have_the_prefix_alone(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        Image.fromarray(counter(7)).save(tmp_path / f"set/{name}.png")
    config = DataConfig(path=str(tmp_path / "set"), buckets=[[1, 64, 64]], caption_prefix="SKS")
    snapshots = Snapshots(tmp_path, print)

    def line(config: DataConfig) -> str:
        memo = Memo(tmp_path / "memo.sqlite")
        try:
            catalog = build_catalog([config], memo, workers=1, progress=lambda *_: None, snapshots=snapshots)
        finally:
            memo.close()
        return set_lines(found_sets(catalog))[0].removeprefix(f"{tmp_path}/set: ")

    assert line(config) == "sidecars (media alone, no captions: 'SKS' alone), 2 items"
    (tmp_path / "set/a.txt").write_text("A cat")
    assert line(config) == "sidecars (a.txt next to a.png, 1 without a caption but 'SKS'), 2 items"
    with pytest.raises(DataError, match=r"no caption file b\.txt"):  # not from what the cache remembers of the list
        line(config.model_copy(update={"caption_prefix": ""}))
