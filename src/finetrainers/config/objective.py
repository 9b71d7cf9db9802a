"""The ``objective`` section: what the model learns."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from finetrainers.config.base import Section
from finetrainers.config.user_code import is_place

KINDS = ("auto", "masked", "dpo")
"""Losses that need no code of the user's; ``finetrainers.objectives.OBJECTIVES`` has their classes."""


class ObjectiveConfig(Section):
    """The training loss: timestep sampling, loss weighting and kind of loss."""

    kind: str = "auto"
    """How to compute the loss. ``auto`` does it as the family's authors did (squared error of the velocity, or of v).
    ``masked`` does the same, where each item's mask is white. ``dpo`` prefers each item to a rejected one
    (arXiv:2311.12908). Or give your own objective as file.py:Name. ``data.N.columns`` or ``folders`` name the masks and
    rejected items."""
    mask_floor: float = Field(default=0.0, ge=0, lt=1)
    """Loss weight where a mask is black. Where it is white, the weight is 1."""
    beta: float = Field(default=5000.0, gt=0)
    """How strongly ``dpo`` keeps to the base model. With a larger value, less is learned from a pair that the model already
    distinguishes."""
    noise_levels: Literal["auto", "uniform", "logit_normal", "mode", "cosmap"] = "auto"
    """Timestep sampling: the distribution of noise levels (sigmas) before the shift (arXiv:2403.03206, section 3.1).
    ``auto`` is the family's."""
    logit_mean: float = 0.0
    """Mean of logit_normal. Below 0, lower noise levels are sampled more often."""
    logit_std: float = Field(default=1.0, gt=0)
    """Standard deviation of logit_normal."""
    mode_scale: float = Field(default=1.29, ge=-1, le=1.75)
    """Scale of ``mode``. Above 0 it prefers noise levels in the middle, below 0 those at both ends."""
    shift: Annotated[float, Field(gt=0)] | Literal["auto", "resolution"] = "auto"
    """Timestep shift (flow shift) towards noise. A number is a fixed factor; 1 changes nothing. ``resolution`` gives a
    factor that grows with the number of tokens, as in the model's scheduler (arXiv:2403.03206, section 5.3.2). ``auto`` is
    the family's."""
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """Loss weighting by noise level: equal for all (``none``), 1 / sigma^2 (``sigma_sqrt``), or 2 / (pi - 2 pi sigma + 2 pi
    sigma^2) (``cosmap``)."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in KINDS and not is_place(kind):
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}, and not a file.py:Name")
        return kind

    def idle(self) -> Mapping[str, str]:
        owners = {
            "logit_mean": ("noise_levels", "logit_normal"),
            "logit_std": ("noise_levels", "logit_normal"),
            "mode_scale": ("noise_levels", "mode"),
            "mask_floor": ("kind", "masked"),
            "beta": ("kind", "dpo"),
        }
        return {
            key: f"with {by}: {getattr(self, by)}; set {by}: {owner}, or remove it"
            for key, (by, owner) in owners.items()
            if getattr(self, by) != owner
        }
