"""The ``objective`` section: what the model learns."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from finetrainers.config.base import Section
from finetrainers.config.user_code import is_place

KINDS = ("auto", "masked", "dpo")
"""Losses that need no code of the user's; ``finetrainers.objectives.OBJECTIVES`` has their classes."""


class ObjectiveConfig(Section):
    """What is learned: which noise levels are trained, what each counts, and by which loss."""

    kind: str = "auto"
    """How the loss is computed: ``auto`` as the family's authors did (squared error of the velocity, or of v), ``masked`` as
    they did, where each item's mask is white, ``dpo`` by preferring each item to one that is rejected (arXiv:2311.12908), or
    an objective of yours as file.py:Name. Masks and what is rejected are named by ``data.N.columns`` or ``folders``."""
    mask_floor: float = Field(default=0.0, ge=0, lt=1)
    """What black of a mask counts in the loss, where white counts 1."""
    beta: float = Field(default=5000.0, gt=0)
    """How strongly dpo holds to the base model: the larger, the less is learned from a pair that is told apart already."""
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
        if kind not in KINDS and not is_place(kind):
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}, and no file.py:Name")
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
