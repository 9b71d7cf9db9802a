"""The model card that is written beside exported weights."""

import filecmp
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

import finetrainers
from finetrainers.config import Config
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.files.whole import to_json, whole_file, write_whole
from finetrainers.models import Model
from finetrainers.runs.outputs import Sample
from finetrainers.runs.report.facts import fits_comfyui, shown
from finetrainers.training.cards.call import call_lines
from finetrainers.training.cards.front_matter import CARD_FILE, SAMPLES, metadata
from finetrainers.training.cards.words import base_name, method_name, trigger_words
from finetrainers.tuning import ExportFacts, Tuning

MAX_SIZES = 4
"""Bucket sizes that a card names."""
SAMPLE_NAME = re.compile(r"\d{2,}\.(png|mp4)|\.\d{2,}\.(png|mp4)\.tmp")
CARD = """# {title}

{method} of {base} for {task}, trained with finetrainers.
{trigger}
## Use

{use}
{samples}## Training

| | |
|---|---|
{rows}"""


@dataclass(frozen=True, slots=True)
class Card:
    """What a run knows of weights when their card is written."""

    config: Config
    model: Model
    tuning: Tuning
    exported: Mapping[str, ExportFacts]
    """What is in the folder, by component."""
    step: int
    num_samples: int
    """That were trained on."""
    held_out_losses: Mapping[int, float] = field(default_factory=dict)
    """By step, up to this one."""
    samples: Sequence[Sample] = ()
    """That were generated with the weights."""
    repo: str | None = None
    """Repository that the weights are pushed to; None if they stay here."""


def write_card(directory: Path, card: Card) -> Path:
    """Write README.md, the model card, into a directory of weights, and the samples of their step beside it."""
    config, model = card.config, card.model
    base = config.model.path
    text = CARD.format(
        title=config.hub_repo or card.repo or config.output_dir.resolve().name,
        method=method_name(config),
        base=base_name(config) if Path(base).is_dir() else f"[{base}](https://huggingface.co/{base})",
        task=model.task,
        trigger=_trigger(config),
        use=_use(directory, card),
        samples=_samples(card.samples),
        rows="".join(f"| {name} | {value} |\n" for name, value in _rows(card)),
    )
    front = metadata(config, model, card.samples, asks_hub=card.repo is not None)
    file, text = directory / CARD_FILE, _marked(f"---\n{front}\n---\n\n{text}")
    _put_samples(card.samples, directory / SAMPLES)
    if (not file.exists() and not file.is_symlink()) or (_is_ours(file) and file.read_text(encoding="utf-8") != text):
        write_whole(file, text)
    return file


def _marked(text: str) -> str:
    """Append a comment with the hash of a card: of one that was edited the hash is another."""
    return (
        f"{text}<!-- finetrainers {hashlib.blake2b(text.encode(errors='backslashreplace'), digest_size=8).hexdigest()} -->\n"
    )


def _is_ours(file: Path) -> bool:
    """Whether a card is as a run wrote it: what a user has made of it is the user's."""
    if file.is_symlink() or not file.is_file():
        return False
    text = file.read_text(encoding="utf-8", errors="replace")
    return text == _marked(text[: text.rfind("<!-- ")])


def _put_samples(samples: Sequence[Sample], folder: Path) -> None:
    """Let the samples of a step be beside the card, and no others of the run."""
    if folder.is_symlink():  # whatever it leads to is the user's
        return
    for file in _samples_in(folder):
        if file.name not in {sample.file.name for sample in samples}:
            file.unlink(missing_ok=True)
    for sample in samples:
        _put_beside(sample.file, folder / sample.file.name)


def _samples_in(folder: Path) -> list[Path]:
    """Files in a folder that have names of samples, or of the parts of them that a kill left."""
    return [file for file in folder.glob("*") if SAMPLE_NAME.fullmatch(file.name) and not file.is_symlink()]


def _put_beside(file: Path, place: Path) -> None:
    """Let a sample be beside the card: under a second name if the file system can, and otherwise as a copy."""
    if place.is_file() and (place.samefile(file) or filecmp.cmp(place, file, shallow=False)):
        return
    place.parent.mkdir(exist_ok=True)
    with whole_file(place) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:  # of a file system without links
            shutil.copyfile(file, temporary)


def remove_card(directory: Path) -> None:
    """Remove a card that is as a run wrote it, and the samples that were put beside it."""
    if _is_ours(directory / CARD_FILE):
        (directory / CARD_FILE).unlink(missing_ok=True)
    (directory / f".{CARD_FILE}.tmp").unlink(missing_ok=True)
    for file in [] if (directory / SAMPLES).is_symlink() else _samples_in(directory / SAMPLES):
        file.unlink(missing_ok=True)


