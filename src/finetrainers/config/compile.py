"""The ``compile`` section: whether torch compiles what trains."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from finetrainers.config.base import Section


class CompileConfig(Section):
    """Whether torch.compile compiles the denoiser: steps are faster, but the first ones take minutes."""

    kind: Literal["none", "regional", "full"] = "none"
    """What is compiled: nothing, the repeated blocks (one graph serves all blocks of a kind), or the whole denoiser,
    which takes longer to compile and is slightly faster."""
    dynamic: bool = False
    """One graph for all sizes, instead of one for each bucket; its kernels may be slower."""
    max_graphs: int = Field(default=64, ge=1)
    """Largest number of graphs for one piece of code, over all buckets and prompts. One more ends the run, since each
    takes minutes to compile."""
    backend: str = "inductor"
    """Backend of torch.compile; aot_eager compiles no kernels and gives the same bits as no compilation."""

    def idle(self) -> Mapping[str, str]:
        others = ("dynamic", "max_graphs", "backend")
        return dict.fromkeys(others, "with kind: none; set regional or full, or remove it") if self.kind == "none" else {}
