"""The ``objective`` section: what the model learns."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from finetrainers.config.base import Section


class ObjectiveConfig(Section):
    """What is learned: which noise levels are trained, what each counts, and by which loss."""

    kind: str = "auto"
    """How the loss is computed: ``auto`` as the family's authors did (squared error of the velocity, or of v), or an
    objective of yours as file.py:Name."""
    noise_levels: Literal["auto", "uniform", "logit_normal", "mode", "cosmap"] = "auto"
    """Distribution of noise levels before the shift (arXiv:2403.03206, section 3.1); ``auto`` is the family's."""
    logit_mean: float = 0.0
    """Mean of logit_normal; below 0 trains lower noise levels more."""
    logit_std: float = Field(default=1.0, gt=0)
    """Standard deviation of logit_normal."""
    mode_scale: float = Field(default=1.29, ge=-1, le=1.75)
    """Strength of mode: above 0 prefers the middle noise levels, below 0 the ends."""
    shift: Annotated[float, Field(gt=0)] | Literal["auto", "resolution"] = "auto"
    """Moves noise levels towards 1: a fixed factor (1 changes nothing), or ``resolution`` for one that grows with the number
    of tokens as the model's scheduler has it (arXiv:2403.03206, section 5.3.2); ``auto`` is the family's."""
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """What each noise level counts in the loss: all the same, 1 / sigma^2, or 2 / (pi - 2 pi sigma + 2 pi sigma^2)."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind != "auto" and not re.fullmatch(r".+\.py:\w+", kind):
            raise ValueError(f"{kind!r} is neither auto nor file.py:Name")
        return kind

    def idle(self) -> Mapping[str, str]:
        owners = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}
        return {
            key: f"with noise_levels: {self.noise_levels}; set noise_levels: {owner}, or remove it"
            for key, owner in owners.items()
            if self.noise_levels != owner
        }
