"""Messages about a data set name its keys with its number, as the command line takes them."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import config_of, flux_tree, write_pictures

import finetrainers
from finetrainers.config import DataConfig
from finetrainers.config.load import parse_config
from finetrainers.config.of_set import KEY, about_set, numbered
from finetrainers.data.catalog.catalog import build_catalog
from finetrainers.data.catalog.memo import Memo
from finetrainers.errors import ConfigError, DataError, FinetrainersError
from finetrainers.training.paths import with_all_sets

SOURCE = Path(finetrainers.__file__).parent


def catalog_of(tmp_path: Path, *sets: dict[str, Any]) -> None:
    configs = [DataConfig.model_validate({"buckets": ((1, 64, 64),), **keys}) for keys in sets]
    build_catalog(configs, Memo(tmp_path / "memo.sqlite"), workers=1, progress=lambda *_: None)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a path": ({"path": "nowhere"}, "data.1.path: there is no file or folder"),
    "a layout": ({"layout": "sidecar"}, "data.1.layout: there is no layout 'sidecar'"),
    "a key without effect": ({"caption_column": "text"}, "data.1.caption_column: 'text' has no effect"),
    "a split": ({"split": "trial"}, "data.1.split: 'trial'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_set_is_named_by_its_number(name: str, tmp_path: Path) -> None:
    good = str(write_pictures(tmp_path / "good", 1))
    keys, said = WRONG[name]
    with pytest.raises(FinetrainersError) as error:
        catalog_of(tmp_path, {"path": good}, {"path": good, **keys})
    assert said in str(error.value)
    assert KEY.search(str(error.value)) is None


def test_bad_samples_name_the_sets_that_may_skip_them_and_the_way_to_a_caption(tmp_path: Path) -> None:
    """An empty caption file is no end: a trigger word is a caption."""
    good, bare = write_pictures(tmp_path / "good", 1), write_pictures(tmp_path / "bare", 2)
    (bare / "00.txt").write_text(" \n")
    with pytest.raises(DataError) as error:
        catalog_of(tmp_path, {"path": str(good)}, {"path": str(bare)})
    *_, way_out, hint = str(error.value).splitlines()
    assert "the caption is empty (00.txt)" in str(error.value)
    assert way_out == "Fix or remove them, or set data.1.on_error=skip to leave them out"
    assert hint == "data.1.caption_prefix, such as a trigger word, is the caption of what has none"
    catalog_of(tmp_path, {"path": str(good)}, {"path": str(bare), "caption_prefix": "sks"})


def test_sets_of_other_tools_and_of_a_validation_have_their_names(tiny_flux: Path, tmp_path: Path) -> None:
    (tmp_path / "sets.toml").write_text("[other]\n")
    tree = flux_tree(tiny_flux, write_pictures(tmp_path / "data", 1), tmp_path)
    sets = [*tree["data"], {"path": str(tmp_path / "sets.toml")}]
    with pytest.raises(ConfigError, match=r"^data\.1\.path: .*sets.toml holds other"):
        parse_config({**tree, "data": sets})
    with pytest.raises(ConfigError, match=r"^validation\.data\.1\.path: .*sets.toml holds other"):
        parse_config({**tree, "validation": {"data": sets}})
    write_pictures(tmp_path / "kohya" / "0_dog", 1)
    kohya = {"path": str(tmp_path / "kohya"), "layout": "kohya", "buckets": [[1, 64, 64]]}
    with pytest.raises(ConfigError, match=r"^data\.1\.path: .* names 0 repeats"):
        with_all_sets(config_of({**tree, "data": [*tree["data"], kohya]}))


@pytest.mark.parametrize(
    "message, said",
    [
        ("data.path: x", "validation.data.2.path: x"),
        ("a; set data.folders.control", "a; set validation.data.2.folders.control"),
        ("data.N.path, data.0.path, my.data.path, /data.path, data.paths", None),
        ("my-data.path, data.path.old, data.path-2, data.path/a.png, data.columns.old/a.png", None),
        ("set data.path.", "set validation.data.2.path."),
    ],
)
def test_only_keys_without_a_number_get_one(message: str, said: str | None) -> None:
    assert numbered(message, "validation.data.2") == (message if said is None else said)
    with pytest.raises(DataError) as error, about_set("validation.data.2"):
        raise DataError(message)
    assert str(error.value) == (message if said is None else said)


def texts(tree: ast.AST) -> Iterator[str]:
    """Text of a module that is no docstring; what stands in braces of an f-string is left out."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str) and not isinstance(node, ast.Expr):
                yield child.value


def test_what_is_no_part_of_reading_a_set_writes_no_key_without_a_number() -> None:
    """Of the folders that read one, all errors come with the number; nothing else knows it better than who writes."""
    found = {
        f"{file.relative_to(SOURCE)}: {text}"
        for file in SOURCE.rglob("*.py")
        if file.parts[len(SOURCE.parts)] != "data" and file.name != "dataset_toml.py"
        for text in texts(ast.parse(file.read_text(encoding="utf-8")))
        if KEY.search(text)
    }
    assert not found
