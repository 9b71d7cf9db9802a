"""The ``parallel`` section: how devices share the work."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from finetrainers.config.base import Section

ContextKind = Literal["ulysses", "ring"]


class ParallelConfig(Section):
    """How devices share the work. The launcher starts one process per device; the default sizes use all."""

    replicate: int | None = Field(default=None, ge=1)
    """Number of copies of the model, each trained on different samples (data parallelism, DDP; HSDP together with
    ``shard``). By default as many as there are devices for."""
    shard: int | None = Field(default=None, ge=1)
    """Number of devices that share the weights of one copy and train on different samples (FSDP2). By default 1, or what
    ``replicate`` leaves."""
    context: int | None = Field(default=None, ge=1)
    """Number of devices that share the tokens of one sample (context parallelism). By default 1, or what the other two
    leave."""
    context_kind: ContextKind = "ulysses"
    """How devices share tokens: by attention heads (Ulysses), or by passing keys and values around (ring attention, CUDA
    only)."""
    reshard: bool | Annotated[int, Field(ge=2, strict=True)] = True
    """With ``shard``, free the gathered weights of a block after its forward pass, and gather them again for the backward
    pass (reshard_after_forward). ``false`` gathers once and keeps all weights from one pass to the other. A number lets
    groups of that many processes, such as those of one host, keep them together."""
    offload: bool = False
    """With ``shard``, keep shards of weights and gradients in host memory, and run the optimizer there (CPU offload)."""
    prefetch: int = Field(default=1, ge=1)
    """With ``shard``, how many blocks to gather ahead of the one that computes."""

    def idle(self) -> Mapping[str, str]:
        if self.shard is None or self.shard > 1:
            return {}
        return dict.fromkeys(("reshard", "offload", "prefetch"), "with shard: 1, where weights are whole; remove it")
