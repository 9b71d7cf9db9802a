"""What all events have in common: how they become JSON, and how they are read again, whatever version wrote them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field as DataclassField, dataclass, field, fields
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, WithJsonSchema

VERSION = 1
"""Raised when a field changes its meaning; new fields and new events do not raise it."""

NOT_FINITE = ("nan", "inf", "-inf")
Number = Annotated[float, WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}]})]
"""A number; JSON has no NaN and no infinity, so those are strings there."""
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Numbers = Mapping[str, Number]
AnyRecord = TypeVar("AnyRecord", bound="Record")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A JSON object with fields that are known, and those of another version, which stay as they are."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(use_attribute_docstrings=True)

    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields that this version does not know, as they were read."""

    def tree(self) -> dict[str, Any]:
        """Return what is written: fields that are None by default are left out while they are None."""
        found = {own.name: (getattr(self, own.name), own.default) for own in own_fields(cast("Any", type(self)))}
        given = {name: plain(value) for name, (value, default) in found.items() if value is not None or default is MISSING}
        return given | dict(self.extra)


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """Something that has happened."""

    event: ClassVar[str]
    """Name of the event in the file."""

    time: float = field(default_factory=time.time)
    """Seconds since 1970-01-01 UTC."""

    def tree(self) -> dict[str, Any]:
        """Return the JSON object of a line."""
        return {"v": VERSION, "time": self.time, "event": self.event, **super().tree()}


@cache
def own_fields(kind: Any) -> "tuple[DataclassField[Any], ...]":
    """Fields that a class has besides those that all records or events have."""
    return tuple(own for own in fields(kind) if own.name not in ("extra", "time"))


def made(kind: type[AnyRecord], tree: Mapping[str, Any]) -> AnyRecord:
    """Make a record of what was read.

    Raises:
        TypeError: If a field is missing, or is not what it has to be.
    """
    hints = _hints(cast("Any", kind))
    values = {name: _read(hints[name], value) for name, value in tree.items() if name in hints}
    return kind(**values, extra={name: value for name, value in tree.items() if name not in hints})


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {own.name: hints[own.name] for own in fields(kind) if own.name != "extra"}


def _read(hint: Any, value: Any) -> Any:
    """Turn plain values into what a hint says, as far as JSON has no such thing."""
    if hint == Number:
        return float(value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return made(hint, value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Sequence:
        return [_read(arguments[0], item) for item in value]
    if origin is Mapping and arguments[1] == Number:
        return {key: float(item) for key, item in value.items()}
    choices = [choice for choice in arguments if choice is not type(None)]
    if type(None) in arguments and len(choices) == 1:
        return None if value is None else _read(choices[0], value)
    return value


def plain(value: Any) -> Any:
    """Turn records inside lists and objects into what JSON knows."""
    match value:
        case Record():
            return value.tree()
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return value
