"""Finds the fastest set of techniques with which a run fits on a GPU, and what each set takes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from finetrainers.config import Config
from finetrainers.distributed.layout import Layout
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.training.fit.choice import way_out
from finetrainers.training.fit.sets import CHECKPOINTED, CHECKPOINTING, INT8, Techniques, faster_sets, left_open
from finetrainers.training.fit.trials import Trial, try_sets
from finetrainers.training.plan.figures import Technique
from finetrainers.training.plan.speed import Machine

STREAMED: Techniques = {**INT8, "memory.activations": "host", "memory.resident_blocks": 0}
EIGHT_BIT: Techniques = {**STREAMED, "optimizer.name": "adamw_8bit"}
FURTHER: Sequence[Techniques] = (
    {**CHECKPOINTING, "memory.activations": "host", "optimizer.name": "adamw_8bit"},
    {**INT8, "memory.activations": "host", "optimizer.name": "adamw_8bit"},
    EIGHT_BIT,
    {**EIGHT_BIT, "optimizer.masters": "stochastic_rounding"},
)
"""What is tried where no set of ``memory.preset: auto`` fits: these change a little how a run learns, which a plan may
propose and a run does not choose by itself."""
STORED: Mapping[str, float] = {"none": 1.0, "int8": 0.5}
"""Least part of the frozen weights that a format leaves."""
FULL_RANK: Sequence[Techniques] = (
    {**CHECKPOINTING, "optimizer.masters": "stochastic_rounding"},
    {**CHECKPOINTING, "optimizer.name": "adamw_8bit", "optimizer.masters": "stochastic_rounding"},
    {
        **CHECKPOINTING,
        "optimizer.name": "adamw_8bit",
        "optimizer.masters": "stochastic_rounding",
        "optimizer.in_backward": True,
        "train.clip_norm": float("inf"),
    },
    {**CHECKPOINTING, "optimizer.state": "cpu", "memory.activations": "host", "memory.resident_blocks": 0},
)
"""The same for full rank, where the frozen weights are none."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found."""

    chosen: Trial
    trials: tuple[Trial, ...]
    """In the order in which they were tried; some come after the chosen one."""
    left_out: tuple[tuple[Techniques, int], ...]
    """Sets that cannot fit, and the least that they take, in bytes."""

    def techniques(self, machine: Machine) -> tuple[Technique, ...]:
        """Say what all sets take."""
        least = [
            Technique(keys=_plain(keys), allocated=None, seconds=None, reason=f"at least {num_bytes / 1e9:.1f} GB")
            for keys, num_bytes in self.left_out
        ]
        return (*least, *(self._technique(trial, machine) for trial in self.trials))

    def _technique(self, trial: Trial, machine: Machine) -> Technique:
        cost = trial.cost
        seconds = machine.seconds(cost.work) if cost is not None and machine.is_known else None
        return Technique(
            keys=_plain(trial.techniques),
            allocated=trial.peak_bytes,
            seconds=seconds,
            reason=trial.reason,
            is_chosen=trial is self.chosen,
        )


def _plain(keys: Techniques) -> dict[str, bool | int | str]:
    return {key: value if isinstance(value, bool | int | str) else str(value) for key, value in keys.items()}


