"""The keys of a prompts file: what to generate, whatever the model."""

from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Gt, Le
from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator

from finetrainers.config.base import Section
from finetrainers.config.run import MAX_SEED
from finetrainers.errors import ConfigError

MAX_LENGTH = 2**20
"""Pixels or frames above which a number is a slip, whatever the model."""
NOUNS = {str: "text", Path: "the path of a file", int: "a whole number", float: "a number"}
"""What a key takes, by its type."""


class PromptConfig(Section):
    """One prompt of a prompts file (CSV, JSON or JSON lines). An empty value counts as not given."""

    prompt: str = Field(validation_alias=AliasChoices("prompt", "caption"))
    """Prompt, used as it is: ``caption_prefix`` is not added. An empty prompt generates without a caption."""
    image: Path | None = Field(default=None, validation_alias=AliasChoices("image", "image_path"))
    """Image to start from, in tasks that have one."""
    last_image: Path | None = Field(default=None, validation_alias=AliasChoices("last_image", "last_image_path"))
    """Image to end with, in the task that has one."""
    control: Path | None = Field(
        default=None, validation_alias=AliasChoices("control", "control_image", "control_video", "control_path")
    )
    """Image or video to compute the control from, in a run with a control."""
    reference: tuple[Path, ...] = Field(
        default=(), validation_alias=AliasChoices("reference", "references", "reference_image", "reference_path")
    )
    """Reference image, or a list of several, in a run with ``conditioning.kind: references``. In a table, separate them with
    semicolons."""
    height: int | None = Field(default=None, ge=0, le=MAX_LENGTH)
    """Height in pixels. By default that of the first bucket. Which sizes are possible depends on the model."""
    width: int | None = Field(default=None, ge=0, le=MAX_LENGTH)
    """Width in pixels. By default that of the first bucket."""
    num_frames: int | None = Field(default=None, ge=0, le=MAX_LENGTH, validation_alias=AliasChoices("num_frames", "frames"))
    """Number of frames of a video, or 1 for an image. By default that of the first bucket."""
    num_inference_steps: int = Field(default=30, gt=0, validation_alias=AliasChoices("num_inference_steps", "steps"))
    """Number of denoising steps."""
    guidance_scale: float | None = Field(default=None, validation_alias=AliasChoices("guidance_scale", "guidance"))
    """How strongly to follow the prompt. By default as in the model's pipeline."""
    negative_prompt: str | None = None
    """What to guide away from, if the model supports it."""
    fps: float | None = Field(default=None, gt=0)
    """Frames per second of a video. By default the model's own."""
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    """Seed of the noise. The same seed generates the same sample."""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, row: Mapping[str, Any]) -> dict[str, Any]:
        """Leave out keys with nothing in them, as a table has them, unless it is the prompt: an empty one is valid."""
        given = {key: value for key, value in row.items() if value not in (None, "")}
        names = spellings("prompt")
        if given.keys().isdisjoint(names) and any(row.get(name) == "" for name in names):
            given["prompt"] = ""
        return given

    @field_validator("reference", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return (value,) if isinstance(value, str | Path) else value

    @field_validator("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "fps", "seed", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """Refuse true and false, which pydantic takes for 1 and 0; keep all digits of numpy's integers."""
        if isinstance(value, bool):
            raise ValueError("is not a number")
        return int(value) if isinstance(value, Integral) else value


def spellings(key: str) -> tuple[str, ...]:
    """All names of a key, its own first."""
    alias = PromptConfig.model_fields[key].validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (key,)


KEYS = {name: key for key in PromptConfig.model_fields for name in spellings(key)}
"""The key that each name means: its own and its synonyms."""


def parse_prompt(row: Any, where: str) -> PromptConfig:  # whatever a JSON file holds
    """Check one prompt, given as keys with values; numbers may be text, as in a CSV file.

    Raises:
        ConfigError: Beginning with ``where``, with the first key that is wrong.
    """
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: {row!r} is not an object with the key 'prompt'")
    try:
        return PromptConfig.model_validate(row)
    except ValidationError as error:
        # In order, but a misspelt key before the missing one that it should have been.
        first = min(error.errors(), key=lambda found: found["loc"][0] in KEYS)
        raise ConfigError(f"{where}: {_line(str(first['loc'][0]), first['type'], first['input'])}") from None


def _line(name: str, kind: str, value: Any) -> str:
    """Describe one wrong key."""
    if name not in KEYS:
        close = get_close_matches(name, KEYS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(PromptConfig.model_fields)}"
        return f"there is no key {name!r}; {hint}"
    if kind == "extra_forbidden":
        return f"{name!r} and another key both give {KEYS[name]!r}; remove one of them"
    if KEYS[name] == "prompt":
        found = f" that is text, but {value!r}" if kind != "missing" else ""
        return f"has no prompt{found}; give one, or an empty one to generate without a caption"
    if kind in ("greater_than", "greater_than_equal", "less_than_equal"):
        return f"{name} is {value}; it has to be {_range(KEYS[name])}"
    annotation = PromptConfig.model_fields[KEYS[name]].annotation
    types = get_args(annotation) or (annotation,)
    return f"{name} is {value!r}, not {next(noun for kind, noun in NOUNS.items() if kind in types)}"


def _range(key: str) -> str:
    bounds = PromptConfig.model_fields[key].metadata
    match bounds:
        case [Gt(gt=low)]:
            return f"above {low}"
        case [Ge(ge=low), Le(le=high)]:
            return f"from {low} to {high}"
    raise AssertionError(f"{key} has bounds without words: {bounds}")
