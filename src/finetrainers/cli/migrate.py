"""``finetrainers migrate``: makes a configuration of ours of one of another trainer."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetrainers.errors import ConfigError

if TYPE_CHECKING:
    from finetrainers.config.migrate.formats import Migration

TRAINERS = "finetrainers (before version 1), ai-toolkit, simpletuner, musubi-tuner or diffusion-pipe"


def add_migrate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    migrate = commands.add_parser(
        "migrate",
        help="translate a configuration of another trainer",
        description=f"Translate a configuration of another trainer: {TRAINERS}. Settings without a counterpart are listed.",
    )
    migrate.add_argument(
        "source", metavar="FILE", help="configuration or script of the other trainer, or its command in quotes"
    )
    migrate.add_argument("--output", type=Path, metavar="CONFIG", help="file to write; by default it is printed")
    migrate.add_argument("--from", dest="name", metavar="NAME", help="the other trainer, if it is not recognized")
    migrate.set_defaults(run=run_migrate)


def run_migrate(options: argparse.Namespace, _: list[str]) -> None:
    """``migrate``."""
    from finetrainers.config.migrate.formats import migrate
    from finetrainers.config.migrate.write import notes_text

    prompts = None
    if options.output is not None:
        if options.output.suffix.lower() not in (".yaml", ".yml"):
            raise ConfigError(f"--output: {options.output} is no .yaml; name the file of the configuration")
        prompts = options.output.with_name(f"{options.output.stem}-prompts.json")
        for file in (options.output, prompts):
            if file.exists():
                raise ConfigError(f"--output: {file} exists already, and is not overwritten; name another file")
    found = migrate(options.source, options.name)
    text = _text(found, prompts)
    if prompts is None:
        print(text, end="", flush=True)
    print(notes_text(found.notes), file=sys.stderr)
    if prompts is not None:
        _write(options.output, text, prompts, found)


def _text(found: "Migration", prompts: Path | None) -> str:
    from finetrainers.config.migrate.write import config_text

    tree = dict(found.tree)
    head = [f"Made of a configuration of {found.name} by finetrainers migrate."]
    if found.prompts and prompts is not None:
        tree["validation"] = {**tree.get("validation", {}), "prompts": str(prompts)}
    elif found.prompts:
        tree.pop("validation", None)
        head.append(
            f"Its {len(found.prompts)} prompts are left out: give --output CONFIG to have them in a file next to it."
        )
    return config_text(tree, found.comments, head)


def _write(output: Path, text: str, prompts: Path, found: "Migration") -> None:
    from finetrainers.config import parse_config
    from finetrainers.config.syntax import parse_yaml, to_plain
    from finetrainers.files.whole import write_whole

    try:
        parse_config(to_plain(parse_yaml(text)), origin=f"what {output} would be")
    except ValueError as error:
        raise ConfigError(f"--output: what {output} would be cannot be parsed: {error}; nothing is written") from None
    if found.prompts:
        write_whole(prompts, json.dumps(list(found.prompts), indent=1, ensure_ascii=False) + "\n")
    write_whole(output, text)
    print(output)
    start = "train" if found.processes == 1 else f"launch --gpus {found.processes}"
    print(f"Read it, then: finetrainers {start} {shlex.quote(str(output))}", file=sys.stderr)
