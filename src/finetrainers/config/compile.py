"""The ``compile`` section: whether torch compiles what trains."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from finetrainers.config.base import Section


class CompileConfig(Section):
    """Whether torch.compile makes kernels for the denoiser: faster steps, after minutes of compiling in the first ones."""

    kind: Literal["none", "regional", "full"] = "none"
    """What is compiled: nothing, the repeated blocks (one graph serves all blocks of a kind), or the whole denoiser, which
    takes longer to compile for a little more speed."""
    dynamic: bool = False
    """One graph for all sizes, in place of one for each bucket; its kernels may be slower."""
    max_graphs: int = Field(default=64, ge=1)
    """Graphs that one piece of code may be compiled to, over all buckets and prompts; one more ends the run, since each
    takes minutes."""
    backend: str = "inductor"
    """Backend of torch.compile; aot_eager compiles no kernels and computes the same bits as without."""

    def idle(self) -> Mapping[str, str]:
        others = ("dynamic", "max_graphs", "backend")
        return dict.fromkeys(others, "with kind: none; set regional or full, or remove it") if self.kind == "none" else {}
