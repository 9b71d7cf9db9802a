"""The ``train`` section: how long and how to step."""

from typing import Literal

from pydantic import Field, model_validator

from finetrainers.config.base import Section


class TrainConfig(Section):
    """Length of the run, batch size and gradient handling."""

    steps: int = Field(default=1000, ge=0)
    """Optimizer steps to run. Micro-batches are not steps."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over all samples, instead of ``steps``. Once the run has counted its samples, including ``repeats``, it
    converts this to ``steps``, and writes ``steps`` to its config.yaml."""
    batch_size: int = Field(default=1, ge=1)
    """Effective batch size: samples per optimizer step, over all devices and all steps of gradient accumulation."""
    micro_batch_size: int = Field(default=1, ge=1)
    """Batch size per device: samples per forward pass. Gradient accumulation makes up the rest of ``batch_size``."""
    clip_norm: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    """Gradient clipping: largest norm of the whole gradient of an optimizer step (max_grad_norm). ``.inf`` turns it off."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass. This is slower, but needs much less memory."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do about an infinite or undefined loss or gradient: stop the run and name the samples, or skip the step and
    count it in report.json."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average (EMA) of the trained weights. If set, the average is validated and exported."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of float32 matrix products: full (``highest``), with TF32 (``high``), or with bfloat16 (``medium``). Layers
    in bfloat16 (``model.dtype``) are not affected."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:1 ... With ``auto``, cuda if there is one."""

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
                f"batch_size: {self.batch_size} is not a multiple of micro_batch_size ({self.micro_batch_size}); "
                f"the nearest that work: {' and '.join(sizes)}"
            )
        return self
