"""The ``attention`` section: which backends compute attention."""

from typing import Literal

from pydantic import Field

from finetrainers.config.base import Section

TRAINABLE_ATTENTION = (
    "native",
    "_native_math",
    "_native_flash",
    "_native_cudnn",
    "_native_efficient",
    "flex",
    "flash",
    "flash_hub",
    "flash_varlen",
    "flash_varlen_hub",
    "_flash_3_hub",
    "_flash_3_varlen_hub",
    "xformers",
)
"""Attention backends of diffusers that have a backward pass; the others would train nothing, in silence."""

AUTO = "auto"


class AttentionConfig(Section):
    """Which of diffusers' attention backends is used."""

    train: Literal[(AUTO, *TRAINABLE_ATTENTION)] = AUTO  # type: ignore[valid-type]  # the list is above, written once
    """Attention backend in training; only those with a backward pass. With auto, those that can run here are tried on a
    GPU before training, at the run's own sizes, and the fastest correct one is used; on a CPU it is native."""
    validation: str = Field(default=AUTO, alias="validate")  # pydantic keeps the name `validate` for itself
    """Attention backend in validation and sampling; backends without a backward pass, such as sage_hub, are allowed. With
    auto, as in training, but without those that round more than the data type does."""
