"""The form of a new run, made of the sections of the configuration: every key, with its sentence, once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from finetrainers.config.overrides import read_overrides
from finetrainers.config.reference import Key, keys
from finetrainers.config.syntax import dump_yaml
from finetrainers.errors import ConfigError

Widget = Literal["select", "switch", "text", "lines"]
EXAMPLES = {
    "output_dir": "a name, such as crush",
    "model.path": "Lightricks/LTX-Video",
    "data.N.path": "data/crush",
    "data.N.buckets": "1024",
}
"""Shown where nothing is filled in yet, of keys that have no default."""
BASIC = {
    "output_dir", "model.path", "model.dtype", "data.N.path", "data.N.buckets", "data.N.caption_prefix",
    "conditioning.N.kind", "conditioning.N.signal", "tuning.kind", "tuning.rank", "tuning.alpha", "objective.kind",
    "optimizer.name", "optimizer.lr", "schedule.name", "schedule.warmup_steps", "train.steps", "train.batch_size",
    "train.micro_batch_size", "train.gradient_checkpointing", "cache.path", "checkpoint.every", "validation.every",
    "validation.prompts", "validation.held_out", "memory.preset", "memory.budget", "seed",
}  # fmt: skip
"""Keys that are not folded away."""
REPEATED = ("data", "conditioning", "validation.data")
"""Sections that may be given several times."""
OUTLINE = {
    "run": "Run", "model": "Model", "data": "Data", "conditioning": "Conditions", "tuning": "Tuning", "train": "Training",
    "optimizer": "Optimizer", "schedule": "Learning rate over time", "objective": "Objective", "validation": "Validation",
    "checkpoint": "Checkpoints", "memory": "Memory", "attention": "Attention", "compile": "Compilation",
    "parallel": "Many devices", "loader": "Loader", "cache": "Cache", "track": "Trackers",
}  # fmt: skip
"""Sections in the order of the form; keys without a section are the run's."""
KIND = re.compile(r"\[kind: (\w+)\] ")
CHOICE = re.compile(r"[\w.-]+( \| [\w.-]+)*")


@dataclass(frozen=True, slots=True)
class Field:
    """One key in the form."""

    name: str
    """Key, with :kind after it where several kinds of a section have one of that name: tuning.rank:lora."""
    key: str
    """As it is written in a configuration, N for an index."""
    label: str
    sentence: str
    widget: Widget
    choices: tuple[str, ...] = ()
    hint: str = ""
    """Type and bounds."""
    default: str | None = None
    """None if it has to be given."""
    kind: str | None = None
    """Kind of its section that it belongs to."""
    is_basic: bool = False
    example: str = ""

    @property
    def placeholder(self) -> str:
        """What stands in the empty field."""
        return self.example if self.default in (None, "null") else str(self.default)

    def at(self, index: int) -> "Field":
        """Name it in one of several sections."""
        return replace(self, name=self.name.replace(".N.", f".{index}.", 1), key=self.key.replace(".N.", f".{index}.", 1))


@cache
def all_fields() -> dict[str, tuple[Field, ...]]:
    """Fields of each section of the outline; those of validation.data come under that name."""
    known = keys()
    found: dict[str, list[Field]] = {name: [] for name in (*OUTLINE, "validation.data")}
    kinds: dict[str, list[Key]] = {}
    for key in known:
        if key.name.endswith(".kind") and key.name != "objective.kind":
            kinds.setdefault(key.name, []).append(key)
    for key in known:
        section = section_of(key.name)
        if section is None:
            continue
        if key.name in kinds:
            if key is kinds[key.name][0]:
                found[section].append(_kind_field(kinds[key.name]))
            continue
        found[section].append(_field(key))
    return {name: tuple(_merged(fields)) for name, fields in found.items()}


def section_of(name: str) -> str | None:
    """Which part of the form a key of the reference belongs to; None for one that stands for others.

    Conditions are always a list in the form, and components of a model one field.
    """
    if name in ("conditioning", "validation.data") or re.match(r"conditioning\.(?!N\.)", name):
        return None
    if name.startswith("validation.data.N."):
        return "validation.data"
    section = name.split(".", maxsplit=1)[0]
    return section if section in OUTLINE else "run"


def _merged(fields: list[Field]) -> Iterator[Field]:
    """Put the keys of model.components into one field, and say below it what they are."""
    inner = [field for field in fields if field.key.startswith("model.components.NAME.")]
    for field in fields:
        if field not in inner:
            yield field
        elif field is inner[0]:
            sentences = " ".join(f"{own.key.removeprefix('model.components.NAME.')}: {own.sentence}" for own in inner)
            text = f"Components from elsewhere, as {{text_encoder: {{path: ...}}}}. {sentences}"
            yield Field("model.components", "model.components", "components", text, "lines", default="{}")


def _kind_field(variants: list[Key]) -> Field:
    first = variants[0]
    words = [f"{key.type.split(' ')[0]}: {key.sentence}" for key in variants]
    default = next((key.default for key in variants if key.default is not None), None)
    choices = tuple(dict.fromkeys(key.type for key in variants))
    return Field(first.name, first.name, "kind", " ".join(words), "select", choices, default=default, is_basic=True)


def _field(key: Key) -> Field:
    found = KIND.match(key.sentence)
    kind = found[1] if found else None
    sentence = KIND.sub("", key.sentence, count=1)
    choices = _choices(key.type)
    widget: Widget = "switch" if key.type == "bool" else "select" if choices else "text"
    if widget == "text" and ("list of" in key.type or ": " in key.type):
        widget = "lines"
    return Field(
        name=f"{key.name}:{kind}" if kind else key.name,
        key=key.name,
        label=key.name.rpartition(".N.")[2] if ".N." in key.name else key.name.partition(".")[2] or key.name,
        sentence=sentence,
        widget=widget,
        choices=("true", "false") if key.type == "bool" else choices,
        hint=", ".join(filter(None, ("" if choices else _type_of(key), key.bounds))),
        default=key.default,
        kind=kind,
        is_basic=key.name in BASIC,
        example=EXAMPLES.get(key.name, ""),
    )


def _type_of(key: Key) -> str:
    """Say what a field takes, if its sentence alone would leave that open."""
    words = [word for word in key.type.split(" | ") if word != "null"]
    return "" if words in (["str"], ["Path"], ["bool"]) else " | ".join(words)


def _choices(type_: str) -> tuple[str, ...]:
    """Words that a key takes, if it takes no others: its type names them."""
    words = [word for word in type_.split(" | ") if word != "null"]
    is_open = {"str", "Path", "int", "float", "bool", "section"} & set(words) or not CHOICE.fullmatch(" | ".join(words))
    return () if is_open or any(" " in word or ">" in word for word in words) else tuple(words)


def form_fields(counts: Mapping[str, int]) -> dict[str, list[Field]]:
    """Fields of each section, those of repeated sections as often as ``counts`` says."""
    found = {}
    for section, fields in all_fields().items():
        many = range(counts.get(section, 0)) if section in REPEATED else None
        found[section] = list(fields) if many is None else [field.at(index) for index in many for field in fields]
    return found


def to_text(key: str, value: Any) -> str:  # whatever a configuration holds
    """Write a value such that the form reads it back."""
    if isinstance(value, str):
        plain = value
        quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    else:
        plain = quoted = (
            dump_yaml({"v": value}).removeprefix("v:").strip() if not isinstance(value, dict | list) else _flow(value)
        )
    try:
        ((_, back),) = read_overrides([f"{key}={plain}"])
    except (ConfigError, ValueError):
        return quoted
    return plain if back == value else quoted


def _flow(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
