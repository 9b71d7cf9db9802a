"""The ``train`` section: how long and how to step."""

from typing import Literal

from pydantic import Field, model_validator

from finetrainers.config.base import Section


class TrainConfig(Section):
    """How long and how to step."""

    steps: int = Field(default=1000, ge=0)
    """Optimizer steps to run. Micro-batches are not steps."""
    epochs: int | None = Field(default=None, ge=1)
    """In the place of ``steps``: how often all samples are passed over. It becomes ``steps`` when a run has counted them,
    with ``repeats``, and is written as such to its config.yaml."""
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
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How exactly matrix products of float32 are computed: as they are, with TF32, or with bfloat16. What is bfloat16 by
    ``model.dtype`` is not concerned."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:1 ...; ``auto`` takes cuda if there is one."""

    @model_validator(mode="after")
    def _ends_once(self) -> "TrainConfig":
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError(f"steps: {self.steps} and epochs: {self.epochs} both say how long to train; give one of them")
        return self

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
