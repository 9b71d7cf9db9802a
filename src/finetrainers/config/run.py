"""The whole configuration of a run. Defaults live in these sections and nowhere else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator, model_validator

from finetrainers.config.across import RULES
from finetrainers.config.attention import AttentionConfig
from finetrainers.config.base import Section
from finetrainers.config.checkpoint import CheckpointConfig
from finetrainers.config.compile import CompileConfig
from finetrainers.config.conditioning import (
    ChannelConcatConfig,
    ConditionConfig,
    ConditioningConfig,
    GivenFramesConfig,
    NoConditioning,
    ReferencesConfig,
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
from finetrainers.config.tuning import LoraConfig, TuningConfig
from finetrainers.config.user_code import check_places, is_place
from finetrainers.config.validation import ValidationConfig

AnySection = TypeVar("AnySection", bound=Section)
MAX_SEED = 2**63 - 1
"""Largest seed that torch's generators take, as the configuration and prompts name it."""


class Config(Section):
    """One run."""

    output_dir: Path
    """Run directory. If it already holds a run, that run is resumed."""
    seed: int = Field(default=42, ge=0, le=MAX_SEED)
    """Seed of the data order, all random draws and the initialization."""
    model: ModelConfig
    data: tuple[DataConfig, ...] = Field(min_length=1)
    conditioning: ConditioningConfig = NoConditioning()
    """What the denoiser is conditioned on besides the prompt: one condition, or a list with at most one of each kind."""
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
    """Your own callbacks, each as file.py:Name, a class derived from finetrainers.Callback. They are called in this
    order."""
    push_to_hub: bool = False
    """Push weights, model card and samples to the Hub at the end."""
    hub_repo: str | None = None
    """Hub repository to push to, as user/name. By default the name of output_dir, under the user of the token."""
    hub_private: bool = True
    """Create the Hub repository as private."""

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
    def _sections_go_together(self) -> "Config":
        for rule in RULES:
            rule(self)
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
