"""Folders as kohya's tools take them: what ``10_dog animal`` holds, with captions, comes ten times in an epoch.

A caption is a ``.txt``, ``.caption`` or ``.cap`` beside its picture; without one it is what the folder's name says, "dog
animal". A folder of such folders is one data set for each of them, since their repeats differ.
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from finetrainers.config.data import DataConfig
from finetrainers.data.media.blob import local_path
from finetrainers.data.media.files import is_media
from finetrainers.data.media.view import why_unreadable
from finetrainers.data.sources.folders import suffixes, walk
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, Problem, finish
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.texts import read_text, why_no_text
from finetrainers.errors import ConfigError, DataError
from finetrainers.files.marks import is_hidden_folder

NUMBERED = re.compile(r"(\d{1,4})_(.+)")
CAPTION_SUFFIXES = (".txt", ".caption", ".cap")
"""Of several beside one picture the first of these is its caption."""
BLOCK_ROWS = 65536
"""Items that are held as Python objects at a time."""


class Kohya(Layout):
    """Folders whose names say how often their pictures come."""

    name = "kohya"
    settings = frozenset({"caption_lines"})

    def detect(self, place: Place, config: DataConfig) -> str | None:
        found = [] if place.chosen else class_folders(place.path)
        return f"{found[0][0].name} names {found[0][1]} repeats" if found else None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        found = class_folders(place.path)
        if found:
            raise DataError(
                f"{place}: its folders name repeats, such as {found[0][0].name}; set data.layout: kohya, which makes a data "
                "set of each"
            )
        if not place.path.is_dir():
            raise DataError(f"{place}: is not a folder, which data.layout: kohya needs")
        named = NUMBERED.fullmatch(place.path.name)
        return _list(place.path, wanted.config, None if named is None else named[2].strip())


def class_folders(folder: Path) -> list[tuple[Path, int]]:
    """Folders of a folder with the repeats that their names say, sorted; none unless all say some and hold all media."""
    if not folder.is_dir():
        return []
    children = sorted(child for child in folder.iterdir() if not is_hidden_folder(child.name))
    folders = [child for child in children if child.is_dir()]
    named = [NUMBERED.fullmatch(child.name) for child in folders]
    if not folders or not all(named) or any(is_media(child) for child in children if not child.is_dir()):
        return []
    return [(child, int(match[1])) for child, match in zip(folders, named, strict=True) if match is not None]


def class_sets(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make of the keys of a data set those of one for each folder that names its repeats; itself if there are none.

    Raises:
        ConfigError: If a folder names no repeats.
    """
    if data.get("layout") != "kohya":
        return [dict(data)]
    found = class_folders(Path(data["path"]).expanduser())
    if found and data.get("weight") is not None:
        raise ConfigError(
            f"data.weight: {data['path']} has folders with repeats; remove weight, or name the folders one by one"
        )
    for folder, repeats in found:
        if repeats == 0:
            raise ConfigError(f"data.path: {folder} names 0 repeats, so that nothing in it would come; rename or move it")
    return [{**data, "path": str(folder), "repeats": repeats * data.get("repeats", 1.0)} for folder, repeats in found] or [
        dict(data)
    ]


def _list(folder: Path, config: DataConfig, name: str | None) -> Listing:
    """List the media of one folder, and all below it, whose captions are beside them, or the name of their class."""
    passed_over: Counter[str] = Counter()
    problems: list[Problem] = []
    tables = []

    def unlisted(error: OSError) -> None:
        problems.append(Problem(str(error.filename), f"the folder {why_unreadable(error)}"))

    files = walk(folder, Counter(), without=config.named_folders, on_error=unlisted)
    while block := list(itertools.islice(files, BLOCK_ROWS)):
        rows = [(ref, _captions(ref, name, config, problems, passed_over)) for ref in block]
        good = [(ref, texts) for ref, texts in rows if texts]
        media = pa.array([ref for ref, _ in good], pa.large_string())
        captions = pa.array([texts for _, texts in good], pa.large_list(pa.large_string()))
        tables.append(pa.table({"media": media, "captions": captions}))
    if not tables and problems:
        raise DataError(f"{problems[0].path}: {problems[0].reason}")
    if not tables:
        raise DataError(f"{folder}: no media ({suffixes()})")
    listing = finish(pa.concat_tables(tables), problems, unlisted=0, prefix=config.caption_prefix)
    return replace(listing, passed_over=dict(passed_over))


def _captions(
    ref: str, name: str | None, config: DataConfig, problems: list[Problem], passed_over: Counter[str]
) -> list[str]:
    """Captions of one medium; none, and a problem, if it has none."""
    path = Path(local_path(ref))
    beside = [file for suffix in CAPTION_SUFFIXES if (file := path.with_suffix(suffix)).is_file()]
    for other in beside[1:]:
        passed_over[f"{other.suffix}, where a {beside[0].suffix} is the caption"] += 1
    if not beside and name is not None:
        passed_over["without a caption of its own, and given the name of its folder"] += 1
        return [name]
    try:
        text = read_text(beside[0]).strip() if beside else None
    except OSError as error:
        problems.append(Problem(ref, f"its caption file {beside[0].name} {why_unreadable(error)}"))
        return []
    except UnicodeDecodeError as error:
        problems.append(Problem(ref, f"its caption file {beside[0].name} {why_no_text(error)}"))
        return []
    if not text and config.caption_prefix:
        return [""]
    if not text:
        why = f"the caption is empty ({beside[0].name})" if beside else "no caption file next to it (.txt, .caption or .cap)"
        problems.append(Problem(ref, why))
        return []
    return text.split("\n") if config.caption_lines else [text]
