"""Prompts to generate from, of a file or of the configuration."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from finetrainers.config import Bucket, PixelBudget, PromptConfig
from finetrainers.config.data import Buckets
from finetrainers.config.prompts import parse_prompt, spellings
from finetrainers.data.catalog.buckets import resolve_buckets, usual_bucket
from finetrainers.data.media.files import probe
from finetrainers.errors import ConfigError, DataError
from finetrainers.models import Model, Request
from finetrainers.models.base import image_is_optional

SEPARATOR = ";"
"""Between two references in a cell of a table."""


def usual_size(buckets: Buckets, model: Model) -> Bucket:
    """Size that is generated where a prompt names none: of generated buckets the model's own, if they are of its area."""
    own = model.adapter.recipe.size
    if own is not None and isinstance(buckets, PixelBudget) and buckets.pixels == own[1] * own[2]:
        same = [size for size in resolve_buckets(buckets) if size[1:] == own[1:]]
        if same:  # with the first number of frames
            return same[0]
    return usual_bucket(buckets)


def read_prompts(
    given: Path | Sequence[str],
    model: Model,
    *,
    size: tuple[int, int, int],
    takes_control: bool = False,
    takes_references: bool = False,
) -> list[Request]:
    """Read prompts.

    Args:
        given: The prompts; or a csv, json or jsonl file, whose keys are those of PromptConfig, of which only ``prompt`` is
            needed.
        model: Whose family and sizes the prompts have to fit.
        size: (frames, height, width) where a prompt names none.
        takes_control: Whether a prompt may name a control.
        takes_references: Whether it may name references.

    Raises:
        ConfigError: If the file cannot be read, or naming the prompt and the key that are wrong.
    """
    if isinstance(given, Path):
        named, rows = str(given), [(f"{given}, prompt {number}", row) for number, row in enumerate(_rows(given), 1)]
    else:
        named, rows = "the list", [(f"validation.prompts.{number}", {"prompt": text}) for number, text in enumerate(given)]
    if not rows:
        raise ConfigError(f"validation.prompts: {named} has no prompts")
    requests = []
    for where, row in rows:
        prompt = parse_prompt(row, where)
        prompt = _beside(prompt, given.parent) if isinstance(given, Path) else prompt  # a text names no files
        requests.append(_request(prompt, where, model, size, takes_control=takes_control, takes_references=takes_references))
    return requests


def make_request(
    row: Mapping[str, Any],
    where: str,
    model: Model,
    size: tuple[int, int, int],
    *,
    takes_control: bool = False,
    takes_references: bool = False,
) -> Request:
    """Check one prompt, given as keys of PromptConfig with values.

    Raises:
        ConfigError: Beginning with ``where``.
    """
    prompt = parse_prompt(row, where)
    return _request(prompt, where, model, size, takes_control=takes_control, takes_references=takes_references)


def _beside(prompt: PromptConfig, folder: Path) -> PromptConfig:
    """Find files beside the prompts file, where they are not found from the current folder."""
    found: dict[str, Any] = {key: _found(file, folder) for key, file in prompt if isinstance(file, Path)}
    found["reference"] = tuple(_found(file, folder) for file in prompt.reference)
    return prompt.model_copy(update=found)


def _found(file: Path, folder: Path) -> Path:
    return file if file.is_file() else folder / file