def search(config: Config, model: Model, limit: float, *, key: str = "--gpu", layout: Layout | None = None) -> Found:
    """Count one set after the other, the fastest first, up to the first whose step fits; those that cannot fit are left out.

    Args:
        config: Of the run.
        model: None of whose weights are asked for.
        limit: Bytes that a step may take.
        key: What the limit comes from.
        layout: How processes share the work; one has all of it if None.

    Raises:
        ConfigError: If nothing fits.
    """
    further = FULL_RANK if config.tuning.kind == "full" else FURTHER
    sets, count = faster_sets(config), partial(try_sets, config, model, layout=layout)
    (base,) = count([CHECKPOINTING])
    counted, trials, left_out = [base], list[Trial](), list[tuple[Techniques, int]]()
    floor = inputs = 0
    if base.peak_bytes is not None and base.peak_bytes > limit:
        counted += count([STREAMED], known=counted)  # takes least: if it is too much, so are all others
        floor, inputs = counted[-1].peak_bytes or 0, inputs_of(counted[-1], config)
    for number, wanted in enumerate((*sets, *further)):
        keys = left_open(config, wanted)
        least = least_of(keys, base, config, inputs)
        least = max(least, floor) if number < len(sets) and floor > limit else least
        if least > limit and keys != base.techniques:
            left_out += [] if (keys, least) in left_out else [(keys, least)]
            continue
        trial = _counted(count, keys, counted)
        if trial is None or trial in trials:
            continue
        trials.append(trial)
        fitting = [own for own in trials if own.peak_bytes is not None and own.peak_bytes <= limit]
        if fitting and (len(trials) > 1 or left_out):  # of one alone nobody sees what others would save
            return Found(fitting[0], tuple(trials), tuple(left_out))
    _counted(count, left_open(config, further[-1]), counted)  # takes least of all, whether it may fit or not
    raise ConfigError(f"{key}: {_refusal(config, counted, left_out, limit)}")


def _counted(count: Callable[..., Iterator[Trial]], keys: Techniques, counted: list[Trial]) -> Trial | None:
    """Count a set, unless it was counted before; None if it comes to the same as another."""
    before = [own for own in counted if own.techniques == keys]
    if before:
        return before[0]
    for trial in count([keys], known=counted):
        counted.append(trial)
        return trial
    return None


def inputs_of(streamed: Trial, config: Config) -> int:
    """Bytes of the inputs of blocks that a set sends to the host, of one micro-batch; these stay where they are not sent."""
    if streamed.cost is None or streamed.techniques.get("memory.activations") != "host" or config.tuning.kind == "full":
        return 0
    train = config.train
    return streamed.cost.work.to_host_bytes // min(2, train.batch_size // train.micro_batch_size)


def least_of(keys: Techniques, base: Trial, config: Config, inputs: int = 0) -> int:
    """Bytes that are there when a backward pass begins: what trains with its state, the frozen weights and inputs that stay.

    What keeps more of the forward pass than ``base``, and is like it otherwise, takes as much at least.

    Args:
        keys: The set.
        base: Checkpointing alone.
        config: Of the run.
        inputs: Bytes of the inputs of blocks, for sets that do not send them to the host.
    """
    if base.cost is None:
        return 0
    if not keys.keys() - {CHECKPOINTED, "memory.checkpoint_every"}:
        return base.cost.peak_bytes
    peak = base.cost.usage.peak
    resident = keys.get("memory.resident_blocks", 1)
    if config.tuning.kind == "full" and resident != 1:
        return 0
    weights = peak["weights"] * STORED.get(str(keys.get("memory.weights", "none")), 0.25)
    weights *= float(resident) if isinstance(resident, int | Fraction) else 1.0
    states: float = peak["masters"] + peak["states"]
    if keys.get("optimizer.masters") == "stochastic_rounding":
        states -= peak["masters"]
    if keys.get("optimizer.name") == "adamw_8bit":
        states -= 0.8 * peak["states"]
    if keys.get("memory.activations") == "host" or config.memory.activations == "host":
        inputs = 0
    return 0 if keys.get("optimizer.state") == "cpu" else int(0.98 * (weights + peak["trained"] + states + inputs))


def _refusal(config: Config, trials: Sequence[Trial], left_out: Sequence[tuple[Any, int]], limit: float) -> str:
    possible = [(trial.peak_bytes, trial.title) for trial in trials if trial.peak_bytes is not None]
    if not possible and not left_out:
        return f"no set of techniques is possible: {trials[-1].title}: {trials[-1].reason}"
    least = min([own for own, _ in possible] or [num_bytes for _, num_bytes in left_out])
    title = min(possible)[1] if possible else "no set that was counted"
    return (
        f"a step may use {limit / 1e9:.3g} GB, and the smallest that was found needs {least / 1e9:.3g} GB "
        f"({title}){way_out(config, least)}"
    )
