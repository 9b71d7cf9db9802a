"""The ``conditioning`` section: what the denoiser sees besides noise and prompt."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from finetrainers.config.base import RefusedKeyError, Section
from finetrainers.config.data import PixelBudget

SIGNALS = ("identity", "gray", "blur", "downscale", "canny", "files")
"""Control signals that need no code of the user's."""
MAX_REFERENCE_ASPECT = 7 / 3
"""Largest ratio of sides of a reference: that of FLUX.1 Kontext's sizes."""


class NoConditioning(Section):
    """Condition on the prompt alone (SFT)."""

    kind: Literal["none"] = "none"
    """No control signal."""
    takes_control: ClassVar[bool] = False
    has_files: ClassVar[bool] = False


class ChannelConcatConfig(Section):
    """Condition on pixels: their latents stand beside the noisy ones, in further channels of the input projection."""

    kind: Literal["channel_concat"]
    """Latents of a control signal in further channels."""
    signal: str
    """What is shown: ``identity`` (the media themselves), ``gray``, ``blur``, ``downscale``, ``canny`` (computed from the
    media), ``files`` (each item's own, see ``data.N.control_column`` and ``control_path``), or a function of yours as
    file.py:function, from frames [K, P, Q, 3] in uint8 to as many."""
    blur_sigma: float = Field(default=4.0, gt=0)
    """Standard deviation of blur, in pixels."""
    downscale_factor: int = Field(default=4, ge=2)
    """How many times fewer rows and columns downscale leaves; they are then enlarged again."""
    canny_low: float = Field(default=100.0, ge=0)
    """Gradient above which canny follows an edge on."""
    canny_high: float = Field(default=200.0, ge=0)
    """Gradient above which canny begins an edge."""
    frames: Literal["full", "index", "prefix", "random", "first_and_last"] = "full"
    """Which latent frames of the control are shown: all, the one of ``frame_index``, the first few (a random number of
    them), any number of any frames, or the two ends. The others are zero."""
    frame_index: int = Field(default=0, ge=0)
    """Latent frame that index shows; the first is 0."""
    mask: bool = False
    """Add a channel that is 1 in the frames that are shown, and 0 in the others."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of showing nothing of the control, for classifier-free guidance on it."""
    train_norms: bool = False
    """Train the norms of queries and keys, too."""

    takes_control: ClassVar[bool] = True
    """Whether a prompt may name a control."""

    @property
    def has_files(self) -> bool:
        """Whether the signal lies in files beside the media."""
        return self.signal == "files"

    @field_validator("signal")
    @classmethod
    def _known(cls, signal: str) -> str:
        if signal not in SIGNALS and not re.fullmatch(r".+\.py:\w+", signal):
            raise ValueError(f"{signal!r} is none of {', '.join(SIGNALS)}, and no file.py:function")
        return signal

    def idle(self) -> Mapping[str, str]:
        owners = {
            "blur_sigma": "blur",
            "downscale_factor": "downscale",
            "canny_low": "canny",
            "canny_high": "canny",
        }
        idle = {
            key: f"with signal: {self.signal}; set signal: {owner}, or remove it"
            for key, owner in owners.items()
            if self.signal != owner
        }
        if self.frames != "index":
            idle["frame_index"] = f"with frames: {self.frames}; set frames: index, or remove it"
        return idle


class ReferencesConfig(Section):
    """Condition on pictures at a size of their own, such as the one to edit: their tokens stand behind the noisy ones."""

    kind: Literal["references"]
    """Tokens of further pictures, in files beside the media: see ``data.N.columns.reference`` and ``folders.reference``."""
    pixels: int = Field(default=1048576, ge=1)
    """Pixels that a picture is brought to, about, whatever the size that is drawn; its proportions stay about the same. The
    default is the area that FLUX.1 Kontext was trained with, and that its pipeline brings pictures to."""
    step: int = Field(default=32, ge=1)
    """Heights and widths of these pictures are multiples of this many pixels: a smaller step keeps proportions better, and
    makes more sizes, of which a batch has one."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """How often a sample is shown its pictures; else it learns to draw from the prompt alone."""

    takes_control: ClassVar[bool] = False
    has_files: ClassVar[bool] = False

    @property
    def budget(self) -> PixelBudget:
        """What sizes are made of."""
        return PixelBudget(pixels=self.pixels, step=self.step, max_aspect=MAX_REFERENCE_ASPECT)

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.pixels < self.step**2:
            raise RefusedKeyError(
                "pixels", f"{self.pixels} hold no size in steps of {self.step}; give {self.step**2} or more"
            )
        return self


def _kind(value: object) -> object:
    """Kind of a conditioning section, given as keys or as an object; none if it names none."""
    return value.get("kind", "none") if isinstance(value, dict) else getattr(value, "kind", None)


ConditioningConfig = Annotated[
    Annotated[NoConditioning, Tag("none")]
    | Annotated[ChannelConcatConfig, Tag("channel_concat")]
    | Annotated[ReferencesConfig, Tag("references")],
    Discriminator(_kind),
]
