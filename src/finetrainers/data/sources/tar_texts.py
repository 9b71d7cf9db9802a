"""The captions of one sample of a tar archive, from its members that are text."""

import json
from collections.abc import Mapping

from finetrainers.config.data import DataConfig
from finetrainers.data.sources.metadata import CAPTION_COLUMNS
from finetrainers.data.sources.texts import decode_text
from finetrainers.errors import DataError

CAPTION_MEMBERS = ("txt", "caption", "cap")
"""Suffixes of captions; of several of one sample the first of these is its caption."""


def captions_of(texts: Mapping[str, bytes], config: DataConfig, where: str) -> tuple[list[str], list[str]]:
    """Read the captions of a sample, none if it has none, and tell which of its texts are not used.

    Args:
        texts: What its members hold, by what follows the first dot of their names.
        config: Of the data set.
        where: The sample, for messages.

    Raises:
        ValueError: If they cannot be read.
        DataError: If which of them is the caption is unclear.
    """
    named = (config.caption_column,) if isinstance(config.caption_column, str) else config.caption_column
    if named is not None:
        return [text for name in named for text in _named(name, texts)], []
    found = [suffix for suffix in CAPTION_MEMBERS if suffix in texts]
    used = found[0] if found else "json"
    unused = [f".{suffix}, where a .{used} is the caption" for suffix in texts if suffix != used]
    if not found:
        return _of_record(_record(texts), where), unused
    text = decode_text(texts[used])
    return text.split("\n") if config.caption_lines else [text], unused


def _named(name: str, texts: Mapping[str, bytes]) -> list[str]:
    """Read the member of that name, else that key of the object in its ``.json``."""
    for member in (name.removeprefix("."), f"{name}.txt"):
        if member in texts and member != "json":
            return [decode_text(texts[member])]
    return _texts(name, _record(texts).get(name))


def _of_record(record: Mapping[str, object], where: str) -> list[str]:
    found = [name for name in record if name.strip().lower() in CAPTION_COLUMNS]
    if len(found) > 1:
        raise DataError(f"{where}: {', '.join(found)} may all hold captions; name one in data.caption_column")
    return _texts(found[0], record[found[0]]) if found else []


def _record(texts: Mapping[str, bytes]) -> dict[str, object]:
    record = json.loads(decode_text(texts["json"])) if "json" in texts else {}
    if not isinstance(record, dict):
        raise ValueError(f"its .json holds {type(record).__name__}, not an object")
    return record


def _texts(name: str, value: object) -> list[str]:
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name!r} of its .json holds {value!r:.60}, which is not text")
    found = [str(text) for text in texts]
    for text in found:
        text.encode()  # half of a pair of surrogates is not text
    return found
