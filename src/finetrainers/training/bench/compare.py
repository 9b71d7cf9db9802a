"""Runs one configuration with several sets of techniques, each in a process of its own. Imports nothing heavy."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from finetrainers.config import load_config
from finetrainers.config.syntax import parse_yaml, to_plain
from finetrainers.errors import ConfigError
from finetrainers.training.bench.figures import Comparison, Result, SetResult

CHECKPOINTING, INT8, COMPILE = "train.gradient_checkpointing=true", "memory.weights=int8", "compile.kind=regional"
HOST, STREAMED = "memory.activations=host", "memory.resident_blocks=0"
BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "checkpointing": (CHECKPOINTING,),
    "every-second-block": (CHECKPOINTING, "memory.checkpoint_every=2"),
    "attention-kept": (CHECKPOINTING, "memory.checkpoint_keep=attention"),
    "inputs-on-host": (CHECKPOINTING, HOST),
    "streamed": (CHECKPOINTING, STREAMED),
    "streamed+inputs-on-host": (CHECKPOINTING, STREAMED, HOST),
    "fp8_e4m3": ("memory.weights=fp8_e4m3",),
    "fp8_scaled": ("memory.weights=fp8_scaled",),
    "int8": (INT8,),
    "nf4": ("memory.weights=nf4",),
    "int8+streamed+inputs-on-host": (CHECKPOINTING, INT8, STREAMED, HOST),
    "compile": (COMPILE,),
    "compile+checkpointing": (COMPILE, CHECKPOINTING),
    "compile+int8": (COMPILE, INT8),
    "compile+streamed": (COMPILE, CHECKPOINTING, STREAMED),
    "adamw_8bit": ("optimizer.name=adamw_8bit",),
    "state-on-host": ("optimizer.state=cpu",),
    "step-in-backward": ("optimizer.in_backward=true", "train.clip_norm=.inf"),
    "stochastic-rounding": ("optimizer.masters=stochastic_rounding",),
    "tf32": ("train.matmul_precision=high",),
}
"""Sets that need no file, by name."""
ALL = "default"
"""Names all of them."""


class TechniqueSet(BaseModel):
    """A name, and what the configuration is changed by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    set: tuple[str, ...] = ()


def read_sets(wanted: str) -> tuple[TechniqueSet, ...]:
    """Find the sets that are asked for: built-in ones by their names, or those of a file.

    Raises:
        ConfigError: If there are no such sets, or if two have one name.
    """
    if wanted == ALL:
        return tuple(TechniqueSet(name=name, set=own) for name, own in BUILT_IN.items())
    names = wanted.split(",")
    if all(name in BUILT_IN for name in names):
        sets = tuple(TechniqueSet(name=name, set=BUILT_IN[name]) for name in names)
    else:
        sets = _read_file(wanted)
    seen = [own.name for own in sets]
    for index, name in enumerate(seen):
        if name in seen[:index]:
            raise ConfigError(f"--compare: {wanted} has two sets named {name!r}; name each otherwise")
    return sets


def _read_file(wanted: str) -> tuple[TechniqueSet, ...]:
    if not Path(wanted).is_file():
        raise ConfigError(
            f"--compare: {wanted!r} is neither a file nor a list of {', '.join(BUILT_IN)}; give such names with commas "
            f"between them, {ALL} for all, or a YAML file of - {{name: NAME, set: [section.key=value]}}"
        )
    try:
        tree: Any = to_plain(parse_yaml(Path(wanted).read_text(encoding="utf-8")), [])
        sets = TypeAdapter(tuple[TechniqueSet, ...]).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{wanted}: {place}: {first['msg']}; write - {{name: NAME, set: [section.key=value]}}") from None
    except ValueError as error:
        raise ConfigError(f"{wanted}: is no YAML: {error}") from None
    if not sets:
        raise ConfigError(f"{wanted}: has no set; write - {{name: NAME, set: [section.key=value]}}")
    return sets


def compare(
    file: str,
    overrides: Sequence[str],
    sets: Sequence[TechniqueSet],
    *,
    options: Sequence[str],
    say: Callable[[str], None],
) -> Comparison:
    """Run ``finetrainers bench`` with each set; one that fails leaves its reason, and the others go on.

    Args:
        file: The configuration.
        overrides: Of it, for all sets.
        sets: What is compared.
        options: Words of the command besides.
        say: Takes messages.
    """
    done = []
    for own in sets:
        say(f"{own.name}: {' '.join(own.set) or 'as configured'}")
        done.append(_run(own, file, overrides, options))
        if (reason := done[-1].reason) is not None:
            say(f"{own.name}: did not run: {reason}")
    return Comparison(sets=tuple(done))


def _run(own: TechniqueSet, file: str, overrides: Sequence[str], options: Sequence[str]) -> SetResult:
    all_overrides = [*overrides, *own.set]
    try:
        load_config(file, all_overrides)  # what can be known without a process
    except ConfigError as error:
        return SetResult(name=own.name, overrides=own.set, reason=str(error))
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "result.json"
        command = [sys.executable, "-m", "finetrainers", "bench", file, *all_overrides, *options, "--json", str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return SetResult(name=own.name, overrides=own.set, reason=_reason(done.returncode, done.stderr))
        result = Result.model_validate_json(answer.read_text(encoding="utf-8"))
    return SetResult(name=own.name, overrides=own.set, result=result)


def _reason(status: int, told: str) -> str:
    """Say why a process has failed, by what it has told."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}; SIGKILL is what a system without memory sends"
    _, mark, message = told.rpartition("finetrainers: ")
    lines = told.strip().splitlines()
    return message.strip() if mark else lines[-1] if lines else f"exit status {status}"
