"""Text of ``train --help``: every key with its sentence, default and bounds, from the sections themselves."""

import textwrap

from finetrainers.config import Config, Section
from finetrainers.config.reference import Key, keys

WIDTH = 110

USAGE = """usage: finetrainers {command} CONFIG [section.key=value | --section.key value ...]
"""
WORDS = (
    "CONFIG is a YAML, TOML or JSON file. Overrides may come before or after it: their values are text for keys of type str "
    "and Path, and YAML for all others. data.0.path=... addresses an item of a list; --section.key without a value means "
    "true. These are all keys:"
)
SENTENCES = {
    "train": "Train, or resume the run in output_dir.",
    "encode": "Encode images, videos and captions into the cache, for training to read.",
    "data prepare": "Make a data set from raw media, or resume making one.",
}


def config_help(command: str, root: type[Section] = Config) -> str:
    """Describe a command that takes a configuration, with all keys."""
    lines = [USAGE.format(command=command), *textwrap.wrap(f"{SENTENCES[command]} {WORDS}", WIDTH), ""]
    for key in keys(root):
        lines.append(f"  {key.name}  ({_facts(key)})")
        lines += textwrap.wrap(key.sentence, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _facts(key: Key) -> str:
    default = f"default {key.default or repr('')}" if key.default is not None else "required"
    return "; ".join(part for part in (key.type, key.bounds, default) if part)
