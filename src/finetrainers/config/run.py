"""The whole configuration of a run. Defaults live in these sections and nowhere else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, model_validator

from finetrainers.config.base import RefusedKeyError, Section
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
from finetrainers.config.model import AttentionConfig, MemoryConfig, ModelConfig
from finetrainers.config.objective import ObjectiveConfig
from finetrainers.config.optim import OptimizerConfig, ScheduleConfig
from finetrainers.config.tuning import FullConfig, LoraConfig, TuningConfig

AnySection = TypeVar("AnySection", bound=Section)
MAX_SEED = 2**63 - 1
"""Largest seed that torch's generators take, as the configuration and prompts name it."""


class TrainConfig(Section):
    """How long and how to step."""

    steps: int = Field(default=1000, ge=0)
    """Optimizer steps to run. Micro-batches are not steps."""
    batch_size: int = Field(default=1, ge=1)
    """Samples of one optimizer step, over all devices."""
    micro_batch_size: int = Field(default=1, ge=1)
    """Samples that one device takes at once; the rest of ``batch_size`` is accumulated."""
    clip_norm: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    """Largest norm of the whole gradient of one optimizer step; .inf clips nothing."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, and takes much less memory."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What an infinite or undefined loss or gradient does: stop the run and name the samples, or skip the step and
    count it in report.json."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep an exponential moving average of the trained weights with this decay; it is what is validated and exported."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:1 ...; ``auto`` takes cuda if there is one."""

    @model_validator(mode="after")
    def _divides(self) -> "TrainConfig":
        if self.batch_size % self.micro_batch_size:
            below = self.batch_size - self.batch_size % self.micro_batch_size
            sizes = [str(size) for size in (below, below + self.micro_batch_size) if size]
            raise ValueError(
                f"batch_size: {self.batch_size} is no multiple of micro_batch_size ({self.micro_batch_size}); "
                f"the nearest that work: {' and '.join(sizes)}"
            )
        return self


class CheckpointConfig(Section):
    """When the state of the run is saved, and from where it goes on."""

    every: int = Field(default=500, ge=1)
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep: int = Field(default=2, ge=1)
    """How many checkpoints are kept; an old one is removed only after the new one is whole."""
    keep_weights: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    """Of how many steps the exported weights are kept, null for all: the newest, as soon as they are whole. ``auto`` keeps
    all adapters, which are small and worth comparing, and of weights of full rank as many as of checkpoints."""
    resume: Literal["latest"] | Annotated[int, Field(ge=0)] = "latest"
    """Where a run in an existing output_dir goes on: the latest whole checkpoint, or that of a step, which must exist."""


class ValidationConfig(Section):
    """Samples and held-out loss, at step 0, at intervals and at the end. They change nothing in training."""

    every: int | None = Field(default=None, ge=1)
    """Optimizer steps between validations; by default only at step 0 and at the end."""
    prompts: Path | None = None
    """File (csv, json or jsonl) of prompts to draw: prompt, and optionally image, last_image, control, height, width,
    num_frames, num_inference_steps, guidance_scale, negative_prompt, fps, seed. An empty
    prompt is drawn without a caption."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Part of all contents that is kept from training to measure the held-out loss on; at least one. Files with the same
    bytes are one content: what is held out in one data set is held out in all."""
    data: tuple[DataConfig, ...] = ()
    """Data sets of their own to measure the held-out loss on, instead of ``held_out``. Items of ``data`` with the same
    bytes are not trained on, and a warning counts them."""
    noise_levels: int = Field(default=8, ge=1)
    """Noise levels of the grid on which each held-out sample is measured."""
    max_items: int = Field(default=64, ge=1)
    """Largest number of held-out samples that are measured."""

    def idle(self) -> Mapping[str, str]:
        if self.held_out or self.data:
            return {}
        return dict.fromkeys(("noise_levels", "max_items"), "without held-out samples; give held_out or data, or remove it")

    @model_validator(mode="after")
    def _one_source(self) -> "ValidationConfig":
        if self.held_out and self.data:
            raise ValueError("held_out and data both name the held-out samples: give one of them")
        if self.every is not None and not (self.prompts or self.held_out or self.data):
            raise ValueError("every has no effect: give prompts, held_out or data to validate with")
        for index, data in enumerate(self.data):
            for key, value in data.varying.items():
                raise RefusedKeyError(
                    f"data.{index}.{key}",
                    f"{value} has no effect: held-out items are measured once, in their first view and with their first "
                    "caption; remove it",
                )
        return self


class ParallelConfig(Section):
    """How many devices share the work. This version trains on one."""

    replicate: Literal[1] = 1
    """Copies of the model (DDP)."""
    shard: Literal[1] = 1
    """Devices that share one copy's weights (FSDP2)."""
    context: Literal[1] = 1
    """Devices that share one sample's tokens (context parallelism)."""


class TrackConfig(Section):
    """Where numbers go besides events.jsonl, which is always written."""

    every: int = Field(default=1, ge=1)
    """Optimizer steps between step events."""
    tensorboard: bool = False
    """Write TensorBoard files into the run directory (extra: tensorboard)."""
    wandb: str | None = None
    """Weights & Biases project (extra: wandb)."""
    trackio: str | None = None
    """trackio project (extra: trackio)."""


class Config(Section):
    """One run."""

    output_dir: Path
    """Run directory; a run that is already there is continued."""
    seed: int = Field(default=42, ge=0, le=MAX_SEED)
    """Seeds the data order, all draws and the initialization."""
    model: ModelConfig
    data: tuple[DataConfig, ...] = Field(min_length=1)
    conditioning: ConditioningConfig = NoConditioning()
    """What the denoiser sees besides noise and prompt: one condition, or a list with one of each kind at most."""
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
    push_to_hub: bool = False
    """Push weights, model card and samples to the Hub at the end."""
    hub_repo: str | None = None
    """Hub repository to push to, as user/name; by default the name of output_dir, under the user of the token."""
    hub_private: bool = True
    """Create the Hub repository as a private one."""

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
    def num_kept_weights(self) -> int | None:
        """Of how many steps the exported weights are kept; None for all."""
        if self.checkpoint.keep_weights != "auto":
            return self.checkpoint.keep_weights
        return self.checkpoint.keep if self.tuning.kind == "full" else None

    def idle(self) -> Mapping[str, str]:
        if self.push_to_hub:
            return {}
        return dict.fromkeys(("hub_repo", "hub_private"), "without push_to_hub; set push_to_hub: true, or remove it")

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
    def _norms_are_not_trained_already(self) -> "Config":
        match self.control, self.tuning:
            case ChannelConcatConfig(train_norms=True), FullConfig(modules=None):
                raise RefusedKeyError(
                    f"{self.condition_key('channel_concat')}.train_norms",
                    "true has no effect with tuning.kind: full, which trains all weights; remove it",
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.train.steps and self.schedule.warmup_steps >= self.train.steps:
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
    "validation.held_out",
    "validation.data",
)
"""Keys that a run cannot change while it goes on: they would make it another run."""
