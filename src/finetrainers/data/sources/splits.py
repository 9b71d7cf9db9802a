"""Splits that the names of files tell, such as ``train-00000-of-00002.parquet`` or ``data/test/0.tar``: one is used."""

import re
from collections import Counter
from collections.abc import Sequence

from finetrainers.config.data import DataConfig
from finetrainers.errors import DataError

SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""By the name of the split, the words that stand for it between other marks than letters and digits."""
_WORD = {word: split for split, words in SPLITS.items() for word in words}


def split_of(name: str) -> str | None:
    """Split that a name tells, the innermost folder or the file itself counting most; None if it tells none."""
    for part in reversed(name.lower().split("/")):
        words = [word for word in re.split(r"[^a-z0-9]+", part) if word in _WORD]
        if words:
            return _WORD[words[0]]
    return None


def choose_split(names: Sequence[str], config: DataConfig, place: str) -> tuple[list[str], str, dict[str, int]]:
    """Choose the names of one split: that of ``data.split``, else train; all names where none tells a split.

    Returns:
        The names in their order, what to say of the choice, and how many files of which other splits are passed over.

    Raises:
        DataError: If the split is not there, or which one is meant is unclear.
    """
    splits = [split_of(name) for name in names]
    found = Counter(split for split in splits if split is not None)
    wanted = _WORD.get(config.split or "", config.split)
    if wanted is None:
        if not found:
            return list(names), "", {}
        wanted = "train" if "train" in found else next(iter(found))
        if wanted != "train" and len(found) > 1:
            raise DataError(f"{place}: has the splits {', '.join(sorted(found))}; name one in data.split")
    if wanted not in found:
        raise DataError(
            f"data.split: {config.split!r}: no file of {place} is of that split; {_there_are(found)}, or remove data.split"
        )
    chosen = [name for name, split in zip(names, splits, strict=True) if split == wanted]
    others = Counter(split or "no" for split in splits if split != wanted)
    passed_over = {f"files of {'no split' if split == 'no' else f'the split {split}'}": n for split, n in others.items()}
    return chosen, f", split {wanted}", passed_over


def about_missing(names: Sequence[str]) -> tuple[str, ...]:
    """Say which files are not there of those whose names count them, such as ``train-00000-of-00002.parquet``."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            found.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    notes = []
    for (start, count, end), numbers in found.items():
        missing = sorted(set(range(int(count))) - numbers)
        if missing:
            first = f"{start}-{missing[0]:0{len(count)}d}-of-{count}{end}"
            notes.append(f"{len(missing)} of {int(count)} files are not there and not used, such as {first}")
    return tuple(notes)


_NUMBERED = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(\.\w+)")


def _there_are(found: Counter[str]) -> str:
    return f"there are {', '.join(sorted(found))}" if found else "their names tell none"
