"""The items of a local data set: paths and captions, found in any of the known layouts. No media is opened here.

Layouts: media with a ``.txt`` of the same name; ``captions.txt`` beside ``videos.txt``, line by line; a metadata file.
Shape letters: N items.
"""

import difflib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finetrainers.config.data import DataConfig
from finetrainers.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_media
from finetrainers.data.metadata import METADATA_READERS, group, read_metadata
from finetrainers.errors import DataError

CAPTION_LISTS = ("captions.txt", "prompts.txt", "prompt.txt")
MEDIA_LISTS = ("videos.txt", "images.txt")
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
    """[N] sorted by path: media (large_string, absolute) and captions (large_list of large_string, at least one each)."""
    problems: tuple[Problem, ...]
    """Items that are left out of the table."""
    unlisted: int
    """Media beside listed ones that a list or metadata file does not name."""


def list_items(config: DataConfig) -> Listing:
    """List the items of a data set, after finding out how its folder is laid out.

    Raises:
        DataError: If the folder or its layout is not known, or a list cannot be read.
    """
    path = Path(config.path).expanduser().absolute()
    if path.is_file():
        if path.suffix.lower() not in METADATA_READERS:
            raise DataError(f"data.path: {path} is no folder and no metadata file ({', '.join(METADATA_READERS)})")
        return _from_metadata(path, config)
    if not path.is_dir():
        raise DataError(f"data.path: there is no file or folder {config.path!r}{_nearest(path)}")
    metadata = [path / f"metadata{suffix}" for suffix in METADATA_READERS if (path / f"metadata{suffix}").is_file()]
    captions = [path / name for name in CAPTION_LISTS if (path / name).is_file()]
    media = [path / name for name in MEDIA_LISTS if (path / name).is_file()]
    lists = [*captions, *media] if captions and media else []
    if len(metadata) > 1 or (metadata and lists) or len(lists) > 2:
        names = ", ".join(file.name for file in [*metadata, *lists])
        raise DataError(f"{path}: {names} all list items; remove all but one, or set data.path to the metadata file to use")
    if not metadata:
        _refuse(config, "media_column", "caption_column")
    if metadata:
        return _from_metadata(metadata[0], config)
    return _from_lists(captions[0], media[0], config) if lists else _from_sidecars(path, config)


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; {path.parent} does not exist either"
    close = difflib.get_close_matches(path.name, [sibling.name for sibling in path.parent.iterdir()], n=1)
    return f"; did you mean {close[0]!r}?" if close else f" (from {Path.cwd()})"


def _refuse(config: DataConfig, *keys: str) -> None:
    """A setting that cannot take effect is an error."""
    for key in keys:
        if getattr(config, key):
            raise DataError(f"data.{key}: {getattr(config, key)!r} has no effect on the layout of {config.path}; remove it")


def _from_metadata(path: Path, config: DataConfig) -> Listing:
    _refuse(config, "caption_lines")
    media, captions = read_metadata(path, config)
    return _listing(path, "row", media, captions)


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
    return _listing(media, "line", pa.array(paths, pa.large_string()), single)


