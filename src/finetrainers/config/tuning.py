"""The ``tuning`` and ``objective`` sections: what is trained, and towards what."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from finetrainers.config.base import Section


def _regular_expression(text: str) -> str:
    """Refuse what is none; a glob, with * for any text, is the usual slip."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        pattern = re.sub(r"(?<!\.)\*", ".*", text)
        hint = f"; if * stands for any text, write {pattern!r}" if pattern != text and _is_valid(pattern) else ""
        raise ValueError(f"{text!r} is no regular expression ({error}){hint}") from None
    return text


def _is_valid(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


RegularExpression = Annotated[str, AfterValidator(_regular_expression)]


MAX_RANK = 2**16
"""More than any layer has inputs or outputs: beyond, an adapter would have more weights than what it adapts."""


class LoraConfig(Section):
    """Train low-rank adapters and keep the base weights frozen (arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    """Low-rank adapters."""
    rank: int = Field(default=64, ge=1, le=MAX_RANK)
    """Inner dimension of the adapter matrices."""
    alpha: float = Field(default=64, gt=0)
    """Scale of the adapter's output, which is multiplied by alpha / rank (by alpha / sqrt(rank) with rslora)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which inputs of the adapter are zeroed during training."""
    targets: RegularExpression | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Modules to adapt: a regular expression for full names, or a list of name endings. By default the family's."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) (arXiv:2312.03732)."""
    dora: bool = False
    """Train magnitude and direction apart (arXiv:2402.09353)."""
    start_from: Path | None = None
    """Folder of weights that an earlier run of this kind has exported, to begin from, such as run/weights/step-000500."""


class LokrConfig(Section):
    """Train Kronecker-product adapters and keep the base weights frozen (LoKr, arXiv:2309.14859)."""

    kind: Literal["lokr"]
    """Kronecker-product adapters."""
    rank: int = Field(default=8, ge=1, le=MAX_RANK)
    """Inner dimension of the second factor."""
    alpha: float = Field(default=8, gt=0)
    """Scale of the adapter's output, which is multiplied by alpha / rank."""
    factor: int = Field(default=-1, ge=-1)
    """Size of the first factor; -1 takes the most even split."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability with which an adapter is left out in a training step."""
    targets: RegularExpression | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Modules to adapt: a regular expression for full names, or a list of name endings. By default the family's."""
    start_from: Path | None = None
    """Folder of weights that an earlier run of this kind has exported, to begin from, such as run/weights/step-000500."""


class FullConfig(Section):
    """Train the weights of the denoiser themselves."""

    kind: Literal["full"]
    """The weights themselves."""
    modules: RegularExpression | None = None
    """Regular expression for the names of the parameters that are trained; by default all of them."""
    start_from: Path | None = None
    """Folder of weights that an earlier run of this kind has exported, to begin from, such as run/weights/step-000500."""


def _kind(value: object) -> object:
    """Kind of a tuning section, given as keys or as an object; lora if it names none."""
    return value.get("kind", "lora") if isinstance(value, dict) else getattr(value, "kind", None)


TuningConfig = Annotated[
    Annotated[LoraConfig, Tag("lora")] | Annotated[LokrConfig, Tag("lokr")] | Annotated[FullConfig, Tag("full")],
    Discriminator(_kind),
]


class ObjectiveConfig(Section):
    """Flow matching: which noise levels are trained, and what each counts."""

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

    def idle(self) -> Mapping[str, str]:
        owners = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}
        without = {"first_frame_probability": "with given_frames: none; remove one of them"}
        return (without if self.given_frames == "none" else {}) | {
            key: f"with noise_levels: {self.noise_levels}; set noise_levels: {owner}, or remove it"
            for key, owner in owners.items()
            if self.noise_levels != owner
        }
