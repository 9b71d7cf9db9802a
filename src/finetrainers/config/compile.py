"""The ``compile`` section: whether torch compiles what trains."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from finetrainers.config.base import Section


class CompileConfig(Section):
    """Compile the denoiser with torch.compile. Steps become faster, but the first ones take minutes."""

    kind: Literal["none", "regional", "full"] = "none"
    """What to compile: nothing (``none``), the repeated blocks (``regional``: one graph serves all blocks of a kind), or the
    whole denoiser (``full``), which takes longer to compile and is slightly faster."""
    dynamic: bool = False
    """Use one graph for all sizes instead of one per bucket. Its kernels may be slower."""
    max_graphs: int = Field(default=64, ge=1)
    """Maximum number of graphs for one piece of code, over all buckets and prompts. One more ends the run, because each
    takes minutes to compile."""
    backend: str = "inductor"
    """Backend of torch.compile. ``aot_eager`` compiles no kernels and is bit-identical to no compilation."""

    def idle(self) -> Mapping[str, str]:
        others = ("dynamic", "max_graphs", "backend")
        return dict.fromkeys(others, "with kind: none; set regional or full, or remove it") if self.kind == "none" else {}
