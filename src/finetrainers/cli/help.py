"""Text of ``train --help``: every key with its sentence, default and bounds, from the sections themselves."""

import textwrap

from finetrainers.config import Config, Section
from finetrainers.config.reference import Key, keys

WIDTH = 110

USAGE = """usage: finetrainers {command} CONFIG [section.key=value | --section.key value ...]

{sentence} CONFIG is a YAML, TOML or JSON file; overrides stand before or after it. Their values
are text for keys of type str and Path, else YAML; data.0.path=... addresses an item of a list. --section.key
alone is true. These are all keys:
"""
SENTENCES = {
    "train": "Train, or continue the run in output_dir.",
    "encode": "Fill the cache with what training will read.",
    "data prepare": "Prepare a training set from raw media, or continue a preparation.",
}


def config_help(command: str, root: type[Section] = Config) -> str:
    """Describe a command that takes a configuration, with all keys."""
    lines = [USAGE.format(command=command, sentence=SENTENCES[command])]
    for key in keys(root):
        lines.append(f"  {key.name}  ({_facts(key)})")
        lines += textwrap.wrap(key.sentence, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _facts(key: Key) -> str:
    default = f"default {key.default or repr('')}" if key.default is not None else "required"
    return "; ".join(part for part in (key.type, key.bounds, default) if part)