def _request(
    prompt: PromptConfig,
    where: str,
    model: Model,
    size: tuple[int, int, int],
    *,
    takes_control: bool,
    takes_references: bool,
) -> Request:
    """Check what depends on the model."""
    own = prompt.num_frames, prompt.height, prompt.width
    frames, height, width = (first if wanted is None else wanted for wanted, first in zip(own, size, strict=True))
    wanted = frames, height, width
    possible = model.adapter.grid.nearest(wanted)
    if wanted != possible:
        raise ConfigError(
            f"{where}: {wanted} (frames, height, width) is impossible for this model; the nearest is {possible}"
        )
    _check_family(prompt, where, model, takes_references=takes_references)
    _check_control(prompt.control, where, takes_control=takes_control)
    _check_references(prompt.reference, where, takes_references=takes_references)
    return Request(
        prompt=prompt.prompt,
        size=wanted,
        steps=prompt.num_inference_steps,
        seed=prompt.seed,
        guidance=prompt.guidance_scale,
        negative_prompt=prompt.negative_prompt,
        fps=prompt.fps,
        image=None if prompt.image is None else str(prompt.image),
        last_image=None if prompt.last_image is None else str(prompt.last_image),
        control=None if prompt.control is None else str(prompt.control),
        references=tuple(map(str, prompt.reference)),
    )


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        match path.suffix.lower():
            case ".csv":
                return [
                    _split(row) for row in csv.DictReader(io.StringIO(text, newline=""), restkey="beyond the last column")
                ]
            case ".jsonl":
                return [json.loads(line) for line in text.split("\n") if line.strip()]
            case ".json":
                tree = json.loads(text)
                rows = tree["data"] if isinstance(tree, dict) and "data" in tree else tree
                if isinstance(rows, list):
                    return rows
                raise ConfigError(f"validation.prompts: {path} holds no list of prompts, alone or under the key 'data'")
            case suffix:
                raise ConfigError(
                    f"validation.prompts: {path} is {suffix or 'without suffix'}; it has to be csv, json or jsonl"
                )
    except FileNotFoundError:
        raise ConfigError(
            f"validation.prompts: there is no file {path}; a prompt itself is written in a list: [{path.name}]"
        ) from None
    except OSError as error:
        raise ConfigError(f"validation.prompts: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"validation.prompts: {path} is not a text file in UTF-8: {error.reason}") from None
    except csv.Error as error:
        raise ConfigError(f"validation.prompts: {path} is not valid CSV: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"validation.prompts: {path} is not valid JSON: {error}") from None


def _split(row: Mapping[str, Any]) -> dict[str, Any]:
    """Make a list of the references in a row of a table, which has a semicolon between two of them."""
    paths = {name: row[name].split(SEPARATOR) for name in spellings("reference") if row.get(name)}
    return {**row, **{name: [path.strip() for path in own if path.strip()] for name, own in paths.items()}}


def _check_family(prompt: PromptConfig, where: str, model: Model, *, takes_references: bool) -> None:
    adapter, way_out = model.adapter, "name it as reference" if takes_references else "remove it"
    if prompt.negative_prompt is not None and not adapter.text.has_negative_prompt:
        raise ConfigError(f"{where}: {adapter.name} has no negative_prompt; remove it")
    is_optional = image_is_optional(adapter)
    needed = {"image-to-video": ("image",), "first-last-frame-to-video": ("image", "last_image")}.get(model.task, ())
    for key, file in (("image", prompt.image), ("last_image", prompt.last_image)):
        if file is None and key in needed and not is_optional:
            raise ConfigError(f"{where}: has no {key}, from which {model.task} starts; name an image")
        if file is not None and key not in needed and not (key == "image" and is_optional):
            raise ConfigError(f"{where}: {key}: {adapter.name} does not support it in the task {model.task}; {way_out}")
        if file is not None and not file.is_file():
            raise ConfigError(f"{where}: {key}: there is no file {file}")
        if file is not None:
            _check_picture(file, f"{where}: {key}")
    if prompt.fps is not None and not adapter.grid.has_video:
        raise ConfigError(f"{where}: {adapter.name} generates images, which have no fps; remove it")


def _check_picture(file: Path, where: str) -> None:
    """Refuse what is no picture, or only the beginning of one: it would end the run when it is generated."""
    try:
        with PIL.Image.open(file) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError) as error:  # as Pillow's formats have it
        raise ConfigError(f"{where}: {file} cannot be read as an image: {error}; name another") from None


def _check_control(file: Path | None, where: str, *, takes_control: bool) -> None:
    if file is None:
        return
    if not takes_control:
        raise ConfigError(f"{where}: control: the run shows no control, and would not look at it; remove it")
    if not file.is_file():
        raise ConfigError(f"{where}: control: there is no file {file}")
    try:
        probe(file)
    except DataError as error:
        raise ConfigError(f"{where}: control: {error}") from None


def _check_references(files: Sequence[Path], where: str, *, takes_references: bool) -> None:
    if files and not takes_references:
        raise ConfigError(
            f"{where}: reference: the run shows no references, and would not look at it; remove it, or train with "
            "conditioning.kind: references"
        )
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{where}: reference: there is no file {file}")
        try:
            found = probe(file)
        except DataError as error:
            raise ConfigError(f"{where}: reference: {error}") from None
        if found.num_frames != 1 or found.fps:
            raise ConfigError(f"{where}: reference: {file} is a video; name a still image")
