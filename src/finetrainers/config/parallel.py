"""The ``parallel`` section: how devices share the work."""

from typing import Literal

from pydantic import Field

from finetrainers.config.base import Section

ContextKind = Literal["ulysses", "ring"]


class ParallelConfig(Section):
    """How devices share the work: as many as the launcher started processes; sizes that are not given follow from it."""

    replicate: int | None = Field(default=None, ge=1)
    """Copies of the model, each trained on other samples (DDP; HSDP together with ``shard``). By default as many as there
    are devices for."""
    shard: int | None = Field(default=None, ge=1)
    """Devices that share the weights of one copy, and train on other samples too (FSDP2). By default 1, or what
    ``replicate`` leaves."""
    context: int | None = Field(default=None, ge=1)
    """Devices that share the tokens of one sample (context parallelism). By default 1, or what the other two leave."""
    context_kind: ContextKind = "ulysses"
    """How they do: by attention heads, or by passing keys and values around (CUDA only)."""
