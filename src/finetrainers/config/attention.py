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
    """The attention backends of diffusers to use."""

    train: Literal[(AUTO, *TRAINABLE_ATTENTION)] = AUTO  # type: ignore[valid-type]  # the list is above, written once
    """Attention backend for training; it must have a backward pass. On a GPU, ``auto`` tries those that can run here before
    training, at the run's own sizes, and uses the fastest correct one. On a CPU, ``auto`` is native."""
    validation: str = Field(default=AUTO, alias="validate")  # pydantic keeps the name `validate` for itself
    """Attention backend for validation and sampling. Backends without a backward pass, such as sage_hub, are allowed.
    ``auto`` chooses as in training, but leaves out those that round more than the data type does."""
