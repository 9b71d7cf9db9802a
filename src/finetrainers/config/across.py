"""What sections of a configuration ask of each other: each rule refuses what could not work, or would have no effect."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from finetrainers.config.base import RefusedKeyError
from finetrainers.config.conditioning import ChannelConcatConfig, check_together
from finetrainers.config.tuning import FullConfig

if TYPE_CHECKING:
    from finetrainers.config.run import Config

DEVICE_ONLY = ("adamw_8bit", "adamw_4bit", "adamw_fp8")
"""Optimizers whose kernels are the device's alone."""


def conditions_go_together(config: "Config") -> None:
    """At most one condition of each kind, and none that another replaces."""
    check_together(config.conditioning)


def controls_are_read(config: "Config") -> None:
    """Files of a control are for a control that is read from files."""
    key = config.condition_key("channel_concat")
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for index, data in enumerate(sets):
            for column in ("control_column", "control_path"):
                if getattr(data, column) is not None and not (config.control and config.control.has_files):
                    raise RefusedKeyError(
                        f"{name}.{index}.{column}",
                        f"{getattr(data, column)} has no effect: set {key}.kind: channel_concat and "
                        f"{key}.signal: files, or remove it",
                    )


def what_is_held_out_is_known(config: "Config") -> None:
    """What is measured again and again has to be the same from the first step on."""
    for index, data in enumerate(config.validation.data):
        if data.stream:
            raise RefusedKeyError(
                f"validation.data.{index}.stream", "true is only for data sets that are trained on; remove it"
            )
    streamed = [f"data.{index}.stream: true" for index, data in enumerate(config.data) if data.stream]
    if config.validation.items and streamed:
        raise RefusedKeyError(
            "validation.items",
            f"{config.validation.items} cannot be chosen from data that {streamed[0]} lists during training; remove it",
        )
    if config.validation.held_out and streamed:
        raise RefusedKeyError(
            "validation.held_out",
            f"{config.validation.held_out:g} cannot be held out of data that {streamed[0]} lists during training; "
            "name held-out data in validation.data, or remove it",
        )


def the_cache_is_no_data(config: "Config") -> None:
    """Files of a cache in the very folder of a data set would be taken for data of another layout."""
    cache = _folder(config.cache.path)
    for name, sets in (("data", config.data), ("validation.data", config.validation.data)):
        for index, data in enumerate(sets):
            if _folder(data.path) == cache:
                raise RefusedKeyError(
                    "cache.path", f"{cache} is the folder of {name}.{index}; give the cache a folder of its own"
                )


