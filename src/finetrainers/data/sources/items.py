"""The items of a local data set: paths and captions, found in any of the known layouts. No media is opened here.

Layouts: media with a ``.txt`` of the same name; ``captions.txt`` beside ``videos.txt``, line by line; a metadata file.
Shape letters: N items.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config.data import DataConfig
from finetrainers.data.media.files import is_media
from finetrainers.data.sources.beside import Paired, about_file, list_folder, pair_by_place
from finetrainers.data.sources.folders import media_beside, nearest, suffixes, walk
from finetrainers.data.sources.metadata import METADATA_READERS, group, read_metadata
from finetrainers.errors import DataError

CAPTION_LISTS = ("captions.txt", "prompts.txt", "prompt.txt")
MEDIA_LISTS = ("videos.txt", "images.txt")
NEEDED_BY = {"control": "conditioning.signal: files"}
"""What makes a run need the files of a stream, by its name, for messages."""
BLOCK_ROWS = 65536
"""Items that are held as Python objects at a time, where captions are read from files of their own."""
LAYOUTS = (
    "expected media files with a .txt of the same name beside each, or captions.txt beside videos.txt or images.txt, or "
    "metadata.csv, .json, .jsonl or .parquet; a metadata file of another name can be given as data.path itself"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A sample that cannot be used."""

    path: str
    """The media file, or the line of a list that should name one."""
    reason: str
    """Why, without the path."""


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The items of one data set."""

    table: pa.Table
    """[N] sorted by path: media (large_string, absolute), captions (large_list of large_string, at least one each) and the
    files of further streams by name, as media."""
    problems: tuple[Problem, ...]
    """Items that are left out of the table."""
    unlisted: int
    """Media beside listed ones that a list or metadata file does not name."""


def list_items(config: DataConfig, streams: Sequence[str] = ()) -> Listing:
    """List the items of a data set after finding out how its folder is laid out.

    Args:
        config: Of the data set.
        streams: Names of what each item has in files of its own beside the media.

    Raises:
        DataError: If the folder or its layout is not known, or a list cannot be read, or nothing names those files.
    """
    path = Path(config.path).expanduser().absolute()
    folder = path if path.is_dir() else path.parent
    folders = [list_folder(name, config, folder) for name in streams if config.folder_of(name) is not None]
    listing = _list_media(path, config, [name for name in streams if config.folder_of(name) is None])
    for other in folders:
        listing = _paired(listing, other.name, pair_by_place(listing.table["media"], folder, other))
    return listing


def _list_media(path: Path, config: DataConfig, columns: Sequence[str]) -> Listing:
    """List the items; ``columns`` are the streams whose files the metadata file is to name."""
    if path.is_file():
        if path.suffix.lower() not in METADATA_READERS:
            raise DataError(f"data.path: {path} is no folder and no metadata file ({', '.join(METADATA_READERS)})")
        return _from_metadata(path, config, columns)
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
        return _from_metadata(metadata[0], config, columns)
    _refuse(config, "media_column", "caption_column", "control_column", "columns")
    for name in columns:
        raise DataError(
            f"data.{config.key_of_folder(name)}: nothing in {path} names the {name}s that {NEEDED_BY.get(name, 'the run')} "
            f"needs; set it to the folder of the {name}s, or list media and {name}s in a metadata file"
        )
    return _from_lists(captions[0], media[0], config) if lists else _from_sidecars(path, config)


def _paired(listing: Listing, name: str, paired: Paired) -> Listing:
    """Give the items [N] their files of a stream, and leave out those without one."""
    files, reasons = paired
    media = listing.table["media"]
    problems = [*listing.problems, *(Problem(media[row].as_py(), reason) for row, reason in reasons.items())]
    others = [column for column in listing.table.column_names if column != name]
    table = listing.table.select(others).append_column(name, files).filter(pc.is_valid(files))
    return Listing(table.combine_chunks(), _sorted(problems), listing.unlisted)


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.path))


def _refuse(config: DataConfig, *keys: str) -> None:
    """A setting that cannot take effect is an error."""
    for key in keys:
        if getattr(config, key):
            raise DataError(f"data.{key}: {getattr(config, key)!r} has no effect on the layout of {config.path}; remove it")


def _from_metadata(path: Path, config: DataConfig, columns: Sequence[str]) -> Listing:
    _refuse(config, "caption_lines")
    listing = _listing(path, "row", read_metadata(path, config, columns))
    for name in columns:
        listing = _paired(listing, name, _named_files(listing.table[name], path, name))
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
    paths = {name: _absolute(items[name], source.parent) for name in items.schema.names if name != "captions"}
    present, reasons = _check(paths["media"], source)
    problems += [Problem(paths["media"][row].as_py(), reason) for row, reason in reasons.items()]
    unlisted = pc.sum(pc.invert(pc.is_in(present, value_set=pa.concat_arrays(paths.values())))).as_py() or 0
    table = pa.table({**paths, "captions": items["captions"]})
    return _finish(table.filter(_all_but(reasons, len(table))), problems, unlisted)


def _all_but(rows: Iterable[int], count: int) -> pa.Array:
    chosen = np.ones(count, np.bool_)
    chosen[list(rows)] = False
    return pa.array(chosen)


def _named_files(named: pa.ChunkedArray, source: Path, stream: str) -> Paired:
    """Check the files [N] of a stream that a list names: absolute paths, null where there is none."""
    nowhere = f"{source.parent}/"  # an empty name, made absolute
    files = pc.fill_null(named, nowhere).combine_chunks()
    reasons = _check(files, source)[1]
    for row, reason in reasons.items():
        path = files[row].as_py()
        unnamed = f"{source.name} names no {stream} for it"
        reasons[row] = unnamed if path == nowhere else about_file(stream, path, reason)
    return pc.if_else(_all_but(reasons, len(files)), files, None), reasons


def _check(files: pa.Array, source: Path) -> tuple[pa.Array, dict[int, str]]:
    """List the media in the folders of the listed files [N], and say by row which of the files are none, and why."""
    present = pa.array(media_beside(files, source.parent), pa.large_string())
    reasons = {}
    for row in np.flatnonzero(~pc.is_in(files, value_set=present).to_numpy(zero_copy_only=False)).tolist():
        path = Path(files[row].as_py())
        if not path.is_file():
            reasons[row] = f"is listed in {source.name}, but there is no such file"
        elif not is_media(path):
            reasons[row] = f"suffix {path.suffix!r} is none of {suffixes()}"
    return present, reasons  # a file that is neither in both is hidden, or reached by a link


def _absolute(paths: pa.Array, folder: Path) -> pa.Array:
    cleaned = pc.replace_substring_regex(pc.utf8_trim_whitespace(paths), pattern=r"^(\./+)+", replacement="")
    joined = pc.binary_join_element_wise(
        pa.scalar(f"{folder}/", pa.large_string()), cleaned, pa.scalar("", pa.large_string())
    )
    return pc.replace_substring_regex(
        pc.if_else(pc.starts_with(cleaned, "/"), cleaned, joined), pattern="//+", replacement="/"
    )


def _finish(table: pa.Table, problems: list[Problem], unlisted: int) -> Listing:
    """Trim captions, part items without one from the others, and sort."""
    media, captions = table["media"], table["captions"].combine_chunks()
    rows = pc.list_parent_indices(captions)
    texts = pc.utf8_trim_whitespace(pc.list_flatten(captions))
    is_text = pc.fill_null(pc.not_equal(texts, ""), False)
    kept = group(rows.filter(is_text).to_numpy(), texts.filter(is_text), len(media))
    has_caption = pc.greater(pc.list_value_length(kept), 0)
    bare = np.flatnonzero(~has_caption.to_numpy(zero_copy_only=False))
    was_given = np.isin(bare, rows.filter(pc.is_valid(texts)).to_numpy())
    reasons = [f"the caption is {'empty' if given else 'missing'}" for given in was_given.tolist()]
    problems = problems + [Problem(media[row].as_py(), reason) for row, reason in zip(bare.tolist(), reasons, strict=True)]
    table = table.set_column(table.column_names.index("captions"), "captions", kept).filter(has_caption)
    return Listing(table.take(pc.sort_indices(table["media"])).combine_chunks(), _sorted(problems), unlisted)


def _from_sidecars(folder: Path, config: DataConfig) -> Listing:
    """Read the ``.txt`` beside each media file, in the folder and all below it."""
    others: Counter[str] = Counter()
    problems: list[Problem] = []
    tables = []
    files = walk(folder, others, without=config.named_folders)
    while block := list(itertools.islice(files, BLOCK_ROWS)):
        captions = [_read_sidecar(Path(path), config, problems) for path in block]
        good = [(path, texts) for path, texts in zip(block, captions, strict=True) if texts]
        columns = [pa.array([p for p, _ in good], pa.large_string()), pa.array([t for _, t in good], _LISTS)]
        tables.append(pa.table(dict(zip(("media", "captions"), columns, strict=True))))
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common(5)) or "no files"
    if not tables:
        raise DataError(f"{folder}: no media ({suffixes()}), but {found}; {LAYOUTS}")
    table = pa.concat_tables(tables)
    if len(table) == 0 and all(problem.reason.startswith("no caption file") for problem in problems):
        raise DataError(f"{folder}: {len(problems)} media, none of them with a caption, and {found}; {LAYOUTS}")
    return _finish(table, problems, unlisted=0)


_LISTS = pa.large_list(pa.large_string())


def _read_sidecar(path: Path, config: DataConfig, problems: list[Problem]) -> list[str]:
    """Captions of one media file; none, and a problem, if it has none."""
    beside = path.with_suffix(".txt")
    try:
        text = beside.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        problems.append(Problem(str(path), f"no caption file {beside.name} beside it"))
        return []
    except UnicodeDecodeError as error:
        problems.append(Problem(str(path), f"its caption file {beside.name} is not UTF-8 text: {error}"))
        return []
    if not text:
        problems.append(Problem(str(path), f"the caption is empty ({beside.name})"))
        return []
    return [line.strip() for line in text.split("\n") if line.strip()] if config.caption_lines else [text]