def _lines(path: Path) -> list[str]:
    """Lines of a file without the blank ones at its end."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); convert it") from error
    return text.rstrip().split("\n") if text.strip() else []  # not splitlines(), which also cuts at exotic separators


def _listing(source: Path, unit: str, media: pa.Array, captions: pa.Array) -> Listing:
    """Check the items that a file lists: paths relative to its folder, existing media, captions."""
    if len(media) == 0:
        raise DataError(f"{source}: lists no media")
    trimmed = pc.utf8_trim_whitespace(media)
    is_named = pc.fill_null(pc.not_equal(trimmed, ""), False)
    unnamed = np.flatnonzero(~is_named.to_numpy(zero_copy_only=False))
    problems = [Problem(f"{source}, {unit} {row + 1}", "names no media file") for row in unnamed.tolist()]
    media, captions = _absolute(trimmed.filter(is_named), source.parent), captions.filter(is_named)
    present = pa.array(_media_beside(media, source.parent), pa.large_string())
    exists = pc.is_in(media, value_set=present).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(~exists).tolist():
        path = Path(media[row].as_py())
        if not path.is_file():
            problems.append(Problem(str(path), f"is listed in {source.name}, but there is no such file"))
        elif not is_media(path):
            problems.append(Problem(str(path), f"suffix {path.suffix!r} is none of {_suffixes()}"))
        else:
            exists[row] = True  # hidden, or reached by a link
    unlisted = pc.sum(pc.invert(pc.is_in(present, value_set=media))).as_py() or 0
    return _finish(media.filter(pa.array(exists)), captions.filter(pa.array(exists)), problems, unlisted)


def _absolute(paths: pa.Array, folder: Path) -> pa.Array:
    cleaned = pc.replace_substring_regex(paths, pattern=r"^(\./+)+", replacement="")
    joined = pc.binary_join_element_wise(
        pa.scalar(f"{folder}/", pa.large_string()), cleaned, pa.scalar("", pa.large_string())
    )
    return pc.replace_substring_regex(
        pc.if_else(pc.starts_with(cleaned, "/"), cleaned, joined), pattern="//+", replacement="/"
    )


def _media_beside(media: pa.Array, folder: Path) -> list[str]:
    """All media in the folders of the listed ones and of the list itself."""
    folders = set(pc.unique(pc.replace_substring_regex(media, pattern="/[^/]*$", replacement="")).to_pylist())
    return [file for name in sorted(folders | {str(folder)}) if Path(name).is_dir() for file in _media_in(name)]


def _media_in(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from (e.path for e in entries if not e.name.startswith(".") and is_media(Path(e.name)) and e.is_file())


def _finish(media: pa.Array, captions: pa.Array, problems: list[Problem], unlisted: int) -> Listing:
    """Trim captions, part items without one from the others, and sort."""
    rows = pc.list_parent_indices(captions)
    texts = pc.utf8_trim_whitespace(pc.list_flatten(captions))
    is_text = pc.fill_null(pc.not_equal(texts, ""), False)
    kept = group(rows.filter(is_text).to_numpy(), texts.filter(is_text), len(media))
    has_caption = pc.greater(pc.list_value_length(kept), 0)
    bare = np.flatnonzero(~has_caption.to_numpy(zero_copy_only=False))
    was_given = np.isin(bare, rows.filter(pc.is_valid(texts)).to_numpy())
    reasons = [f"the caption is {'empty' if given else 'missing'}" for given in was_given.tolist()]
    problems = problems + [Problem(media[row].as_py(), reason) for row, reason in zip(bare.tolist(), reasons, strict=True)]
    table = pa.table({"media": media, "captions": kept}).filter(has_caption)
    table = table.take(pc.sort_indices(table["media"])).combine_chunks()
    return Listing(table, tuple(sorted(problems, key=lambda problem: problem.path)), unlisted)


def _from_sidecars(folder: Path, config: DataConfig) -> Listing:
    """Read the ``.txt`` beside each media file, in the folder and all below it."""
    others: Counter[str] = Counter()
    problems: list[Problem] = []
    tables = []
    files = _walk(folder, others)
    while block := list(itertools.islice(files, BLOCK_ROWS)):
        captions = [_read_sidecar(Path(path), config, problems) for path in block]
        good = [(path, texts) for path, texts in zip(block, captions, strict=True) if texts]
        columns = [pa.array([p for p, _ in good], pa.large_string()), pa.array([t for _, t in good], _LISTS)]
        tables.append(pa.table(dict(zip(("media", "captions"), columns, strict=True))))
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common(5)) or "no files"
    if not tables:
        raise DataError(f"{folder}: no media ({_suffixes()}), but {found}; {LAYOUTS}")
    table = pa.concat_tables(tables)
    if len(table) == 0 and all(problem.reason.startswith("no caption file") for problem in problems):
        raise DataError(f"{folder}: {len(problems)} media, none of them with a caption, and {found}; {LAYOUTS}")
    return _finish(table["media"].combine_chunks(), table["captions"].combine_chunks(), problems, unlisted=0)


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


def _walk(folder: Path, others: Counter[str]) -> Iterator[str]:
    """Yield the media below a folder, through links too, but not hidden ones; count other files by suffix."""
    seen = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        stat = Path(name).stat()
        if (stat.st_dev, stat.st_ino) in seen:  # a link back up
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(child for child in folders if not child.startswith("."))
        for file in sorted(file for file in files if not file.startswith(".")):
            if is_media(Path(file)):
                yield str(Path(name) / file)
            else:
                others[Path(file).suffix] += 1


def _suffixes(suffixes: Iterable[str] = IMAGE_SUFFIXES + VIDEO_SUFFIXES) -> str:
    return " ".join(suffixes)
