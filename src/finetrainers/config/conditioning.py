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
    """Condition on latent frames of the clip itself (image-to-video, first-frame conditioning)."""

    kind: Literal["given_frames"]
    """Latent frames of the clip itself, for families that support it."""
    frames: Literal["auto", "none", "first", "last", "first_and_last", "random"] = "auto"
    """Which latent frames to give to the model. ``random`` gives any number of any frames; ``auto`` gives those of the task.
    ``last``, ``first_and_last`` and ``random`` need a task that also has a last frame."""
    probability: float | None = Field(default=None, ge=0, le=1)
    """Probability of giving these frames; the first one is nearly clean, and keeps its place. Otherwise the sample trains as
    text-to-video (image conditioning dropout). By default 1 in tasks that start from frames, else the family's (0.1 for
    LTX-Video). The draw is made per sample for the first frame alone, and per step for sets with later frames."""

    def idle(self) -> Mapping[str, str]:
        return {"probability": "with frames: none; remove one of them"} if self.frames == "none" else {}


class ChannelConcatConfig(Section):
    """Condition on a control image or video (control LoRA), whose latents are additional input channels."""

    kind: Literal["channel_concat"]
    """Latents of a control signal as additional input channels."""
    signal: str
    """Control type. ``identity`` (the media themselves), ``gray``, ``blur``, ``downscale`` and ``canny`` are computed from
    the media. ``files`` reads a file for each item (see ``data.N.control_column`` and ``control_path``). Or your own
    function as file.py:function, which maps uint8 frames [K, P, Q, 3] to as many frames."""
    blur_sigma: float = Field(default=4.0, gt=0)
    """Standard deviation of ``blur``, in pixels."""
    downscale_factor: int = Field(default=4, ge=2)
    """Factor by which ``downscale`` reduces height and width before it enlarges them again."""
    canny_low: float = Field(default=100.0, ge=0)
    """Lower threshold of ``canny``: an edge continues where the gradient is above it."""
    canny_high: float = Field(default=200.0, ge=0)
    """Upper threshold of ``canny``: an edge starts where the gradient is above it."""
    frames: Literal["full", "index", "prefix", "random", "first_and_last"] = "full"
    """Which latent frames are conditioning frames: all (``full``), that of ``frame_index`` (``index``), the first few, a
    random number of them (``prefix``), any number of any frames (``random``), or the first and the last. The control is zero
    in all others."""
    frame_index: int = Field(default=0, ge=0)
    """Latent frame that ``frames: index`` uses, counted from 0."""
    mask: bool = False
    """Add a mask channel: 1 in the conditioning frames, 0 in the others."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability of conditioning on the control. Otherwise the control is set to zero (control dropout), for
    classifier-free guidance on it."""
    train_norms: bool = False
    """Also train the norms of queries and keys."""

    @property
    def has_files(self) -> bool:
        """Whether the signal lies in files beside the media."""
        return self.signal == "files"

    @field_validator("signal")
    @classmethod
    def _known(cls, signal: str) -> str:
        if signal not in SIGNALS and not re.fullmatch(r".+\.py:\w+", signal):
            raise ValueError(f"{signal!r} is none of {', '.join(SIGNALS)}, and not a file.py:function")
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
    """Condition on reference images, such as the image to edit. Their tokens follow the noisy tokens."""

    kind: Literal["references"]
    """Tokens of reference images, which are in separate files: see ``data.N.columns.reference`` and
    ``folders.reference``."""
    pixels: int = Field(default=1048576, ge=1)
    """Approximate area in pixels to which each reference is scaled, whatever the size of the result. Its aspect ratio is
    approximately kept. The default is the area that FLUX.1 Kontext was trained with, and that its pipeline scales images
    to."""
    step: int = Field(default=32, ge=1)
    """Heights and widths of references are multiples of this many pixels. A smaller step keeps aspect ratios better but
    makes more sizes, and all samples of a batch must have the same one."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability of using the references, drawn once for all samples of a step. Otherwise the step trains on the prompt
    alone."""

    @property
    def budget(self) -> PixelBudget:
        """What sizes are made of."""
        return PixelBudget(pixels=self.pixels, step=self.step, max_aspect=MAX_REFERENCE_ASPECT)

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.pixels < self.step**2:
            raise RefusedKeyError(
                "pixels", f"{self.pixels} is too small for a size in steps of {self.step}; set {self.step**2} or more"
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
                raise RefusedKeyError(f"{key}.kind", f"{kind} is already given as {before}; remove one of them")
            if {kind, condition.kind} <= {*ALONE}:
                raise RefusedKeyError(
                    f"{key}.kind", f"{condition.kind} cannot be combined with {before}.kind: {kind}; remove one of them"
                )
        kinds[key] = condition.kind
