"""Which files lie beside the media of each item, such as its control. No media is opened here.

Shape letters: N items.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config import DataConfig
from finetrainers.data.media.blob import local_path, ref_of
from finetrainers.data.media.remote import HUB, is_remote
from finetrainers.data.sources.folders import nearest, suffixes, walk
from finetrainers.data.sources.hub import find_hub_place
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.remote_place import find_remote_place
from finetrainers.errors import DataError

Paired = tuple[pa.Array, dict[int, str]]
"""Path of each item's file [N], or lists of paths, null where there is none; and why, by item, for those without."""


def about_file(name: str, path: str, reason: str) -> str:
    """Say of an item what is wrong with its file of a stream."""
    return f"its {name} {path}: {reason}"


@dataclass(frozen=True, slots=True)
class Folder:
    """All files of one stream, in the places and with the names that their media have in the data set."""

    name: str
    """Of the stream."""
    path: str
    """Its reference."""
    files: Sequence[str]
    config: DataConfig


def list_folder(name: str, config: DataConfig, media: Place) -> Folder:
    """List all media below the folder of a stream.

    Raises:
        DataError: If there is no such folder or nothing in it, or if it is that of the media.
    """
    given, where = str(config.folder_of(name)), f"data.{config.key_of_folder(name)}"
    if is_remote(given) and not given.startswith(HUB):
        return _list_remote(name, config, media)
    folder = find_hub_place(given, key=where).path if is_remote(given) else Path(given).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"{where}: there is no folder {given!r}{nearest(folder)}")
    if not media.is_remote and media.folder.is_dir() and folder.samefile(media.folder):
        raise DataError(f"{where}: {given!r} holds the media themselves; give the folder of the {name}s")
    return _filled(Folder(name, ref_of(folder), list(walk(folder, Counter())), config))


def _list_remote(name: str, config: DataConfig, media: Place) -> Folder:
    given, where = str(config.folder_of(name)), f"data.{config.key_of_folder(name)}"
    place = find_remote_place(given, key=where)
    if place.is_file:
        raise DataError(f"{where}: {given!r} is a file; give a folder that can be listed")
    if place.root == media.root:
        raise DataError(f"{where}: {given!r} holds the media themselves; give the folder of the {name}s")
    return _filled(Folder(name, place.root, place.media().to_pylist(), config))


def _filled(folder: Folder) -> Folder:
    if not folder.files:
        where = f"data.{folder.config.key_of_folder(folder.name)}"
        raise DataError(f"{where}: there are no images or videos in {folder.path} ({suffixes()})")
    return folder


def pair_by_place(media: pa.ChunkedArray, media_folder: str, other: Folder) -> Paired:
    """Pair media [N] below a folder with the files of the same place and name, but for the suffix, in the other folder."""
    name, folder, files = other.name, media_folder, other.files
    places = relative_to(media, folder)
    found = pa.array(files, pa.large_string())
    by_place = without_suffix(relative_to(found, other.path))
    counted = pc.value_counts(by_place)
    repeated = pc.is_in(by_place, value_set=counted.field("values").filter(pc.greater(counted.field("counts"), 1)))
    several: dict[str, list[str]] = {}
    for place, file in zip(by_place.filter(repeated).to_pylist(), found.filter(repeated).to_pylist(), strict=True):
        several.setdefault(place, []).append(file)
    wanted = without_suffix(places)
    is_unclear = pc.is_in(wanted, value_set=pa.array(list(several), pa.large_string()))
    paired = pc.if_else(is_unclear, None, found.take(pc.index_in(wanted, value_set=by_place)))
    reasons = {}
    for row in pc.indices_nonzero(pc.is_null(paired)).to_pylist():
        place = wanted[row].as_py()
        if place is None:
            reasons[row] = about_outside(folder, other)
        elif place in several:
            reasons[row] = f"has {len(several[place])} {name}s, {', '.join(sorted(several[place]))}; remove all but one"
        else:
            reasons[row] = f"has no {name} {other.path}/{place}, with the suffix of an image or a video"
    return paired, reasons


def about_outside(media_folder: str, other: Folder) -> str:
    """Say of an item that lies outside the folder of the media why a folder of files has none for it."""
    folder, column = other.config.key_of_folder(other.name), other.config.key_of_column(other.name)
    return f"lies outside {media_folder}, so that data.{folder} names no {other.name} for it; use data.{column}"


def relative_to(media: pa.ChunkedArray | pa.Array, folder: str) -> pa.Array:
    """Paths [N] relative to a folder; null where they lie outside of it."""
    media = media.combine_chunks() if isinstance(media, pa.ChunkedArray) else media
    prefix = f"{folder}/"
    is_plain = pc.and_(pc.starts_with(media, prefix), pc.invert(pc.match_substring_regex(media, r"/\.\.?/")))
    relative = pc.if_else(is_plain, pc.utf8_slice_codeunits(media, start=len(prefix)), None)
    others = pc.indices_nonzero(pc.invert(is_plain))
    if len(others) == 0:
        return relative
    detours = [os.path.relpath(local_path(path), folder) for path in media.take(others).to_pylist()]
    kept = pa.array([None if path.startswith("../") else ref_of(path) for path in detours], relative.type)
    return pc.replace_with_mask(relative, pc.invert(is_plain), kept)


def without_suffix(paths: pa.Array) -> pa.Array:
    """Cut off what follows the last dot of each name [N]."""
    return pc.replace_substring_regex(paths, pattern=r"\.[^./]*$", replacement="")
