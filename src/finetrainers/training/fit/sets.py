"""Sets of techniques that make a step smaller, and how one is written into a run."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from finetrainers.config import Config, MemoryConfig, parse_config

Techniques = Mapping[str, Any]  # values by keys of the configuration, as a file has them
CHECKPOINTING: Techniques = {"train.gradient_checkpointing": True}
CHECKPOINTED = "train.gradient_checkpointing"
INT8: Techniques = {**CHECKPOINTING, "memory.weights": "int8"}
SETS: Sequence[Techniques] = (
    {"train.gradient_checkpointing": False},
    {**CHECKPOINTING, "memory.checkpoint_every": 4},
    {**CHECKPOINTING, "memory.checkpoint_every": 2},
    CHECKPOINTING,
    {**CHECKPOINTING, "memory.activations": "host"},
    INT8,
    {**INT8, "memory.activations": "host"},
    {**CHECKPOINTING, "memory.resident_blocks": Fraction(1, 2)},
    {**CHECKPOINTING, "memory.activations": "host", "memory.resident_blocks": Fraction(1, 2)},
    {**INT8, "memory.activations": "host", "memory.resident_blocks": Fraction(1, 2)},
    {**CHECKPOINTING, "memory.activations": "host", "memory.resident_blocks": 0},
    {**INT8, "memory.activations": "host", "memory.resident_blocks": 0},
)
"""What is tried, the fastest first; a fraction is that of the denoiser's blocks. All but int8 compute what a run without
them computes; int8 rounds the frozen weights, so that losses differ a little. What decides how a run learns is left to the
user: the optimizer, what trains, batches and buckets, and formats that round more."""
BLOCKS = "memory.resident_blocks"
KEYS = tuple(dict.fromkeys(key for own in SETS for key in own))
"""All keys that may be chosen."""


def faster_sets(config: Config, sets: Sequence[Techniques] = SETS) -> Sequence[Techniques]:
    """Leave out the sets without checkpointing where it is written: with it they are not faster than those that follow."""
    if not (is_given(config, CHECKPOINTED) and config.train.gradient_checkpointing):
        return sets
    return tuple(own for own in sets if own[CHECKPOINTED])


def is_given(config: Config, key: str) -> bool:
    """Whether the user has written a key."""
    section, _, name = key.partition(".")
    return name in getattr(config, section).model_fields_set


def left_open(config: Config, techniques: Techniques) -> Techniques:
    """Leave out what the user has written."""
    return {key: value for key, value in techniques.items() if not is_given(config, key)}


def with_techniques(config: Config, techniques: Techniques) -> Config:
    """Write techniques into a configuration, in which nothing is left to be chosen.

    Raises:
        ConfigError: If they cannot be combined with what is there.
    """
    tree = config.model_dump(by_alias=True, exclude_unset=True)  # not as JSON, which has no infinity
    for key, value in techniques.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    tree.setdefault("memory", {})["preset"] = "none"
    tree["memory"].pop("budget", None)
    return parse_config(tree)


def with_open_blocks(config: Config) -> Config:
    """Leave open how many blocks stay, and by which budget."""
    memory = {name: getattr(config.memory, name) for name in config.memory.model_fields_set - {"resident_blocks", "budget"}}
    return config.model_copy(update={"memory": MemoryConfig(**memory)})
