"""The whole configuration of a run. Defaults live in these sections and nowhere else."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator, model_validator

from finetrainers.config.attention import AttentionConfig
from finetrainers.config.base import RefusedKeyError, Section
from finetrainers.config.checkpoint import CheckpointConfig
from finetrainers.config.compile import CompileConfig
from finetrainers.config.conditioning import (
    ChannelConcatConfig,
    ConditionConfig,
    ConditioningConfig,
    GivenFramesConfig,
    NoConditioning,
    ReferencesConfig,
    check_together,
    conditions_of,
)
from finetrainers.config.data import CacheConfig, DataConfig, LoaderConfig
from finetrainers.config.memory import MemoryConfig
from finetrainers.config.model import ModelConfig
from finetrainers.config.objective import ObjectiveConfig
from finetrainers.config.optim import OptimizerConfig, ScheduleConfig
from finetrainers.config.parallel import ParallelConfig
from finetrainers.config.track import TrackConfig
from finetrainers.config.train import TrainConfig
from finetrainers.config.tuning import FullConfig, LoraConfig, TuningConfig
from finetrainers.config.user_code import check_places, is_place
from finetrainers.config.validation import ValidationConfig

AnySection = TypeVar("AnySection", bound=Section)
DEVICE_ONLY = ("adamw_8bit", "adamw_4bit", "adamw_fp8")
"""Optimizers whose kernels are the device's alone."""
MAX_SEED = 2**63 - 1
"""Largest seed that torch's generators take, as the configuration and prompts name it."""


