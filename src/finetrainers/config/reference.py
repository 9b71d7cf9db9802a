"""Every key with its sentence, type, default and bounds: one walk serves --help, the reference page and error hints."""

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from finetrainers.config.base import Section
from finetrainers.config.run import Config


@dataclass(frozen=True, slots=True)
class Key:
    """One configurable value."""

    name: str
    """Full name, such as train.clip_norm; ``N`` stands for an index and ``NAME`` for a name of your own."""
    type: str
    default: str | None
    """As it is written in YAML; None if the key must be given."""
    bounds: str
    sentence: str


def keys(section: type[BaseModel] = Config) -> list[Key]:
    """All keys of a configuration, or of another file, in order."""
    return list(_keys(section))


@cache
def _keys(section: type[BaseModel]) -> tuple[Key, ...]:
    return tuple(_walk(section, ""))


def kinds_of(name: str, root: type[BaseModel] = Config) -> set[str]:
    """Types that a key of ``root`` takes, by its name in the reference: {"str", "null"} for track.wandb; empty if none.

    An item of a list of text, which has no line of its own there, is text.
    """
    types = {part for key in keys(root) if key.name == name for part in key.type.split(" | ")}
    if not types and name.endswith(".N"):
        return {"str"} if any(part.startswith("list of str") for part in kinds_of(name.removesuffix(".N"), root)) else set()
    return types


def sections_at(parents: Sequence[str | int], root: type[BaseModel] = Config) -> list[str]:
    """Names of the keys that exist below the given path; ["data", 0] means a data set."""
    prefix = general_name(parents)
    start = f"{prefix}." if prefix else ""
    names = dict.fromkeys(k.name[len(start) :].split(".")[0] for k in keys(root) if k.name.startswith(start))
    return [name for name in names if name != "N" or len(names) == 1]  # what may be a list or one of its items


def general_name(parts: Sequence[str | int]) -> str:
    """Name a place as keys are named: data.N.path for ["data", 0, "path"]."""
    words = ["N" if isinstance(part, int) or part.isdigit() else part for part in parts]
    if words[:2] == ["model", "components"] and len(words) > 2:
        words[2] = "NAME"
    return ".".join(words)


def kinds(section: str) -> list[str]:
    """Kinds of a section that has several, such as tuning."""
    return [key.type for key in keys() if key.name == f"{section}.kind"]


def _walk(section: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        full = f"{prefix}{field.alias or name}"
        nested = list(_sections(field.annotation))
        if not nested or (field.description and "list" in _type(field.annotation)):
            yield _key(full, field)
        for inner, suffix in nested:
            variant = inner.model_fields.get("kind")
            if len(nested) > 1 and variant is not None:
                yield from (_tagged(key, variant) for key in _walk(inner, f"{full}{suffix}."))
            else:
                yield from _walk(inner, f"{full}{suffix}.")


def _tagged(key: Key, variant: FieldInfo) -> Key:
    if key.name.endswith(".kind"):
        return key
    (kind,) = get_args(variant.annotation)
    return Key(key.name, key.type, key.default, key.bounds, f"[kind: {kind}] {key.sentence}")


def _sections(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _sections(arguments[0])
    elif origin in {Union, types.UnionType}:
        for argument in arguments:
            yield from _sections(argument)
    elif origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        yield from ((inner, ".N") for inner, _ in _sections(arguments[0]))
    elif origin is dict:
        yield from ((inner, ".NAME") for inner, _ in _sections(arguments[1]))


def _key(name: str, field: FieldInfo) -> Key:
    default = None if field.default is PydanticUndefined else _yaml(field.default)
    return Key(name, _type(field.annotation), default, _bounds(field), " ".join((field.description or "").split()))


def _bounds(field: FieldInfo) -> str:
    return ", ".join(_rules(field.metadata))


def _rules(metadata: Sequence[Any]) -> list[str]:
    words = []
    for rule in metadata:
        match rule:
            case Ge(ge=bound):
                words.append(f">= {bound}")
            case Gt(gt=bound):
                words.append(f"> {bound}")
            case Le(le=bound):
                words.append(f"<= {bound}")
            case Lt(lt=bound):
                words.append(f"< {bound}")
            case MinLen(min_length=bound):
                words.append(f"at least {bound}")
    return words


def _yaml(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Section():
            return f"{{{', '.join(f'{name}: {_yaml(inner)}' for name, inner in value)}}}"
        case tuple():
            return f"[{', '.join(map(_yaml, value))}]"
        case _:
            return str(value)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        rules = [word for rule in arguments[1:] if isinstance(rule, FieldInfo) for word in _rules(rule.metadata)]
        return " ".join([_type(arguments[0]), *rules])
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in {Union, types.UnionType}:
        return " | ".join(dict.fromkeys(_type(a) for a in arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type(arguments[0])}"
        return f"[{', '.join(map(_type, arguments))}]"
    if origin is dict:
        return f"{_type(arguments[0])}: {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return "null" if annotation is type(None) else str(getattr(annotation, "__name__", annotation))
