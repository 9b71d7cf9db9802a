"""The whole configuration of a run. Defaults live in these sections and nowhere else."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetrainers.config.base import Section
from finetrainers.config.data import CacheConfig, DataConfig, LoaderConfig
from finetrainers.config.tuning import ConditioningConfig, LoraConfig, NoConditioning, ObjectiveConfig, TuningConfig

Dtype = Literal["float32", "bfloat16", "float16"]

TRAINABLE_ATTENTION = (
    "native",
    "_native_math",
    "_native_flash",
    "_native_cudnn",
    "_native_efficient",
    "flex",
    "flash",
    "flash_hub",
    "flash_varlen",
    "flash_varlen_hub",
    "_flash_3_hub",
    "_flash_3_varlen_hub",
    "xformers",
)
"""Attention backends of diffusers that have a backward pass; the others would train nothing, in silence."""


class ComponentConfig(Section):
    """Where one component of the pipeline comes from, if not from ``model.path``."""

    path: str | None = None
    """Local folder or Hub id; by default the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    subfolder: str | None = None
    """Folder inside ``path`` that holds the component; by default none if ``path`` is given."""
    dtype: Dtype | None = None
    """Data type of this component; by default ``model.dtype``."""


class ModelConfig(Section):
    """Which model to tune. Family and task follow from the pipeline class in its model_index.json."""

    path: str
    """Local folder or Hub id of a pipeline in diffusers layout."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    family: str | None = None
    """Family name, if it cannot be told from model_index.json; ``finetrainers models`` lists them."""
    task: str | None = None
    """Task, if not the one of the model's own pipeline; ``finetrainers models`` lists them."""
    adapter: str | None = None
    """Adapter of your own, as path/to/file.py:ClassName."""
    dtype: Dtype = "bfloat16"
    """Data type of the frozen weights and of all computation with them."""
    max_sequence_length: int | None = Field(default=None, ge=1)
    """Prompt tokens, in training and in sampling alike; by default those of the family's pipeline."""
    components: dict[str, ComponentConfig] = {}
    """Overrides by component name, such as {transformer: {path: ...}, vae: {dtype: float32}}."""


class OptimizerConfig(Section):
    """What turns gradients into updates."""

    name: Literal["adamw", "adam", "sgd", "adamw_8bit", "adafactor", "prodigy", "adamw_schedule_free"] = "adamw"
    """Optimizer. adamw_8bit needs the extra bitsandbytes, prodigy prodigyopt, and
    adamw_schedule_free schedulefree."""
    lr: float = Field(default=5e-5, gt=0)
    """Peak learning rate; for prodigy a factor, usually 1."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay (L2 penalty for adam and sgd)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients; momentum for sgd. Not for adafactor."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean of squared gradients. Not for sgd and adafactor."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator. Not for sgd and adafactor."""

    @model_validator(mode="after")
    def _effective(self) -> "OptimizerConfig":
        unread = {"sgd": {"beta2", "eps"}, "adafactor": {"beta1", "beta2", "eps"}}.get(self.name, set())
        for key in sorted(unread & self.model_fields_set):
            raise ValueError(f"{key} has no effect with name: {self.name}; remove it")
        return self


class ScheduleConfig(Section):
    """How the learning rate changes over the optimizer steps of the run."""

    name: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = "constant"
    """Shape after the warm-up: all but constant fall towards 0 at the last step."""
    warmup_steps: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises from 0 to its peak."""
    cycles: int = Field(default=1, ge=1)
    """Restarts of cosine_with_restarts."""
    power: float = Field(default=1.0, gt=0)
    """Exponent of polynomial."""

    @model_validator(mode="after")
    def _effective(self) -> "ScheduleConfig":
        owner = {"cycles": "cosine_with_restarts", "power": "polynomial"}
        for key in sorted(self.model_fields_set & owner.keys()):
            if self.name != owner[key]:
                raise ValueError(f"{key} has no effect with name: {self.name}; set name: {owner[key]}, or remove it")
        return self


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
    resume: Literal["latest"] | Annotated[int, Field(ge=0)] = "latest"
    """Where a run in an existing output_dir goes on: the latest whole checkpoint, or that of a step, which must exist."""


class ValidationConfig(Section):
    """Samples and held-out loss, at step 0, at intervals and at the end. They change nothing in training."""

    every: int | None = Field(default=None, ge=1)
    """Optimizer steps between validations; by default only at step 0 and at the end."""
    prompts: Path | None = None
    """File (csv, json or jsonl) of prompts to draw: prompt, and optionally image, height, width, num_frames,
    num_inference_steps, guidance_scale, negative_prompt, fps, seed."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Part of each data set that is kept from training to measure the held-out loss on; at least one item, chosen by
    content."""
    data: tuple[DataConfig, ...] = ()
    """Data sets of their own to measure the held-out loss on, instead of ``held_out``."""
    noise_levels: int = Field(default=8, ge=1)
    """Noise levels of the grid on which each held-out sample is measured."""
    max_items: int = Field(default=64, ge=1)
    """Largest number of held-out samples that are measured."""

    @model_validator(mode="after")
    def _one_source(self) -> "ValidationConfig":
        if self.held_out and self.data:
            raise ValueError("held_out and data both name the held-out samples: give one of them")
        if self.every is not None and not (self.prompts or self.held_out or self.data):
            raise ValueError("every has no effect: give prompts, held_out or data to validate with")
        return self


class ParallelConfig(Section):
    """How many devices share the work. This version trains on one."""

    replicate: Literal[1] = 1
    """Copies of the model (DDP)."""
    shard: Literal[1] = 1
    """Devices that share one copy's weights (FSDP2)."""
    context: Literal[1] = 1
    """Devices that share one sample's tokens (context parallelism)."""


class AttentionConfig(Section):
    """Which of diffusers' attention backends computes attention."""

    train: Literal[TRAINABLE_ATTENTION] = "native"  # type: ignore[valid-type]  # the list is above, written once
    """Backend in training; only those with a backward pass."""
    validation: str = Field(default="native", alias="validate")  # pydantic keeps the name `validate` for itself
    """Backend in validation; ones without a backward pass, such as sage_hub, may be used here."""


class MemoryConfig(Section):
    """What trades time for memory."""

    vae_tiling: bool = False
    """Encode and decode large frames in tiles."""
    vae_slicing: bool = False
    """Encode and decode the items of a batch one by one."""


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
    seed: int = Field(default=42, ge=0)
    """Seeds the data order, all draws and the initialization."""
    model: ModelConfig
    data: tuple[DataConfig, ...] = Field(min_length=1)
    conditioning: ConditioningConfig = NoConditioning()
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
    track: TrackConfig = TrackConfig()
    push_to_hub: bool = False
    """Push weights, model card and samples to the Hub at the end."""
    hub_repo: str | None = None
    """Hub repository to push to, as user/name; by default the name of output_dir, under the user of the token."""
    hub_private: bool = True
    """Create the Hub repository as a private one."""

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.train.steps and self.schedule.warmup_steps >= self.train.steps:
            raise ValueError(
                f"schedule.warmup_steps: {self.schedule.warmup_steps} must be less than train.steps ({self.train.steps}); "
                "otherwise the peak learning rate is never reached"
            )
        if self.hub_repo is not None and not self.push_to_hub:
            raise ValueError("hub_repo has no effect without push_to_hub: true")
        return self