class Config(Section):
    """One run."""

    output_dir: Path
    """Run directory. A run that is already there is resumed."""
    seed: int = Field(default=42, ge=0, le=MAX_SEED)
    """Seed of the data order, of all random draws and of the initialization."""
    model: ModelConfig
    data: tuple[DataConfig, ...] = Field(min_length=1)
    conditioning: ConditioningConfig = NoConditioning()
    """What the denoiser is conditioned on in addition to the prompt: one condition, or a list with at most one of each
    kind."""
    tuning: TuningConfig = LoraConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    loader: LoaderConfig = LoaderConfig()
    cache: CacheConfig = CacheConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: ValidationConfig = ValidationConfig()
    parallel: ParallelConfig = ParallelConfig()
    attention: AttentionConfig = AttentionConfig()
    memory: MemoryConfig = MemoryConfig()
    compile: CompileConfig = CompileConfig()
    track: TrackConfig = TrackConfig()
    callbacks: tuple[str, ...] = ()
    """Callbacks of yours, each as file.py:Name: a class derived from finetrainers.Callback, called in this order."""
    push_to_hub: bool = False
    """Push weights, model card and samples to the Hub at the end."""
    hub_repo: str | None = None
    """Hub repository to push to, as user/name. By default the name of output_dir, under the user of the token."""
    hub_private: bool = True
    """Create the Hub repository as a private one."""

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> "Config":
        """Check a configuration that is a dict, as ``load_config`` checks a file, and apply overrides as it does.

        Raises:
            ConfigError: With one line per wrong key.
        """
        from finetrainers.config.load import config_of_tree

        return config_of_tree(tree, overrides)

    @property
    def conditions(self) -> dict[str, ConditionConfig]:
        """The conditions, by the keys that they are written under, such as conditioning or conditioning.1."""
        return conditions_of(self.conditioning)

    def condition(self, section: type[AnySection]) -> AnySection | None:
        """Find the condition of a kind, by the class of its section."""
        return next((own for own in self.conditions.values() if isinstance(own, section)), None)

    @property
    def control(self) -> ChannelConcatConfig | None:
        """The control, if there is one."""
        return self.condition(ChannelConcatConfig)

    @property
    def references(self) -> ReferencesConfig | None:
        """The pictures that are shown at a size of their own, if there are any."""
        return self.condition(ReferencesConfig)

    @property
    def given_frames(self) -> GivenFramesConfig:
        """The given frames; where none are written, those that the task and the family give."""
        return self.condition(GivenFramesConfig) or GivenFramesConfig(kind="given_frames")

    def condition_key(self, kind: str) -> str:
        """Name the key that the condition of a kind is written under; that of the section where there is none."""
        return next((key for key, condition in self.conditions.items() if condition.kind == kind), "conditioning")

    @property
    def user_code(self) -> dict[str, str]:
        """Objects in files of the user's, as file.py:name, by the keys that name them."""
        found = {
            "model.adapter": self.model.adapter,
            "objective.kind": self.objective.kind,
            "optimizer.name": self.optimizer.name,
        }
        if self.control is not None:
            found[f"{self.condition_key('channel_concat')}.signal"] = self.control.signal
        for name, sets in (("data", self.data), ("validation.data", self.validation.data)):
            found |= {f"{name}.{index}.layout": data.layout for index, data in enumerate(sets)}
        found |= {f"track.trackers.{number}": place for number, place in enumerate(self.track.trackers)}
        found |= {f"callbacks.{number}": place for number, place in enumerate(self.callbacks)}
        return {key: place for key, place in found.items() if place is not None and is_place(place)}

    @property
    def num_kept_weights(self) -> int | None:
        """For how many steps exported weights are kept; None for all."""
        if self.checkpoint.keep_weights != "auto":
            return self.checkpoint.keep_weights
        return self.checkpoint.keep if self.tuning.kind == "full" else None

    def idle(self) -> Mapping[str, str]:
        if self.push_to_hub:
            return {}
        return dict.fromkeys(("hub_repo", "hub_private"), "without push_to_hub; set push_to_hub: true, or remove it")

    @field_validator("callbacks")
    @classmethod
    def _are_places(cls, callbacks: tuple[str, ...]) -> tuple[str, ...]:
        return check_places(callbacks)

    @model_validator(mode="after")
    def _conditions_go_together(self) -> "Config":
        check_together(self.conditioning)
        return self

    @model_validator(mode="after")
    def _controls_are_read(self) -> "Config":
        key = self.condition_key("channel_concat")
        for name, sets in (("data", self.data), ("validation.data", self.validation.data)):
            for index, data in enumerate(sets):
                for column in ("control_column", "control_path"):
                    if getattr(data, column) is not None and not (self.control and self.control.has_files):
                        raise RefusedKeyError(
                            f"{name}.{index}.{column}",
                            f"{getattr(data, column)} has no effect: set {key}.kind: channel_concat and "
                            f"{key}.signal: files, or remove it",
                        )
        return self

    @model_validator(mode="after")
    def _what_is_held_out_is_known(self) -> "Config":
        """What is measured again and again has to be the same from the first step on."""
        for index, data in enumerate(self.validation.data):
            if data.stream:
                raise RefusedKeyError(f"validation.data.{index}.stream", "true is for sets that are trained on; remove it")
        streamed = [f"data.{index}.stream: true" for index, data in enumerate(self.data) if data.stream]
        if self.validation.items and streamed:
            raise RefusedKeyError(
                "validation.items",
                f"{self.validation.items} cannot be chosen from what {streamed[0]} lists while training goes on; remove it",
            )
        if self.validation.held_out and streamed:
            raise RefusedKeyError(
                "validation.held_out",
                f"{self.validation.held_out:g} cannot be held out of what {streamed[0]} lists while training goes on; "
                "name what is held out in validation.data, or remove it",
            )
        return self

    @model_validator(mode="after")
    def _the_best_is_known(self) -> "Config":
        lacking = "validation.held_out or validation.data" if not self.validation.has_held_out else "validation.every"
        if self.checkpoint.keep_best and not (self.validation.has_held_out and self.validation.every is not None):
            raise RefusedKeyError(
                "checkpoint.keep_best",
                f"true has no effect without {lacking}: the best step is the one of the lowest held-out loss; give it, or "
                "remove keep_best",
            )
        return self

    @model_validator(mode="after")
    def _weights_are_of_all_sets(self) -> "Config":
        weighted = [index for index, data in enumerate(self.data) if data.weight is not None]
        if weighted and len(self.data) == 1:
            raise RefusedKeyError("data.0.weight", f"{self.data[0].weight:g} has no effect on one data set; remove it")
        for index, data in enumerate(self.data):
            if weighted and data.weight is None:
                raise RefusedKeyError(
                    f"data.{index}.weight",
                    f"is not given, and data.{weighted[0]} has one: give all data sets a weight, or none",
                )
        return self

    @model_validator(mode="after")
    def _norms_are_not_trained_already(self) -> "Config":
        match self.control, self.tuning:
            case ChannelConcatConfig(train_norms=True), FullConfig(modules=None):
                raise RefusedKeyError(
                    f"{self.condition_key('channel_concat')}.train_norms",
                    "true has no effect with tuning.kind: full, which trains all weights; remove it",
                )
        return self

    @model_validator(mode="after")
    def _exports_are_adapters(self) -> "Config":
        whole = "tuning.kind: full" if self.tuning.kind == "full" else "a control" if self.control else None
        if self.checkpoint.export and whole is not None:
            reason = f"{list(self.checkpoint.export)} is for adapters alone, and {whole} trains whole layers; remove it"
            raise RefusedKeyError("checkpoint.export", reason)
        return self

    @model_validator(mode="after")
    def _compressed_weights_are_frozen(self) -> "Config":
        if self.memory.weights != "none" and self.tuning.kind == "full":
            raise RefusedKeyError(
                "memory.weights",
                f"{self.memory.weights} is for frozen weights, and tuning.kind: full trains them; set tuning.kind: lora or "
                "lokr, or remove it",
            )
        return self

    @model_validator(mode="after")
    def _memory_fits_the_rest(self) -> "Config":
        is_checkpointing = self.train.gradient_checkpointing
        for key, reason in self.memory.impossible(is_checkpointing=is_checkpointing, compiled=self.compile.kind):
            raise RefusedKeyError(f"memory.{key}", f"{getattr(self.memory, key)} {reason}")
        if self.memory.resident_blocks != "all" and self.tuning.kind == "full" and self.optimizer.name in DEVICE_ONLY:
            raise RefusedKeyError(
                "memory.resident_blocks",
                f"{self.memory.resident_blocks} keeps what tuning.kind: full trains on the host, where optimizer.name: "
                f"{self.optimizer.name} does not compute; set another optimizer, or all",
            )
        return self

    @model_validator(mode="after")
    def _encoders_are_asked_together(self) -> "Config":
        if self.cache.encode == "on_the_fly" and self.memory.shard_text_encoders:
            raise RefusedKeyError(
                "memory.shard_text_encoders",
                "true lets all processes encode each caption together, for a cache that they share, and with cache.encode: "
                "on_the_fly each has its own; set cache.encode: ahead, or remove it",
            )
        return self

    @model_validator(mode="after")
    def _optimizer_can_step_so(self) -> "Config":
        train, optimizer = self.train, self.optimizer
        if optimizer.in_backward and not math.isinf(train.clip_norm):
            raise RefusedKeyError(
                "optimizer.in_backward",
                "true steps weights before the norm of the whole gradient is known, and train.clip_norm: "
                f"{train.clip_norm} clips it; set train.clip_norm: .inf, or remove in_backward",
            )
        if optimizer.in_backward and train.batch_size != train.micro_batch_size:
            raise RefusedKeyError(
                "optimizer.in_backward",
                f"true steps in each backward pass, and train.batch_size: {train.batch_size} takes "
                f"{train.batch_size // train.micro_batch_size} of them; set train.micro_batch_size: {train.batch_size}, "
                "or remove in_backward",
            )
        if optimizer.masters == "stochastic_rounding" and self.model.dtype != "bfloat16":
            raise RefusedKeyError(
                "optimizer.masters",
                f"{optimizer.masters} is for weights of bfloat16, and model.dtype is {self.model.dtype}; remove it",
            )
        return self

    @model_validator(mode="after")
    def _epochs_can_be_counted(self) -> "Config":
        for index, data in enumerate(self.data if self.train.epochs is not None else ()):
            for key, value in (("stream", data.stream), ("weight", data.weight)):
                if value:
                    raise RefusedKeyError(
                        "train.epochs",
                        f"{self.train.epochs} cannot be counted with data.{index}.{key}: {str(value).lower()}; "
                        "give train.steps",
                    )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.train.epochs is None and self.train.steps and self.schedule.warmup_steps >= self.train.steps:
            raise ValueError(
                f"schedule.warmup_steps: {self.schedule.warmup_steps} must be less than train.steps ({self.train.steps}); "
                "otherwise the peak learning rate is never reached"
            )
        return self


FIXED = (
    "seed",
    "model",
    "data",
    "conditioning",
    "tuning",
    "objective",
    "optimizer",
    "schedule",
    "train.batch_size",
    "train.ema_decay",
    "memory.weights",
    "memory.text_encoder_weights",
    "validation.held_out",
    "validation.data",
)
"""Keys that a run cannot change while it goes on: they would make it another run."""
