"""Media with a ``.txt`` of the same name beside each."""

import itertools
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from finetrainers.config.data import DataConfig
from finetrainers.data.media.blob import local_path
from finetrainers.data.media.files import why_unreadable
from finetrainers.data.sources.folders import suffixes, walk
from finetrainers.data.sources.layout import Layout, Wanted
from finetrainers.data.sources.left_over import LeftOver
from finetrainers.data.sources.listing import Listing, Problem, finish
from finetrainers.data.sources.place import Place
from finetrainers.data.sources.remote_sidecars import detect_remote_sidecars, list_remote_sidecars
from finetrainers.data.sources.texts import read_text, why_no_text
from finetrainers.errors import DataError

BLOCK_ROWS = 65536
"""Items that are held as Python objects at a time, where captions are read from files of their own."""
LAYOUTS = (
    "expected media files with a .txt of the same name next to each, or captions.txt next to videos.txt or images.txt, or "
    "metadata.csv, .json, .jsonl or .parquet; a metadata file of another name can be given as data.path itself"
)

ALONE = "without captions, data.caption_prefix is the caption of all media, such as a trigger word"


class Sidecars(Layout):
    """A caption beside each media file."""

    name = "sidecars"
    settings = frozenset({"caption_lines"})

    def detect(self, place: Place, config: DataConfig) -> str | None:
        if place.is_file or place.chosen:
            return None
        if place.is_remote:
            return detect_remote_sidecars(place)
        for ref in walk(place.path, Counter(), without=config.named_folders, on_error=_tell_later):
            file = Path(local_path(ref))
            if os.path.isfile(file.with_suffix(".txt")):  # noqa: PTH113 - says no where it may not look
                return f"{file.with_suffix('.txt').name} next to {file.name}"
        return None

    def items(self, place: Place, wanted: Wanted) -> Listing:
        if place.is_remote:
            return list_remote_sidecars(place, wanted.config, LAYOUTS, ALONE)
        return list_sidecars(place.path, wanted.config)


def _tell_later(error: OSError) -> None:
    """Leave it to the list of the items to tell which folders cannot be listed."""


def list_sidecars(folder: Path, config: DataConfig) -> Listing:
    """Read the ``.txt`` beside each media file, in the folder and all below it."""
    others: Counter[str] = Counter()
    problems: list[Problem] = []
    tables = []
    left = LeftOver()

    def unlisted(error: OSError) -> None:
        problems.append(Problem(str(error.filename), f"the folder {why_unreadable(error)}"))

    files = walk(folder, others, without=config.named_folders, on_error=unlisted, left=left.look)
    while block := list(itertools.islice(files, BLOCK_ROWS)):
        captions = [_read_sidecar(path, config, problems) for path in block]
        good = [(path, texts) for path, texts in zip(block, captions, strict=True) if texts]
        columns = [pa.array([p for p, _ in good], pa.large_string()), pa.array([t for _, t in good], _LISTS)]
        tables.append(pa.table(dict(zip(("media", "captions"), columns, strict=True))))
    found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common(5)) or "no files"
    if not tables and problems:
        raise DataError(f"{problems[0].path}: {problems[0].reason}")
    said = "".join(f"; {note.removeprefix(f'{folder}: ')}" for note in left.notes(folder))
    if not tables:
        raise DataError(f"{folder}: no media ({suffixes()}), but {found}{said}{left.about_tables()}; {LAYOUTS}")
    table = pa.concat_tables(tables)
    if len(table) == 0 and all(problem.reason.startswith("no caption file") for problem in problems):
        raise DataError(
            f"{folder}: {len(problems)} media, none of them with a caption, and {found}{said}; {LAYOUTS}; {ALONE}"
        )
    listing = finish(table, [*problems, *left.problems], unlisted=0, prefix=config.caption_prefix)
    others[".txt"] -= left.num_used
    passed_over = {suffix or "without suffix": count for suffix, count in others.items() if count > 0}
    return replace(listing, notes=left.notes(folder), passed_over=passed_over)


_LISTS = pa.large_list(pa.large_string())


def _read_sidecar(ref: str, config: DataConfig, problems: list[Problem]) -> list[str]:
    """Captions of one media file; none, and a problem, if it has none."""
    beside = Path(local_path(ref)).with_suffix(".txt")
    try:
        text = read_text(beside).strip()
    except FileNotFoundError:
        if os.path.islink(beside):  # noqa: PTH114 - a string path costs less, and there may be millions
            reason = f"its caption file {beside.name} is a link to {os.readlink(beside)}, which is not there"  # noqa: PTH115
            problems.append(Problem(ref, reason))
            return []
        if config.caption_prefix:
            return [""]
        problems.append(Problem(ref, f"no caption file {beside.name} next to it"))
        return []
    except OSError as error:
        problems.append(Problem(ref, f"its caption file {beside.name} {why_unreadable(error)}"))
        return []
    except UnicodeDecodeError as error:
        problems.append(Problem(ref, f"its caption file {beside.name} {why_no_text(error)}"))
        return []
    if not text and config.caption_prefix:
        return [""]
    if not text:
        problems.append(Problem(ref, f"the caption is empty ({beside.name})"))
        return []
    return [line.strip() for line in text.split("\n") if line.strip()] if config.caption_lines else [text]
