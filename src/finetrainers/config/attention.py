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


class AttentionConfig(Section):
    """Which of diffusers' attention backends computes attention."""

    train: Literal[TRAINABLE_ATTENTION] = "native"  # type: ignore[valid-type]  # the list is above, written once
    """Backend in training; only those with a backward pass."""
    validation: str = Field(default="native", alias="validate")  # pydantic keeps the name `validate` for itself
    """Backend in validation; ones without a backward pass, such as sage_hub, may be used here."""
