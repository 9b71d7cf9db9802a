"""Finds the fastest set of techniques with which a run fits on a GPU, and what each set takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from finetrainers.config import Config
from finetrainers.errors import ConfigError
from finetrainers.models import Model
from finetrainers.training.cost import StepCost
from finetrainers.training.fit import CHECKPOINTING, INT8, SETS, Techniques, Trial, try_sets
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


AFTER = 1
"""Sets that are counted after the one that is taken, to show what they would save."""


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


def search(config: Config, model: Model, limit: float) -> Found:
    """Count one set after the other, the fastest first, up to the first whose step fits; those that cannot fit are left out.

    Raises:
        ConfigError: If nothing fits.
    """
    further = FULL_RANK if config.tuning.kind == "full" else FURTHER
    trials: list[Trial] = []
    left_out: list[tuple[Techniques, int]] = []
    chosen: Trial | None = None
    (base,) = try_sets(config, model, [CHECKPOINTING])
    for wanted in (*SETS, *further):
        least = 0 if base.cost is None else _least(wanted, base.cost, config)
        if least > limit:
            left_out.append((wanted, least))
            continue
        trial = base if wanted == CHECKPOINTING else next(try_sets(config, model, [wanted], known=[*trials, base]), None)
        if trial is None or trial in trials:
            continue
        trials.append(trial)
        if chosen is None and trial.peak_bytes is not None and trial.peak_bytes <= limit:
            chosen = trial
        if chosen is not None and len(trials) > trials.index(chosen) + AFTER:
            break
    if chosen is None:
        raise ConfigError(_refusal(trials, left_out, limit))
    return Found(chosen, tuple(trials), tuple(left_out))


def _least(wanted: Techniques, base: StepCost, config: Config) -> int:
    """Bytes that are there at any time of a step: what trains with its state, and the frozen weights that stay."""
    peak, own = base.usage.peak, {**wanted}
    weights: float = peak["weights"]
    stored = config.memory.weights if "weights" in config.memory.model_fields_set else own.get("memory.weights", "none")
    weights *= STORED.get(str(stored), 0.25)
    resident = own.get("memory.resident_blocks", 1)
    if config.tuning.kind == "full" and resident != 1:
        return 0
    weights *= float(resident) if isinstance(resident, int | Fraction) else 1.0
    states: float = peak["masters"] + peak["states"]
    if own.get("optimizer.masters") == "stochastic_rounding":
        states -= peak["masters"]
    if own.get("optimizer.name") == "adamw_8bit":
        states -= 0.8 * peak["states"]
    return 0 if own.get("optimizer.state") == "cpu" else int(0.98 * (weights + peak["trained"] + states))


def _refusal(trials: Sequence[Trial], left_out: Sequence[tuple[Any, int]], limit: float) -> str:
    possible = [(trial.peak_bytes, trial.title) for trial in trials if trial.peak_bytes is not None]
    if not possible and not left_out:
        return f"--gpu: no set of techniques is possible: {trials[-1].title}: {trials[-1].reason}"
    least = min([own for own, _ in possible] or [num_bytes for _, num_bytes in left_out])
    title = min(possible)[1] if possible else "no set that was counted"
    return (
        f"--gpu: a step may take {limit / 1e9:.1f} GB, and the smallest that was found takes {least / 1e9:.1f} GB "
        f"({title}); name a larger GPU, or set smaller data.0.buckets, a lower tuning.rank or a smaller model"
    )
