"""``auto``: what a configuration leaves to its model, settled before anything reads it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetrainers.config import Config, DataConfig, LoraConfig, PixelBudget, load_config
from finetrainers.config.base import AUTO
from finetrainers.errors import ConfigError
from finetrainers.models import Model, open_model
from finetrainers.training.checkpoint import Checkpoints
from finetrainers.training.native_sizes import native_sizes
from finetrainers.training.paths import absolute, with_all_sets

ADAMS = ("adamw", "adam", "adamw_8bit", "adamw_4bit", "adamw_fp8", "adamw_schedule_free")
"""Optimizers for which published learning rates hold."""

Values = Mapping[str, Any]  # by keys of the configuration, as a file has them


@dataclass(frozen=True, slots=True)
class Settled:
    """A configuration in which numbers stand for what it left to the model."""

    config: Config
    values: Values = field(default_factory=dict)
    """What each key that was left open has become."""
    notes: tuple[str, ...] = ()
    """What a user should know of them, as sentences."""

    def lines(self) -> list[str]:
        """Say each value in a line."""
        return [f"{key}: auto, which is {_written(value)}" for key, value in self.values.items()]


def settle(config: Config, *, is_new: bool = False) -> Settled:
    """Settle what a configuration leaves to its model; for that its settings are read, and none of its weights.

    A run that goes on keeps what it began with, whatever the model's figures have become.

    Args:
        config: Of the run.
        is_new: Whether it goes on with nothing, whatever there is in ``output_dir``.

    Raises:
        ConfigError: If something is left open of which nothing is known.
        ModelError: If the model is not there.
    """
    if not is_open(config):
        return Settled(config)
    looked = absolute(config)
    before = None if is_new else _begun(looked)
    _check_rate(config, before)
    return settle_for(config, open_model(looked.model, looked.memory), before=before)


def settle_for(config: Config, model: Model, *, before: Config | None = None) -> Settled:
    """Settle what a configuration leaves to a model that is open; of a run that goes on, as it has begun.

    Raises:
        ConfigError: If something is left open of which nothing is known.
    """
    if not is_open(config):
        return Settled(config)
    _check_rate(config, before)
    whole = with_all_sets(config)
    own = {**_of_rate(whole, model), **_of_adapter(whole, model), **_of_buckets(whole, model)}
    open_keys = [key for key in own if _value(whole, key) == AUTO]  # a resolution is no open key
    begun = {key: value for key in open_keys if (value := _value(before, key)) not in (None, AUTO)}
    if "tuning.alpha" in own and "tuning.rank" not in own and _value(before, "tuning.rank") != _value(whole, "tuning.rank"):
        begun.pop("tuning.alpha", None)  # that of another rank
    notes = tuple(
        f"{key}: auto continues with {_written(value)}, with which the run began; a new run would take {_written(own[key])}"
        for key, value in begun.items()
        if value != own[key]
    )
    values = own | begun
    return Settled(_with(whole, values), {key: _plain(value) for key, value in values.items()}, notes)


def is_open(config: Config) -> bool:
    """Whether a configuration leaves anything to its model that is settled here."""
    tuning = config.tuning
    return (
        config.optimizer.lr == AUTO
        or (isinstance(tuning, LoraConfig) and AUTO in (tuning.rank, tuning.alpha))
        or any(isinstance(data.buckets, int | str) for _, data in _sets(config))
    )


def _sets(config: Config) -> Iterator[tuple[str, DataConfig]]:
    """All data sets by their keys."""
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for index, data in enumerate(sets):
            yield f"{name}.{index}", data


def _begun(config: Config) -> Config | None:
    """What a run that goes on has begun with; None where there is nothing to go on with."""
    file = config.output_dir / "config.yaml"
    if not Checkpoints(config.output_dir / "checkpoints", keep=config.checkpoint.keep).steps() or not file.exists():
        return None
    return load_config(file)


def _check_rate(config: Config, before: Config | None) -> None:
    """Refuse to take a rate that is published for AdamW for an optimizer of another kind.

    Raises:
        ConfigError: With the way out.
    """
    name = config.optimizer.name
    if config.optimizer.lr == AUTO and before is None and name not in ADAMS:
        raise ConfigError(
            f"optimizer.lr: auto is the rate that is published for AdamW, which says nothing of name: {name}; give one"
        )


def _of_rate(config: Config, model: Model) -> Values:
    """Learning rate of what trains, if it is left open."""
    recipe = model.adapter.recipe
    is_full = config.tuning.kind == "full"
    return {"optimizer.lr": recipe.full_lr if is_full else recipe.lr} if config.optimizer.lr == AUTO else {}


def _of_adapter(config: Config, model: Model) -> Values:
    """Rank and alpha of LoRA, as far as they are left open."""
    tuning, recipe = config.tuning, model.adapter.recipe
    if not isinstance(tuning, LoraConfig):
        return {}
    rank = recipe.rank if tuning.rank == AUTO else tuning.rank
    own: Values = {} if tuning.rank != AUTO else {"tuning.rank": rank}
    return own if tuning.alpha != AUTO else {**own, "tuning.alpha": recipe.scale * rank}


def _of_buckets(config: Config, model: Model) -> Values:
    """Sizes of each data set that names none, or a resolution."""
    return {
        f"{name}.buckets": native_sizes(model, f"{name}.buckets", None if data.buckets == AUTO else data.buckets)
        for name, data in _sets(config)
        if isinstance(data.buckets, int | str)
    }


def _value(config: Config | None, key: str) -> Any:  # as its section has it
    """Find a settled value in a configuration; None where it has none."""
    if config is None:
        return None
    node: Any = config
    for part in key.split("."):
        if isinstance(node, tuple):
            node = node[int(part)] if int(part) < len(node) else None
        else:
            node = getattr(node, part, None)
    return node


def _with(config: Config, values: Values) -> Config:
    """Write values into a configuration."""
    update: dict[str, Any] = {}
    for name in ("optimizer", "tuning"):
        own = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
        if own:
            update[name] = getattr(config, name).model_copy(update=own)
    sets = {
        name: data.model_copy(update={"buckets": values[f"{name}.buckets"]}) if f"{name}.buckets" in values else data
        for name, data in _sets(config)
    }
    update["data"] = tuple(data for name, data in sets.items() if name.startswith("data."))
    if config.validation.data:
        held_out = tuple(data for name, data in sets.items() if name.startswith("validation."))
        update["validation"] = config.validation.model_copy(update={"data": held_out})
    return config.model_copy(update=update)


def _plain(value: Any) -> Any:  # of any key
    """Turn a value into what a file has."""
    if isinstance(value, PixelBudget):
        return value.model_dump(mode="json")
    return [list(size) for size in value] if isinstance(value, tuple) else value


def _written(value: Any) -> str:  # of any key
    """Write a value as one would give it in a configuration file."""
    plain = _plain(value)
    if isinstance(plain, dict):
        return f"{{{', '.join(f'{key}: {own}' for key, own in plain.items())}}}"
    return f"{plain:g}" if isinstance(plain, float) else str(plain)
