"""The ``checkpoint`` section: when the state of the run is saved."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from finetrainers.config.base import Section


class CheckpointConfig(Section):
    """When the state of the run is saved, and where a run resumes."""

    every: int = Field(default=500, ge=1)
    """Optimizer steps between checkpoints. The last step is always saved."""
    keep: int = Field(default=2, ge=1)
    """Number of checkpoints to keep (save_total_limit). An old one is removed only after the new one is complete."""
    background: bool = True
    """Write checkpoints while training continues. Training pauses only while the state is copied to host memory, where it
    stays until it is written. If false, training waits for the disk, and no copy is made."""
    keep_weights: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    """Number of steps whose exported weights are kept, newest first; null keeps all. ``auto`` keeps all adapters, which are
    small and worth comparing. In full fine-tuning, it keeps as many as checkpoints."""
    export: tuple[Literal["comfyui", "kohya"], ...] = ()
    """Also write each exported adapter for these programs, with the keys and the data type that they read: [comfyui] writes
    weights/step-000500/comfyui/RUN-step000500.safetensors. ``finetrainers export`` can do this later, and more."""
    keep_best: bool = False
    """Save after each validation with a new lowest held-out loss. That checkpoint and its weights are kept in addition to
    ``keep`` and ``keep_weights``, until another loss is lower. Step 0 does not count."""
    resume: Literal["latest"] | Annotated[int, Field(ge=0)] = "latest"
    """Where a run in an existing output_dir resumes: from the latest complete checkpoint, or from the checkpoint of a given
    step, which must exist."""

    @field_validator("export")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names one twice; name each once")
        return value
