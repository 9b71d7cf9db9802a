"""Folders whose names say how often their pictures come in an epoch."""

from pathlib import Path

import pytest

from finetrainers.config import Config, dump_config, load_config, parse_config
from finetrainers.config.data import DataConfig
from finetrainers.data.sources.items import Listing, list_items
from finetrainers.errors import ConfigError, DataError
from finetrainers.training.paths import absolute


def listed(path: Path, **options: object) -> Listing:
    return list_items(DataConfig(path=str(path), buckets=[[1, 8, 8]], **options))


def write(folder: Path, **captions: str) -> Path:
    """Empty pictures and texts, by file name with a double underscore for the dot; an empty text is none."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in captions.items():
        (folder / f"{name.partition('__')[0]}.png").touch()
        if text:
            (folder / name.replace("__", ".")).write_text(text)
    return folder


def expanded(path: Path, **options: object) -> Config:
    data = {"path": str(path), "buckets": [[1, 8, 8]], **options}
    sets = [data, {"path": str(path.parent / "other"), "buckets": [[1, 8, 8]]}]
    return absolute(parse_config({"output_dir": str(path.parent / "run"), "model": {"path": "a/b"}, "data": sets}))


def test_captions_are_beside_the_pictures_or_the_name_of_the_class(tmp_path: Path) -> None:
    folder = write(tmp_path / "10_sks dog", a__txt="One", b__caption="Two", c__cap="Three", d="", a__caption="Other")
    found = listed(folder, layout="kohya")
    assert {Path(row["media"]).stem: row["captions"] for row in found.table.to_pylist()} == {
        "a": ["One"],
        "b": ["Two"],
        "c": ["Three"],
        "d": ["sks dog"],
    }
    assert found.passed_over == {
        ".caption, where a .txt is the caption": 1,
        "without a caption of its own, and given the name of its folder": 1,
    }
    folder = write(tmp_path / "y", a__txt="A", b="", c__txt="")
    found = listed(folder, layout="kohya", caption_prefix="SKS")
    assert [row["captions"] for row in found.table.to_pylist()] == [["A"], [""], [""]]
    assert "no caption file next to it" in listed(write(tmp_path / "x", a__txt="A", d=""), layout="kohya").problems[0].reason


def test_a_folder_of_them_is_a_data_set_for_each_with_its_repeats(tmp_path: Path) -> None:
    write(tmp_path / "set/10_dog", a__txt="A")
    write(tmp_path / "set/3_cat", b__txt="B")
    config = expanded(tmp_path / "set", layout="kohya", repeats=0.5, caption_prefix="SKS")
    assert [(Path(data.path).name, data.repeats, data.caption_prefix) for data in config.data] == [
        ("10_dog", 5.0, "SKS"),
        ("3_cat", 1.5, "SKS"),
        ("other", 1.0, ""),
    ]


def test_the_saved_configuration_gives_the_same_data_sets(tmp_path: Path) -> None:
    write(tmp_path / "set/10_dog", a__txt="A")
    config = expanded(tmp_path / "set", layout="kohya")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert absolute(load_config(tmp_path / "config.yaml")) == config


def test_numbers_in_names_are_repeats_only_if_the_user_says_so(tmp_path: Path) -> None:
    """They may as well be dates, or an order."""
    write(tmp_path / "set/10_dog", a__txt="A")
    with pytest.raises(
        DataError, match=r"several layouts \(sidecars: .*; kohya: 10_dog names 10 repeats\); set data.layout"
    ):
        listed(tmp_path / "set")
    assert len(expanded(tmp_path / "set").data) == 2
    assert len(listed(tmp_path / "set", layout="sidecars").table) == 1
    (tmp_path / "set/10_dog/a.txt").rename(tmp_path / "set/10_dog/a.caption")
    with pytest.raises(DataError, match="its folders name repeats, such as 10_dog; set data.layout: kohya"):
        listed(tmp_path / "set")


@pytest.mark.parametrize("beside", ["plain", ""])
def test_other_folders_or_pictures_beside_them_are_no_such_layout(tmp_path: Path, beside: str) -> None:
    write(tmp_path / "set/10_dog", a__txt="A")
    write(tmp_path / "set" / beside, b__txt="B")
    assert listed(tmp_path / "set").layout == "sidecars"


def test_no_repeats_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "set/0_dog", a__txt="A")
    with pytest.raises(ConfigError, match="0_dog names 0 repeats"):
        expanded(tmp_path / "set", layout="kohya")
