"""What differs between two trees of settings."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A key whose values differ, with both."""

    key: str
    before: Any
    after: Any


def differences(before: Any, after: Any, *, key: str = "") -> Iterator[Difference]:
    """Walk two trees of mappings and lists of equal length below ``key``; yield where they differ, by their dotted keys."""
    prefix = f"{key}." if key else ""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            yield from differences(before.get(name), after.get(name), key=f"{prefix}{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, key=f"{prefix}{index}")
    elif before != after:
        yield Difference(key, before, after)
