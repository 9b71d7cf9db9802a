"""The items of a local data set: paths and captions, found in any of the known layouts. No media is opened here.

Layouts: media with a ``.txt`` of the same name; ``captions.txt`` beside ``videos.txt``, line by line; a metadata file.
Shape letters: N items.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.beside import list_folder, pair_by_place
from finetrainers.data.sources.folders import nearest
from finetrainers.data.sources.listing import Listing as Listing, Problem as Problem, finish, pair
from finetrainers.data.sources.many import pair_many_by_place
from finetrainers.data.sources.metadata import METADATA_READERS, read_metadata
from finetrainers.data.sources.named import absolute, all_but, check_files, flat, named_files, named_lists
from finetrainers.data.sources.sidecars import list_sidecars
from finetrainers.errors import DataError

CAPTION_LISTS = ("captions.txt", "prompts.txt", "prompt.txt")
MEDIA_LISTS = ("videos.txt", "images.txt")
NEEDED_BY = {"control": "conditioning.signal: files", "reference": "conditioning.kind: references"}
"""What makes a run need the files of a stream, by its name, for messages."""


def list_items(config: DataConfig, streams: Sequence[str] = (), many: Collection[str] = ()) -> Listing:
    """List the items of a data set after finding out how its folder is laid out.

    Args:
        config: Of the data set.
        streams: Names of what each item has in files of its own beside the media.
        many: Those of them of which an item may have several files.

    Raises:
        DataError: If the folder or its layout is not known, or a list cannot be read, or nothing names those files.
    """
    path = Path(config.path).expanduser().absolute()
    folder = path if path.is_dir() else path.parent
    folders = [list_folder(name, config, folder) for name in streams if config.folder_of(name) is not None]
    listing = _list_media(path, config, [name for name in streams if config.folder_of(name) is None], many)
    for other in folders:
        by_place = pair_many_by_place if other.name in many else pair_by_place
        listing = pair(listing, other.name, by_place(listing.table["media"], folder, other))
    return listing


def _list_media(path: Path, config: DataConfig, columns: Sequence[str], many: Collection[str]) -> Listing:
    """List the items; ``columns`` are the streams whose files the metadata file is to name."""
    if path.is_file():
        if path.suffix.lower() not in METADATA_READERS:
            raise DataError(f"data.path: {path} is no folder and no metadata file ({', '.join(METADATA_READERS)})")
        return _from_metadata(path, config, columns, many)
    if not path.is_dir():
        raise DataError(f"data.path: there is no file or folder {config.path!r}{nearest(path)}")
    metadata = [path / f"metadata{suffix}" for suffix in METADATA_READERS if (path / f"metadata{suffix}").is_file()]
    captions = [path / name for name in CAPTION_LISTS if (path / name).is_file()]
    media = [path / name for name in MEDIA_LISTS if (path / name).is_file()]
    lists = [*captions, *media] if captions and media else []
    if len(metadata) > 1 or (metadata and lists) or len(lists) > 2:
        names = ", ".join(file.name for file in [*metadata, *lists])
        raise DataError(f"{path}: {names} all list items; remove all but one, or set data.path to the metadata file to use")
    if metadata:
        return _from_metadata(metadata[0], config, columns, many)
    _refuse(config, "media_column", "caption_column", "control_column", "columns")
    for name in columns:
        needed_by = NEEDED_BY.get(name, "the run")
        raise DataError(
            f"data.{config.key_of_folder(name)}: nothing in {path} names the {name} files that {needed_by} needs; set it "
            f"to the folder of the {name} files, or list media and {name} files in a metadata file"
        )
    return _from_lists(captions[0], media[0], config) if lists else list_sidecars(path, config)


def _refuse(config: DataConfig, *keys: str) -> None:
    """A setting that cannot take effect is an error."""
    for key in keys:
        if getattr(config, key):
            raise DataError(f"data.{key}: {getattr(config, key)!r} has no effect on the layout of {config.path}; remove it")


def _from_metadata(path: Path, config: DataConfig, columns: Sequence[str], many: Collection[str]) -> Listing:
    _refuse(config, "caption_lines")
    listing = _listing(path, "row", read_metadata(path, config, columns, many))
    for name in columns:
        check = named_lists if name in many else named_files
        listing = pair(listing, name, check(listing.table[name], path, name))
    return listing


def _from_lists(captions: Path, media: Path, config: DataConfig) -> Listing:
    """Pair the lines of two files."""
    _refuse(config, "caption_lines")
    texts, paths = _lines(captions), _lines(media)
    if len(texts) != len(paths):
        raise DataError(
            f"{captions.name} has {len(texts)} lines, but {media.name} has {len(paths)}, in {media.parent}; line n of one "
            "belongs to line n of the other"
        )
    single = pa.LargeListArray.from_arrays(pa.array(np.arange(len(texts) + 1)), pa.array(texts, pa.large_string()))
    items = pa.record_batch([pa.array(paths, pa.large_string()), single], names=["media", "captions"])
    return _listing(media, "line", items)


def _lines(path: Path) -> list[str]:
    """Lines of a file without the blank ones at its end."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); convert it") from error
    return text.rstrip().split("\n") if text.strip() else []  # not splitlines(), which also cuts at exotic separators


def _listing(source: Path, unit: str, items: pa.RecordBatch) -> Listing:
    """Check the items that a file lists: paths relative to its folder, existing media, captions."""
    if len(items) == 0:
        raise DataError(f"{source}: lists no media")
    is_named = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(items["media"]), ""), False)
    unnamed = np.flatnonzero(~is_named.to_numpy(zero_copy_only=False))
    problems = [Problem(f"{source}, {unit} {row + 1}", "names no media file") for row in unnamed.tolist()]
    items = items.filter(is_named)
    paths = {name: absolute(items[name], source.parent) for name in items.schema.names if name != "captions"}
    present, reasons = check_files(paths["media"], source)
    problems += [Problem(paths["media"][row].as_py(), reason) for row, reason in reasons.items()]
    listed = pa.concat_arrays([flat(own) for own in paths.values()])
    unlisted = pc.sum(pc.invert(pc.is_in(present, value_set=listed))).as_py() or 0
    table = pa.table({**paths, "captions": items["captions"]})
    return finish(table.filter(all_but(reasons, len(table))), problems, unlisted)
