"""The ``checkpoint`` section: when the state of the run is saved."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from finetrainers.config.base import Section


class CheckpointConfig(Section):
    """When the state of the run is saved, and where a run resumes."""

    every: int = Field(default=500, ge=1)
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep: int = Field(default=2, ge=1)
    """How many checkpoints are kept (save_total_limit); an old one is removed only after the new one is complete."""
    background: bool = True
    """Write checkpoints while training continues: training pauses only while the state is copied to host memory, which
    holds it until it is written. Without it, training waits for the disk, and no copy is made."""
    keep_weights: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    """For how many steps exported weights are kept, the newest first; null keeps all. ``auto`` keeps all adapters, which
    are small and worth comparing, and as many full fine-tuned weights as checkpoints."""
    export: tuple[Literal["comfyui", "kohya"], ...] = ()
    """Programs for which each exported adapter is also written, with the keys and the data type that they read: [comfyui]
    writes weights/step-000500/comfyui/RUN-step000500.safetensors. ``finetrainers export`` does the same later, and more."""
    keep_best: bool = False
    """Save after each validation with the lowest held-out loss so far, and keep that checkpoint and its weights in
    addition to ``keep`` and ``keep_weights`` until another is lower. Step 0 is not counted."""
    resume: Literal["latest"] | Annotated[int, Field(ge=0)] = "latest"
    """Where a run in an existing output_dir resumes: from the latest complete checkpoint, or from that of a step, which
    must exist."""

    @field_validator("export")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names one twice; name each once")
        return value
