"""The ``checkpoint`` section: when the state of the run is saved."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from finetrainers.config.base import Section


class CheckpointConfig(Section):
    """When the state of the run is saved, and from where it goes on."""

    every: int = Field(default=500, ge=1)
    """Optimizer steps between checkpoints; the last step is always saved."""
    keep: int = Field(default=2, ge=1)
    """How many checkpoints are kept; an old one is removed only after the new one is whole."""
    background: bool = True
    """Write beside the training steps: training stands still only while the state is copied into the host's memory, which
    holds it until it is written. Without it, training waits for the disk, and no copy is made."""
    keep_weights: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"
    """Of how many steps the exported weights are kept, null for all: the newest, as soon as they are whole. ``auto`` keeps
    all adapters, which are small and worth comparing, and of weights of full rank as many as of checkpoints."""
    export: tuple[Literal["comfyui", "kohya"], ...] = ()
    """Programs for which each exported adapter is written once more, in the keys and the type that they read: [comfyui]
    makes weights/step-000500/comfyui/RUN-step000500.safetensors. ``finetrainers export`` does the same later, and more."""
    keep_best: bool = False
    """Save after each validation whose held-out loss is the lowest so far, and keep that checkpoint and its weights besides
    ``keep`` and ``keep_weights`` until another is lower. Step 0 is not counted."""
    resume: Literal["latest"] | Annotated[int, Field(ge=0)] = "latest"
    """Where a run in an existing output_dir goes on: the latest whole checkpoint, or that of a step, which must exist."""

    @field_validator("export")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names one twice; name each once")
        return value
