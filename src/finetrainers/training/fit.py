"""``memory.preset: auto``: the fastest set of techniques with which a step fits into the memory that there is."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from finetrainers.config import Config, MemoryConfig, load_config, parse_config
from finetrainers.data.catalog.buckets import resolve_buckets
from finetrainers.distributed.layout import Layout
from finetrainers.distributed.world import pick_device
from finetrainers.errors import ConfigError, FinetrainersError
from finetrainers.models import Model, open_model
from finetrainers.models.blocks import named_blocks
from finetrainers.training.checkpoint import Checkpoints
from finetrainers.training.checks import check_buckets, check_computation, check_conditioning, check_tuning
from finetrainers.training.cost import StepCost, predict_step
from finetrainers.training.plan.devices import on_one_of, with_shared_weights
from finetrainers.training.sharing import check_sharing

USABLE = 0.9
"""Share of the budget that a step may be counted to take. The rest is for what is not counted: the CUDA context (0.5 GB),
workspaces of libraries and kernels, and gaps between the pieces of memory that torch's allocator holds."""

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


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one set."""

    techniques: Techniques
    """Of the set, those that the user has not settled."""
    config: Config | None
    """The run with them."""
    peak_bytes: int | None
    reason: str = ""
    """Why the set is impossible, where it is."""
    cost: StepCost | None = None
    """All that was counted, where it is possible."""

    @property
    def title(self) -> str:
        """Say the techniques in one line."""
        return ", ".join(f"{key}: {_written(value)}" for key, value in self.techniques.items()) or "as it is written"


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
    low, high = -1, _in_blocks(Fraction(1), model) - 1  # so many as low do fit, more than high do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if low < 0:
        raise ConfigError(_refusal(config, trials, is_recorded=False))
    chosen = next(trial for trial in trials if trial.techniques == {BLOCKS: low})
    trials = [*(trial for trial in trials if trial is not chosen), chosen]
    return Fitted(_config_of(chosen), tuple(trials))


def with_open_blocks(config: Config) -> Config:
    """Leave open how many blocks stay, and by which budget."""
    memory = {name: getattr(config.memory, name) for name in config.memory.model_fields_set - {"resident_blocks", "budget"}}
    return config.model_copy(update={"memory": MemoryConfig(**memory)})


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
    return with_techniques(config, {key: value for key, value in before.items() if not is_given(config, key)})


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


def faster_sets(config: Config, sets: Sequence[Techniques] = SETS) -> Sequence[Techniques]:
    """Leave out the sets without checkpointing where it is written: with it they are not faster than those that follow."""
    if not (is_given(config, CHECKPOINTED) and config.train.gradient_checkpointing):
        return sets
    return tuple(own for own in sets if own[CHECKPOINTED])


def try_sets(
    config: Config,
    model: Model,
    sets: Sequence[Techniques],
    known: Sequence[Trial] = (),
    *,
    layout: Layout | None = None,
) -> Iterator[Trial]:
    """Count the step of a run's largest bucket with one set after the other; what comes to the same is tried once.

    Of processes that share weights, each is counted with its part of them. Of those that share tokens, each is counted with
    all tokens, which is an upper bound.

    Args:
        config: Of the run.
        model: None of whose weights are asked for.
        sets: Those to try.
        known: What was tried before, and is not tried again.
        layout: How processes share the work; one has all of it if None.
    """
    layout = Layout() if layout is None else layout
    tried = [trial.techniques for trial in known]
    for wanted in sets:
        techniques = {key: _in_blocks(value, model) for key, value in wanted.items() if not is_given(config, key)}
        if techniques in tried:
            continue
        tried.append(techniques)
        try:
            chosen = with_techniques(config, techniques)
            check_sharing(chosen, layout)
            check_computation(chosen, model)
            own = on_one_of(chosen, layout)
            cost = with_shared_weights(predict_largest(own, model), own, model, layout, prefetch=chosen.parallel.prefetch)
        except FinetrainersError as error:
            yield Trial(techniques, None, None, str(error).splitlines()[-1].strip())
        else:
            yield Trial(techniques, chosen, cost.peak_bytes, cost=cost)
        gc.collect()  # a trainer is made of cycles, and its adapters take the host's memory


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


def predict_largest(config: Config, model: Model) -> StepCost:
    """Count the step of the bucket that has most tokens."""
    buckets = [bucket for data in config.data for bucket in resolve_buckets(data.buckets)]
    return predict_step(config, model, max(buckets, key=model.adapter.grid.num_tokens), is_compiled=False)


def trial_lines(trials: Sequence[Trial]) -> list[str]:
    """One line a set: what it takes, or why it is impossible."""
    shown = [
        f"{trial.peak_bytes / 1e9:7.1f} GB  {trial.title}"
        if trial.peak_bytes is not None
        else f"{trial.title}: {trial.reason}"
        for trial in trials
    ]
    return [f"memory: auto counted {len(shown)} sets of techniques, and uses the last:", *shown]


def _recorded(config: Config) -> Techniques | None:
    """What a run that goes on was begun with; None where there is nothing to go on with."""
    file = config.output_dir / "config.yaml"
    if not Checkpoints(config.output_dir / "checkpoints", keep=config.checkpoint.keep).steps() or not file.exists():
        return None
    tree = load_config(file).model_dump(mode="json", by_alias=True)
    found = {key: tree[key.partition(".")[0]].get(key.partition(".")[2]) for key in KEYS}
    return {key: value for key, value in found.items() if value is not None}


def is_given(config: Config, key: str) -> bool:
    """Whether the user has written a key."""
    section, _, name = key.partition(".")
    return name in getattr(config, section).model_fields_set


def _in_blocks(value: Any, model: Model) -> Any:
    """Turn a share of the blocks into a number of them."""
    if not isinstance(value, Fraction):
        return value
    shell = model.pretrained.shell(model.denoisers.trained[0])
    return int(value * len(named_blocks(shell, model.adapter.blocks)))


def _written(value: Any) -> str:
    """Write a value as a file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


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