def _folder(path: str | Path) -> Path:
    """Make a path absolute; one in the home folder of nobody is left, and refused where it is looked for."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        return Path(path)


def the_best_is_known(config: "Config") -> None:
    """Only a held-out loss that is measured tells which step is the best."""
    lacking = "validation.held_out or validation.data" if not config.validation.has_held_out else "validation.every"
    if config.checkpoint.keep_best and not (config.validation.has_held_out and config.validation.every is not None):
        raise RefusedKeyError(
            "checkpoint.keep_best",
            f"true has no effect without {lacking}: the best step is the one with the lowest held-out loss; set it, or "
            "remove keep_best",
        )


def weights_are_of_all_sets(config: "Config") -> None:
    """Weights say how often each set is drawn from, beside the others."""
    weighted = [index for index, data in enumerate(config.data) if data.weight is not None]
    if weighted and len(config.data) == 1:
        raise RefusedKeyError("data.0.weight", f"{config.data[0].weight:g} has no effect on one data set; remove it")
    for index, data in enumerate(config.data):
        if weighted and data.weight is None:
            raise RefusedKeyError(
                f"data.{index}.weight",
                f"is not given, and data.{weighted[0]} has one: give all data sets a weight, or none",
            )


def norms_are_not_trained_already(config: "Config") -> None:
    """What trains all weights trains the norms."""
    match config.control, config.tuning:
        case ChannelConcatConfig(train_norms=True), FullConfig(modules=None):
            raise RefusedKeyError(
                f"{config.condition_key('channel_concat')}.train_norms",
                "true has no effect with tuning.kind: full, which trains all weights; remove it",
            )


def exports_are_adapters(config: "Config") -> None:
    """Other formats are those of adapters alone."""
    whole = "tuning.kind: full" if config.tuning.kind == "full" else "a control" if config.control else None
    if config.checkpoint.export and whole is not None:
        reason = f"{list(config.checkpoint.export)} is only for adapters, and {whole} trains whole layers; remove it"
        raise RefusedKeyError("checkpoint.export", reason)


def compressed_weights_are_frozen(config: "Config") -> None:
    """Compressed weights cannot be trained."""
    if config.memory.weights != "none" and config.tuning.kind == "full":
        raise RefusedKeyError(
            "memory.weights",
            f"{config.memory.weights} is for frozen weights, and tuning.kind: full trains them; set tuning.kind: lora or "
            "lokr, or remove it",
        )


def memory_fits_the_rest(config: "Config") -> None:
    """What saves memory is possible with checkpointing, compilation and optimizer."""
    is_checkpointing = config.train.gradient_checkpointing
    for key, reason in config.memory.impossible(is_checkpointing=is_checkpointing, compiled=config.compile.kind):
        raise RefusedKeyError(f"memory.{key}", f"{getattr(config.memory, key)} {reason}")
    if config.memory.resident_blocks != "all" and config.tuning.kind == "full" and config.optimizer.name in DEVICE_ONLY:
        raise RefusedKeyError(
            "memory.resident_blocks",
            f"{config.memory.resident_blocks} keeps in host memory what tuning.kind: full trains, and optimizer.name: "
            f"{config.optimizer.name} cannot run there; set another optimizer, or all",
        )


def encoders_are_asked_together(config: "Config") -> None:
    """Shared encoders need all processes at each caption."""
    if config.cache.encode == "on_the_fly" and config.memory.shard_text_encoders:
        raise RefusedKeyError(
            "memory.shard_text_encoders",
            "true makes all processes encode each caption together for a shared cache, but with cache.encode: "
            "on_the_fly each has its own; set cache.encode: ahead, or remove it",
        )


def optimizer_can_step_so(config: "Config") -> None:
    """When and in which precision weights are stepped."""
    train, optimizer = config.train, config.optimizer
    if optimizer.in_backward and not math.isinf(train.clip_norm):
        raise RefusedKeyError(
            "optimizer.in_backward",
            "true updates weights before the norm of the whole gradient is known, but train.clip_norm: "
            f"{train.clip_norm} clips it; set train.clip_norm: .inf, or remove in_backward",
        )
    if optimizer.in_backward and train.batch_size != train.micro_batch_size:
        raise RefusedKeyError(
            "optimizer.in_backward",
            f"true updates weights in each backward pass, but train.batch_size: {train.batch_size} takes "
            f"{train.batch_size // train.micro_batch_size} of them; set train.micro_batch_size: {train.batch_size}, "
            "or remove in_backward",
        )
    if optimizer.masters == "stochastic_rounding" and config.model.dtype != "bfloat16":
        raise RefusedKeyError(
            "optimizer.masters",
            f"{optimizer.masters} is for bfloat16 weights, but model.dtype is {config.model.dtype}; remove it",
        )


def epochs_can_be_counted(config: "Config") -> None:
    """Epochs are counted of what is listed, and drawn from evenly."""
    for index, data in enumerate(config.data if config.train.epochs is not None else ()):
        for key, value in (("stream", data.stream), ("weight", data.weight)):
            if value:
                raise RefusedKeyError(
                    "train.epochs",
                    f"{config.train.epochs} cannot be counted with data.{index}.{key}: {str(value).lower()}; "
                    "give train.steps",
                )


def warmup_ends(config: "Config") -> None:
    """The learning rate reaches its peak before the run ends."""
    if config.train.epochs is None and config.train.steps and config.schedule.warmup_steps >= config.train.steps:
        raise ValueError(
            f"schedule.warmup_steps: {config.schedule.warmup_steps} must be less than train.steps ({config.train.steps}); "
            "otherwise the peak learning rate is never reached"
        )


RULES = (
    conditions_go_together,
    controls_are_read,
    what_is_held_out_is_known,
    the_cache_is_no_data,
    the_best_is_known,
    weights_are_of_all_sets,
    norms_are_not_trained_already,
    exports_are_adapters,
    compressed_weights_are_frozen,
    memory_fits_the_rest,
    encoders_are_asked_together,
    optimizer_can_step_so,
    epochs_can_be_counted,
    warmup_ends,
)
"""In the order in which they are tried: the first that refuses ends it."""
