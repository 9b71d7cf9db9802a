"""``memory.preset: auto``: the fastest set of techniques with which a step fits into the memory that there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from finetrainers.config import Config, load_config
from finetrainers.distributed.layout import Layout
from finetrainers.distributed.world import pick_device
from finetrainers.errors import ConfigError
from finetrainers.models import Model, open_model
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.checks.parts import check_buckets, check_conditioning, check_tuning
from finetrainers.training.fit.sets import (
    BLOCKS,
    KEYS,
    Techniques,
    faster_sets,
    left_open,
    with_open_blocks,
    with_techniques,
)
from finetrainers.training.fit.trials import Trial, in_blocks, trial_lines, try_sets

USABLE = 0.9
"""Share of the budget that a step may be counted to take. The rest is for what is not counted: the CUDA context (0.5 GB),
workspaces of libraries and kernels, and gaps between the pieces of memory that torch's allocator holds."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A run whose techniques are settled."""

    config: Config
    trials: tuple[Trial, ...] = ()
    """What was tried, the chosen one last; nothing where nothing was to be chosen."""

    def lines(self) -> list[str]:
        """Table of what was tried."""
        return trial_lines(self.trials) if self.trials else []


def fit(config: Config, *, is_new: bool = False, layout: Layout | None = None) -> Fitted:
    """Settle the techniques of a run with ``memory.preset: auto``; those of a run that goes on stay what they were.

    Likewise the number of blocks that stay on the device, with ``memory.resident_blocks: auto``.

    Args:
        config: Of the run.
        is_new: Whether it goes on with nothing, whatever there is in ``output_dir``.
        layout: How its processes share the work; one has all of it if None.

    Raises:
        ConfigError: If nothing fits, or if nobody says how much there is.
    """
    if "auto" not in (config.memory.preset, config.memory.resident_blocks):
        return Fitted(config)
    limit, before = USABLE * budget_bytes(config), None if is_new else _recorded(config)
    if config.memory.resident_blocks == "auto":
        return _fit_blocks(config, limit, before)
    model, trials = _open(config), []
    sets = faster_sets(config) if before is None else (before,)
    for trial in try_sets(config, model, sets, layout=layout):
        trials.append(trial)
        if trial.config is not None and trial.peak_bytes is not None and trial.peak_bytes <= limit:
            return Fitted(trial.config, tuple(trials))
    raise ConfigError(_refusal(config, trials, is_recorded=before is not None))


def _open(config: Config) -> Model:
    """Open the model of a run, and refuse what no techniques make possible."""
    model = open_model(config.model)
    for check in (check_buckets, check_conditioning, check_tuning):
        check(config, model)
    return model


def _fit_blocks(config: Config, limit: float, before: Techniques | None) -> Fitted:
    """Let as many blocks stay on the device as fit: all, or the largest number, halving the range of those in question.

    Raises:
        ConfigError: If not even a step fits whose blocks are all streamed.
    """
    model = _open(config)
    trials: list[Trial] = []

    def fits(resident: int | str) -> bool:
        (trial,) = try_sets(with_open_blocks(config), model, [{BLOCKS: resident}])
        trials.append(trial)
        return trial.peak_bytes is not None and trial.peak_bytes <= limit

    if before is not None:
        if fits(before[BLOCKS]):
            return Fitted(_config_of(trials[-1]), tuple(trials))
        raise ConfigError(_refusal(config, trials, is_recorded=True))
    if fits("all"):
        return Fitted(_config_of(trials[-1]), tuple(trials))
    low, high = -1, in_blocks(Fraction(1), model) - 1  # so many as low do fit, more than high do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if low < 0:
        raise ConfigError(_refusal(config, trials, is_recorded=False))
    chosen = next(trial for trial in trials if trial.techniques == {BLOCKS: low})
    trials = [*(trial for trial in trials if trial is not chosen), chosen]
    return Fitted(_config_of(chosen), tuple(trials))


def _config_of(trial: Trial) -> Config:
    assert trial.config is not None
    return trial.config


def as_recorded(config: Config) -> Config:
    """Settle the techniques of a run that goes on, where nothing is trained; those of one that does not are left open."""
    is_open = "auto" in (config.memory.preset, config.memory.resident_blocks)
    before = _recorded(config) if is_open else None
    if before is None:
        return config
    if config.memory.resident_blocks == "auto":
        return with_techniques(with_open_blocks(config), {BLOCKS: before[BLOCKS]})
    return with_techniques(config, left_open(config, before))


def budget_bytes(config: Config) -> int:
    """Memory that a run may count on.

    Raises:
        ConfigError: If nobody says.
    """
    if config.memory.budget is not None:
        return config.memory.budget
    device = pick_device(config.train.device)
    if device.type != "cuda":
        raise ConfigError(f"memory.budget: auto does not know how much memory {device} may give; set a budget, such as 24GB")
    return int(torch.cuda.get_device_properties(device).total_memory)


def _recorded(config: Config) -> Techniques | None:
    """What a run that goes on was begun with; None where there is nothing to go on with."""
    file = config.output_dir / "config.yaml"
    if not Checkpoints(config.output_dir / "checkpoints", keep=config.checkpoint.keep).steps() or not file.exists():
        return None
    tree = load_config(file).model_dump(mode="json", by_alias=True)
    found = {key: tree[key.partition(".")[0]].get(key.partition(".")[2]) for key in KEYS}
    return {key: value for key, value in found.items() if value is not None}


def _refusal(config: Config, trials: Sequence[Trial], *, is_recorded: bool) -> str:
    """Say that nothing fits, and what would be the smallest."""
    possible = [(trial.peak_bytes, trial.title) for trial in trials if trial.peak_bytes is not None]
    limit, budget = USABLE * budget_bytes(config), budget_bytes(config)
    counted = f"a step may use {limit / 1e9:.3g} GB of {budget / 1e9:.3g} GB"
    if not possible:
        return f"memory.preset: no set of techniques is possible for auto: {trials[-1].title}: {trials[-1].reason}"
    least, title = min(possible)
    needs = f"{least / 1e9:.3g} GB ({title})"
    if is_recorded:
        return (
            f"memory.budget: {counted}, and the run in {config.output_dir} continues with what was chosen when it began: "
            f"that needs {needs}; raise the budget, or set preset: none and these keys yourself"
        )
    return f"memory.budget: {counted}, and the smallest that preset: auto finds needs {needs}{way_out(config, least)}"


def way_out(config: Config, least: int) -> str:
    """Say which GPU has room for the least that was found, and what makes a step smaller."""
    size = config.train.micro_batch_size
    smaller = "" if size == 1 else f" a train.micro_batch_size below {size},"
    return (
        f", which a GPU of {least / USABLE / 1e9:.3g} GB has; allow so much memory, or set{smaller} smaller data.0.buckets, "
        "a lower tuning.rank or a smaller model"
    )
