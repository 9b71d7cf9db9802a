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
    given_frames: Literal["auto", "none", "first", "last", "first_and_last", "random"] = "auto"
    """Latent frames of a clip that are given as conditions, for families that take them so: ``random`` is any number of any
    frames; ``auto`` is what the task gives. All but none and first need a task that also takes a last frame."""
    first_frame_probability: float | None = Field(default=None, ge=0, le=1)
    """Probability with which these frames are given (the first nearly clean, in its place), so that the model learns
    image-to-video beside text-to-video. By default 1 in tasks that start from frames, else the family's (0.1 for
    LTX-Video)."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind != "auto" and not re.fullmatch(r".+\.py:\w+", kind):
            raise ValueError(f"{kind!r} is neither auto nor file.py:Name")
        return kind

    def idle(self) -> Mapping[str, str]:
        owners = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}
        without = {"first_frame_probability": "with given_frames: none; remove one of them"}
        return (without if self.given_frames == "none" else {}) | {
            key: f"with noise_levels: {self.noise_levels}; set noise_levels: {owner}, or remove it"
            for key, owner in owners.items()
            if self.noise_levels != owner
        }
