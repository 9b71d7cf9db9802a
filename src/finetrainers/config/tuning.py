"""The ``tuning`` section: what is trained."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from finetrainers.config.base import AUTO, Section


def _regular_expression(text: str) -> str:
    """Refuse what is none; a glob, with * for any text, is the usual slip."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        pattern = re.sub(r"(?<!\.)\*", ".*", text)
        hint = f"; if * stands for any text, write {pattern!r}" if pattern != text and _is_valid(pattern) else ""
        raise ValueError(f"{text!r} is not a regular expression ({error}){hint}") from None
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
    """Train low-rank adapters (network, LoRA) and keep the base weights frozen (arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    """Low-rank adapters."""
    rank: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_RANK)] = AUTO
    """Inner dimension of the adapter matrices. By default the rank published for the model's family."""
    alpha: Literal["auto"] | Annotated[float, Field(gt=0)] = AUTO
    """Scale of the adapter's output, which is multiplied by alpha / rank (by alpha / sqrt(rank) with ``rslora``). By default
    the rank, or the part of it published for the family (half of it for CogVideoX)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of zeroing inputs of the adapter during training (lora_dropout)."""
    targets: RegularExpression | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Modules to adapt: a regular expression for full names, or a list of name endings. By default those of the family."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv:2312.03732)."""
    dora: bool = False
    """Train the magnitude and direction of weights separately (arXiv:2402.09353)."""
    start_from: Path | None = None
    """Start from the exported weights of an earlier run of this kind, such as run/weights/step-000500."""

    @property
    def rank_value(self) -> int:
        """The rank, as a number."""
        assert self.rank != AUTO, "what is left to the model is settled before anything reads it"
        return self.rank

    @property
    def alpha_value(self) -> float:
        """The alpha, as a number."""
        assert self.alpha != AUTO, "what is left to the model is settled before anything reads it"
        return self.alpha


class LokrConfig(Section):
    """Train Kronecker-product adapters and keep the base weights frozen (LoKr, arXiv:2309.14859)."""

    kind: Literal["lokr"]
    """Kronecker-product adapters."""
    rank: int = Field(default=8, ge=1, le=MAX_RANK)
    """Rank of the second factor."""
    alpha: float = Field(default=8, gt=0)
    """Scale of the adapter's output, which is multiplied by alpha / rank."""
    factor: int = Field(default=-1, ge=-1)
    """Size of the first factor; -1 chooses the most even split."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of leaving an adapter out of a training step."""
    targets: RegularExpression | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Modules to adapt: a regular expression for full names, or a list of name endings. By default those of the family."""
    start_from: Path | None = None
    """Start from the exported weights of an earlier run of this kind, such as run/weights/step-000500."""


class FullConfig(Section):
    """Train the weights of the denoiser themselves (full fine-tuning)."""

    kind: Literal["full"]
    """The weights themselves."""
    modules: RegularExpression | None = None
    """Regular expression for the names of the parameters to train. By default, all are trained."""
    qat: Literal["none", "int8", "int4", "int8_int4"] = "none"
    """Train the linear layers of the blocks for quantization (QAT, extra torchao), and export the quantized model. int8 has
    one scale per row, int4 one per 32 weights. int8_int4 computes with 8-bit activations and 4-bit weights."""
    start_from: Path | None = None
    """Start from the exported weights of an earlier run of this kind, such as run/weights/step-000500."""


def _kind(value: object) -> object:
    """Kind of a tuning section, given as keys or as an object; lora if it names none."""
    return value.get("kind", "lora") if isinstance(value, dict) else getattr(value, "kind", None)


TuningConfig = Annotated[
    Annotated[LoraConfig, Tag("lora")] | Annotated[LokrConfig, Tag("lokr")] | Annotated[FullConfig, Tag("full")],
    Discriminator(_kind),
]
