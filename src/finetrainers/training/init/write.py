"""From answers to a configuration that ``train`` accepts: drafted, checked by the run's own planning, and then written."""

import json
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from finetrainers.config import CacheConfig, Config, ModelConfig, parse_config
from finetrainers.config.migrate.write import config_text
from finetrainers.config.syntax import parse_yaml, to_plain
from finetrainers.errors import ConfigError
from finetrainers.events.words import plural
from finetrainers.files.whole import write_whole
from finetrainers.models import open_model
from finetrainers.training.auto import settle
from finetrainers.training.console.announce import about_data
from finetrainers.training.init.answers import Answers
from finetrainers.training.init.draft import Draft, make_draft
from finetrainers.training.init.look import look
from finetrainers.training.init.memory import fit_card
from finetrainers.training.init.recipes import LEARNED
from finetrainers.training.inspect.facts import problems_of
from finetrainers.training.paths import absolute
from finetrainers.training.prepare import prepare

WIDTH = 100
"""Columns of a comment."""
Bars = Callable[[str, int, int], None]
"""Called with (stage, items done, items in all)."""


@dataclass(frozen=True, slots=True)
class Written:
    """What is to be said of a configuration that was written."""

    files: tuple[Path, ...]
    lines: tuple[str, ...]


def make_config(answers: Answers, file: Path, *, say: Callable[[str], None], bars: Bars) -> Written:
    """Look at the model and at the data, and write a configuration and its prompts.

    Raises:
        ConfigError: If a file is there already, or the model cannot learn that from these data.
        DataError: If the data cannot be used.
        ModelError: If the model is not there.
    """
    prompts = prompts_file(file)
    refuse_files(file, prompts)
    model = open_model(ModelConfig(path=answers.model))
    say(f"model: {model.adapter.name}, {model.task}")
    looked = look(answers.data, bars)
    for line in looked.lines():
        say(f"data: {line}" if not line.startswith(" ") else line)
    draft = make_draft(answers, model, looked, prompts=prompts)
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / prompts.name
        drawn.write_text(_prompts_text(draft), encoding="utf-8")
        if answers.card is not None:
            say("counting what a run takes, from config files alone: a minute or several for a large model")
            config = _parse(_without_checkpointing(draft), file, draft, drawn)
            say(fit_card(draft, config, answers.card, items=looked.num_items, say=lambda told: say(f"  {told}")))
        text = as_text(draft, answers)
        remarks = _planned(_parse(text, file, draft, drawn), bars)
    refuse_files(file, prompts)
    _write(file, text, prompts, draft)
    watch = f"watch: {LEARNED[answers.learn].watch}"
    return Written((file, prompts) if draft.prompts else (file,), (*remarks, watch))


def _prompts_text(draft: Draft) -> str:
    return json.dumps(draft.prompts, indent=1, ensure_ascii=False) + "\n"


def _write(file: Path, text: str, prompts: Path, draft: Draft) -> None:
    """Write a configuration and its prompts: both, or neither."""
    if draft.prompts:
        write_whole(prompts, _prompts_text(draft))
    try:
        write_whole(file, text)
    except BaseException:
        if draft.prompts:
            prompts.unlink(missing_ok=True)
        raise


def prompts_file(file: Path) -> Path:
    """Name the prompts file of a configuration."""
    return file.with_name(f"{file.stem}-prompts.json")


def refuse_files(*files: Path) -> None:
    """Refuse to write where something is.

    Raises:
        ConfigError: Naming it.
    """
    for file in files:
        if file.exists() or file.is_symlink():
            raise ConfigError(f"init: {file} exists already, and is not overwritten; name another CONFIG.yaml, or remove it")


def as_text(draft: Draft, answers: Answers) -> str:
    """Write a draft as YAML, with comments of a width that can be read."""
    head = [
        f"{LEARNED[answers.learn].title} on {answers.model}, made by finetrainers init.",
        "Where the figures come from, and which to change when: docs, Choosing settings.",
    ]
    lines: list[str] = []
    for line in config_text(draft.tree, draft.comments, [own[0].upper() + own[1:] for own in head]).splitlines():
        text = line.lstrip()
        indent = line[: len(line) - len(text)]
        if text.startswith("# "):
            lines += textwrap.wrap(text[2:], WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _without_checkpointing(draft: Draft) -> str:
    train = {key: value for key, value in draft.tree["train"].items() if key != "gradient_checkpointing"}
    return config_text({**draft.tree, "train": train}, {})


def _parse(text: str, file: Path, draft: Draft, prompts: Path) -> Config:
    """Parse what would be written; its prompts are read from another file, as theirs is not there yet."""
    tree = to_plain(parse_yaml(text))
    if draft.prompts:
        tree["validation"]["prompts"] = str(prompts)
    return parse_config(tree, origin=f"what {file} would be")


def _planned(config: Config, bars: Bars) -> list[str]:
    """Plan the run as ``train`` does before it loads anything, and say what a user should know.

    Raises:
        ConfigError: If it is impossible.
        DataError: If no item is left.
    """
    remarks: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        data = tuple(own.model_copy(update={"on_error": "skip"}) for own in config.data)
        cache = CacheConfig(path=Path(folder))
        looked = absolute(settle(config.model_copy(update={"data": data, "cache": cache}), is_new=True).config)
        model = open_model(looked.model, looked.memory)
        prepared = prepare(looked, model, torch.device("cpu"), progress=bars, warn=remarks.append)
        remarks += about_data(looked, prepared)
        for row in problems_of(prepared):
            remarks.append(
                f"{row['count']} items cannot be used, such as {row['paths'][0]}: {row['reason']}; fix or remove them, or "
                "set data.0.on_error: skip"
            )
        held_out = 0 if prepared.held_out_plan is None else prepared.held_out_plan.catalog.num_samples
        trained, steps = plural(prepared.plan.num_samples, "item"), plural(config.train.steps, "step")
        remarks.insert(0, f"{trained} to train on, {held_out} held out, {steps}")
    return remarks
