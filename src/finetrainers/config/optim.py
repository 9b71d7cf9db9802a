"""The ``optimizer`` and ``schedule`` sections: what turns gradients into updates."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from finetrainers.config.base import RefusedKeyError, Section


class OptimizerConfig(Section):
    """What turns gradients into updates."""

    name: Literal["adamw", "adam", "sgd", "adamw_8bit", "adafactor", "prodigy", "adamw_schedule_free"] = "adamw"
    """Optimizer. adamw_8bit needs the extra bitsandbytes, prodigy prodigyopt, and
    adamw_schedule_free schedulefree."""
    lr: float = Field(default=5e-5, gt=0)
    """Peak learning rate; for prodigy a factor, usually 1, which has to be given."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay (L2 penalty for adam and sgd)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients; momentum for sgd. Not for adafactor."""
    beta2: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the mean of squared gradients. Not for sgd and adafactor."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator. Not for sgd and adafactor."""

    def idle(self) -> Mapping[str, str]:
        unread = {"sgd": ("beta2", "eps"), "adafactor": ("beta1", "beta2", "eps")}.get(self.name, ())
        return dict.fromkeys(unread, f"with name: {self.name}; remove it")

    @model_validator(mode="after")
    def _has_own_lr(self) -> "OptimizerConfig":
        if self.name == "prodigy" and "lr" not in self.model_fields_set:
            raise RefusedKeyError("lr", f"the default, {self.lr}, is far too low for name: prodigy; give one, usually 1")
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

    def idle(self) -> Mapping[str, str]:
        owners = {"cycles": "cosine_with_restarts", "power": "polynomial"}
        return {
            key: f"with name: {self.name}; set name: {owner}, or remove it"
            for key, owner in owners.items()
            if self.name != owner
        }
