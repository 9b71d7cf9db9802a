"""Folders that ``datasets.Dataset.save_to_disk`` and ``DatasetDict.save_to_disk`` write, read without that library."""

import json
from dataclasses import replace

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.listing import Listing, join
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.splits import choose_split
from finetrainers.data.sources.table_file import list_table
from finetrainers.errors import DataError

STATE, SPLITS = "state.json", "dataset_dict.json"


class Saved(Layout):
    """Arrow files that ``state.json`` names, or folders of them by split."""

    name = "saved"
    settings = frozenset({"split", "media_column", "caption_column", "control_column", "columns"})
    names_streams = True

    def detect(self, place: Place, config: DataConfig) -> str | None:
        if place.is_file:
            return None
        found = [name for name in (STATE, SPLITS) if place.has(name)]
        return f"{found[0]} of save_to_disk" if found else None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        refs, split, passed_over = _choose(place, wanted.config)
        listing = join(list_table(ref, wanted) for ref in refs)
        if len(listing.table) == 0 and not listing.problems:
            raise DataError(f"{place}: the data set is empty")
        return replace(listing, why=split, passed_over={**passed_over, **listing.passed_over})

    def shards(self, place: Place, config: DataConfig) -> list[str] | None:
        return _choose(place, config)[0]

    def shard_items(self, ref: str, wanted: Wanted) -> Listing:
        return list_table(ref, wanted)


def _choose(place: Place, config: DataConfig) -> tuple[list[str], str, dict[str, int]]:
    """References of the Arrow files of the split; else as ``choose_split``."""
    if place.has(STATE):
        if config.split is not None:
            raise DataError(f"data.split: {config.split!r}: {place} is one data set without splits; remove it")
        return _files(place, ""), "", {}
    splits = _read(place, SPLITS).get("splits")
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise DataError(f"{place}/{SPLITS}: names no splits; save the data set again")
    if any("/" in name or name in ("", ".", "..") for name in splits):
        raise DataError(f"{place}/{SPLITS}: names a split that is not a folder in it; save the data set again")
    if config.split in splits or len(splits) == 1:
        chosen = config.split if config.split in splits else splits[0]
        if config.split not in (None, chosen):
            raise DataError(f"data.split: {config.split!r}: {place} has only {chosen}")
        return _files(place, f"{chosen}/"), f", split {chosen}", {"splits": len(splits) - 1} if len(splits) > 1 else {}
    names, said, _ = choose_split(splits, config, str(place))
    if len(names) != 1:
        raise DataError(f"{place}: has the splits {', '.join(splits)}; name one in data.split")
    return _files(place, f"{names[0]}/"), said, {"splits": len(splits) - 1}


def _files(place: Place, folder: str) -> list[str]:
    state = _read(place, f"{folder}{STATE}")
    files = state.get("_data_files")
    if not isinstance(files, list) or not all(
        isinstance(file, dict) and isinstance(file.get("filename"), str) for file in files
    ):
        raise DataError(f"{place}/{folder}{STATE}: names no data files; save the data set again")
    names = [file["filename"] for file in files]
    outside = [name for name in names if "/" in name or name in ("", ".", "..")]
    if outside:
        raise DataError(
            f"{place}/{folder}{STATE}: names {outside[0]!r}, which is not a file next to it; save the data set again"
        )
    return [place.ref(f"{folder}{name}") for name in names]


def _read(place: Place, name: str) -> dict[str, object]:
    try:
        with place.blob(name).open() as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{place}/{name}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{place}/{name}: holds {type(content).__name__}, not an object")
    return content
