"""The ``conditioning`` section: the conditions of a run, which are what the denoiser sees besides noise and prompt."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

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
    """No condition."""


class GivenFramesConfig(Section):
    """Give some latent frames of a clip, clean or nearly, so that the model learns to make the others."""

    kind: Literal["given_frames"]
    """Frames of the clip itself, for families that take them."""
    frames: Literal["auto", "none", "first", "last", "first_and_last", "random"] = "auto"
    """Which latent frames are given: ``random`` is any number of any frames, ``auto`` what the task gives. All but none and
    first need a task that also takes a last frame."""
    probability: float | None = Field(default=None, ge=0, le=1)
    """Probability with which these frames are given (the first nearly clean, in its place), so that the model learns
    image-to-video beside text-to-video. By default 1 in tasks that start from frames, else the family's (0.1 for
    LTX-Video). First frames alone are drawn for each sample, sets with later ones for all samples of a step."""

    def idle(self) -> Mapping[str, str]:
        return {"probability": "with frames: none; remove one of them"} if self.frames == "none" else {}


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
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability with which the control is shown; else nothing of it is, for classifier-free guidance on it."""
    train_norms: bool = False
    """Train the norms of queries and keys, too."""

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
    """How often pictures are shown, to all samples of a step or to none; else it learns to draw from the prompt alone."""

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
    """Kind of a condition, given as keys or as an object; none if it names none."""
    return value.get("kind", "none") if isinstance(value, dict) else getattr(value, "kind", None)


def _form(value: object) -> str:
    """Whether conditions are written as one, or as a list."""
    return "list" if isinstance(value, list | tuple) else "one"


FORMS = ("one", "list")
"""How conditions may be written."""

ALONE = ("channel_concat", "references")
"""Kinds of which a run has one at most: each decides how the denoiser takes what it is shown."""


ConditionConfig = Annotated[
    Annotated[NoConditioning, Tag("none")]
    | Annotated[GivenFramesConfig, Tag("given_frames")]
    | Annotated[ChannelConcatConfig, Tag("channel_concat")]
    | Annotated[ReferencesConfig, Tag("references")],
    Discriminator(_kind),
]

ConditioningConfig = Annotated[
    Annotated[ConditionConfig, Tag("one")] | Annotated[tuple[ConditionConfig, ...], Tag("list")],
    Discriminator(_form),
]


def conditions_of(conditioning: ConditioningConfig) -> dict[str, ConditionConfig]:
    """Conditions by the keys that they are written under: conditioning for a single one, conditioning.1 in a list."""
    if isinstance(conditioning, tuple):
        found = {f"conditioning.{number}": condition for number, condition in enumerate(conditioning)}
    else:
        found = {"conditioning": conditioning}
    return {key: condition for key, condition in found.items() if condition.kind != "none"}


def check_together(conditioning: ConditioningConfig) -> None:
    """Refuse conditions that exclude each other.

    Raises:
        RefusedKeyError: Naming the later one.
    """
    kinds: dict[str, str] = {}
    for key, condition in conditions_of(conditioning).items():
        for before, kind in kinds.items():
            if kind == condition.kind:
                raise RefusedKeyError(f"{key}.kind", f"{kind} is there already, as {before}; remove one of them")
            if {kind, condition.kind} <= {*ALONE}:
                raise RefusedKeyError(
                    f"{key}.kind", f"{condition.kind} cannot stand beside {before}.kind: {kind}; remove one of them"
                )
        kinds[key] = condition.kind
