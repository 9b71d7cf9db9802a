"""``auto``: what a configuration leaves to its model, settled before anything reads it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetrainers.config import Config, DataConfig, LoraConfig, PixelBudget, load_config
from finetrainers.config.base import AUTO
from finetrainers.errors import ConfigError
from finetrainers.models import Model, open_model
from finetrainers.training.checkpoint.checkpoints import Checkpoints
from finetrainers.training.native_sizes import native_sizes
from finetrainers.training.paths import absolute, with_all_sets

ADAMS = ("adamw", "adam", "adamw_8bit", "adamw_4bit", "adamw_fp8", "adamw_schedule_free")
"""Optimizers for which published learning rates hold."""

FIRST_BUCKETS = "data.0.buckets"

Values = Mapping[str, Any]  # by keys of the configuration, as a file has them


@dataclass(frozen=True, slots=True)
class Settled:
    """A configuration in which numbers stand for what it left to the model."""

    config: Config
    values: Values = field(default_factory=dict)
    """What each key that was left open has become."""
    notes: tuple[str, ...] = ()
    """What a user should know of them, as sentences."""
    asked: Values = field(default_factory=dict)
    """What the configuration has in their places: ``auto``, or the resolution of buckets."""

    def lines(self) -> list[str]:
        """Say each value in a line."""
        return [f"{key}: {self.asked[key]}, which is {_written(value)}" for key, value in self.values.items()]


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
    asked = {key: _value(whole, key) for key in own}
    begun = {key: value for key in own if _is_of(value := _value(before, key), asked[key])}
    if "tuning.alpha" in own and "tuning.rank" not in own and _value(before, "tuning.rank") != _value(whole, "tuning.rank"):
        begun.pop("tuning.alpha", None)  # that of another rank
    if FIRST_BUCKETS in begun:
        own |= {key: begun[FIRST_BUCKETS] for key in own if key.startswith("validation.") and asked[key] == AUTO}
    notes = [
        f"{key}: {asked[key]} continues with {_written(value)}, with which the run began; a new run would take "
        f"{_written(own[key])}"
        for key, value in begun.items()
        if value != own[key]
    ]
    values = own | begun
    plain = {key: _plain(value) for key, value in values.items()}
    return Settled(_with(whole, values), plain, (*notes, *_about_aspects(asked, model)), asked)


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
    """Sizes of each data set that names none, or a resolution; what is held out takes those that are trained at."""
    found: dict[str, Any] = {}
    for name, data in _sets(config):
        key = f"{name}.buckets"
        if data.buckets == AUTO and name.startswith("validation."):
            found[key] = found.get(FIRST_BUCKETS, config.data[0].buckets)
        elif isinstance(data.buckets, int | str):
            found[key] = native_sizes(model, key, None if data.buckets == AUTO else data.buckets)
    return found


def _is_of(begun: Any, asked: Any) -> bool:  # of any key
    """Whether what a run has begun with can be what it made of what is asked for: ``auto``, or a resolution."""
    if isinstance(asked, int):
        return isinstance(begun, PixelBudget) and begun.pixels == asked**2
    return begun not in (None, AUTO)


def _about_aspects(asked: Values, model: Model) -> list[str]:
    """Say where a resolution asks for sizes of a model that was made for one."""
    recipe = model.adapter.recipe
    if recipe.has_other_aspects or recipe.size is None:
        return []
    _, height, width = recipe.size
    return [
        f"{key}: {value} gives other sizes than {height} x {width} (height x width), the only one that {model.adapter.name} "
        "was made for: what it generates may be worse. Remove the key to take that"
        for key, value in asked.items()
        if key.endswith(".buckets") and value != AUTO
    ]


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
