"""Patterns for the names of several files: ``shard-{000..009}.tar``, ``{a,b}.tar``, ``*.tar``."""

import glob
import itertools
import os
import re
from pathlib import Path

from finetrainers.errors import DataError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_NAMES = 1_000_000
"""Names that braces may stand for."""


def is_pattern(path: str) -> bool:
    """Whether a path that names no file may be meant as a pattern."""
    return glob.has_magic(path) or any(RANGE.fullmatch(body) or "," in body for body in BRACES.findall(path))


def files_of(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """Find the files of a pattern: the folder that all of them are in or below, and their names relative to it, in order.

    Raises:
        DataError: If there are none, or if one that braces name is not there.
    """
    files: list[str] = []
    for name in expand_braces(str(pattern)):
        found = sorted(glob.glob(name)) if glob.has_magic(name) else [name]  # noqa: PTH207 - an absolute pattern
        if not found or not os.path.isfile(found[0]):  # noqa: PTH113 - there may be a million
            raise DataError(f"data.path: there is no file {name} of the pattern {str(pattern)!r}")
        files += [file for file in found if os.path.isfile(file)]  # noqa: PTH113
    folder = Path(os.path.commonpath([os.path.dirname(file) for file in files]))  # noqa: PTH120
    return folder, tuple(dict.fromkeys(os.path.relpath(file, folder) for file in files))


def expand_braces(pattern: str) -> list[str]:
    """Write a pattern out: ``{000..002}`` counts with the digits of its first number, ``{a,b}`` lists.

    Raises:
        DataError: If it stands for too many names.
    """
    parts = BRACES.split(pattern)
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_NAMES:
        raise DataError(f"data.path: {pattern!r} stands for {count} names, more than {MAX_NAMES}; use *, or a folder")
    return ["".join(words) for words in itertools.product(*choices)]


def _choices(body: str) -> list[str]:
    counted = RANGE.fullmatch(body)
    if counted is None:
        return body.split(",") if "," in body else ["{" + body + "}"]
    first, last = int(counted[1]), int(counted[2])
    if last - first > MAX_NAMES:
        raise DataError(f"data.path: {{{body}}} stands for more than {MAX_NAMES} names; use *, or a folder")
    return [f"{number:0{len(counted[1])}d}" for number in range(first, last + 1)]