def _trigger(config: Config) -> str:
    words = [_code(word) for word in trigger_words(config)]
    if not words:
        return ""
    return f"\n**Trigger word{'s' * (len(words) > 1)}:** {', '.join(words)}, at the beginning of the prompt.\n"


def _use(directory: Path, card: Card) -> str:
    """What to type to generate with the weights."""
    config, exported = card.config, card.exported
    if any(own.drawing_class is None for own in exported.values()):
        command = "finetrainers sample RUN --prompt TEXT --control FILE"
        return f"diffusers has no pipeline for this control:\n\n```bash\n{command}\n```\n"
    base = config.model.path if card.repo is None else base_name(config)
    lines = card.tuning.snippet(base, card.repo or str(directory), exported)
    text = f"```python\n{lines}{call_lines(config, card.model, next(iter(card.samples), None))}```\n"
    if "comfyui" in config.checkpoint.export:
        return f"{text}\nFor ComfyUI, there is a file in `comfyui/`.\n"
    if len(exported) == 1 and fits_comfyui(config, card.model.adapter.name):
        file = next(iter(exported.values())).file
        return f"{text}\nFor ComfyUI: `finetrainers export {quote(file)} --to comfyui`\n"
    return text


def _samples(samples: Sequence[Sample]) -> str:
    """Pictures with their prompts; videos as links, which the Hub shows in its gallery."""
    if not samples:
        return ""
    parts = ["## Samples\n"]
    if any(one.is_video for one in samples):
        parts.append("<Gallery />\n")
    for one in samples:
        place, told = f"{SAMPLES}/{one.file.name}", ", ".join(_settings(one))
        prompt = _code(one.prompt) if one.prompt.strip() else "no prompt"
        shows = f"[{one.file.name}]({place}): {prompt}" if one.is_video else f"![{one.file.name}]({place})\n\n{prompt}"
        parts.append(f"{shows} ({told})\n")
    return "\n".join(parts) + "\n"


def _settings(sample: Sample) -> Iterator[str]:
    told = sample.settings
    frames, height, width = told["size"]
    yield f"{width}x{height}" + (f", {frames} frames" if frames > 1 else "")
    yield f"{told['steps']} steps"
    if "guidance" in told:
        yield f"guidance {told['guidance']:g}"
    yield f"seed {told['seed']}"


def _code(text: str) -> str:
    """Text as Markdown shows it unchanged, in a line and in a cell of a table."""
    line = " ".join(text.split()).replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def _rows(card: Card) -> Iterator[tuple[str, str]]:
    """Settings of the run, without folders of this disk."""
    config = card.config
    tuning, optimizer = config.tuning, config.optimizer
    told = [f"{key} {getattr(tuning, key):g}" for key in ("rank", "alpha", "factor") if hasattr(tuning, key)]
    yield "Base", base_name(config)
    yield "Method", ", ".join([method_name(config), *told])
    yield "Steps", str(card.step)
    yield "Batch size", str(config.train.batch_size)
    yield "Optimizer", f"{shown(optimizer.name).rpartition('/')[2]}, learning rate {optimizer.lr:g}, {config.schedule.name}"
    yield "Size", _sizes(config)
    if card.model.adapter.grid.has_video and config.data[0].fps is not None:
        yield "Frames per second", shown(config.data[0].fps)
    yield "Data", f"{card.num_samples} samples"
    yield from _conditioning(config)
    losses = {step: loss for step, loss in sorted(card.held_out_losses.items()) if step <= card.step}
    if losses:
        first, last = min(losses), max(losses)
        before = f", {float(losses[first]):.5f} at step {first}" if first != last else ""
        yield "Held-out loss", f"{float(losses[last]):.5f} at step {last}{before}"
    yield "Seed", str(config.seed)
    yield "finetrainers", finetrainers.__version__


def _sizes(config: Config) -> str:
    """Sizes of the buckets, as people say them: width x height, and frames."""
    found = list(dict.fromkeys(size for data in config.data for size in resolve_buckets(data.buckets)))
    named = [f"{width}x{height}" + (f" of {frames} frames" if frames > 1 else "") for frames, height, width in found]
    more = f" and {len(named) - MAX_SIZES} more" if len(named) > MAX_SIZES else ""
    return ", ".join(named[:MAX_SIZES]) + more


def _conditioning(config: Config) -> Iterator[tuple[str, str]]:
    """Say what the model is conditioned on besides the prompt: whoever generates has to make the same."""
    section = config.control if config.references is None else config.references
    if section is None:
        return
    idle = section.idle()
    facts = {name: value for name, value in section.model_dump(mode="json").items() if name not in idle}
    if config.control is not None:
        facts["signal"] = facts["signal"].rpartition("/")[2]  # of a file of the user's, its name
    yield "Conditioning", ", ".join(f"{name}: {to_json(value)}" for name, value in facts.items())
