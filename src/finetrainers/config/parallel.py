"""The ``parallel`` section: how devices share the work."""

from collections.abc import Mapping
from typing import Annotated, Literal

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
    reshard: bool | Annotated[int, Field(ge=2, strict=True)] = True
    """With ``shard``, whether what was gathered of a block is let go after its forward pass, and gathered again for the
    backward pass. ``false`` gathers once, and holds all weights from one pass to the other; a number lets groups of so many
    processes, such as those of a host, hold them together."""
    offload: bool = False
    """With ``shard``, whether shards of weights and gradients rest in host memory, where the optimizer steps, too."""
    prefetch: int = Field(default=1, ge=1)
    """With ``shard``, blocks that are gathered ahead of the one that is computed."""

    def idle(self) -> Mapping[str, str]:
        if self.shard is None or self.shard > 1:
            return {}
        return dict.fromkeys(("reshard", "offload", "prefetch"), "with shard: 1, where weights are whole; remove it")
