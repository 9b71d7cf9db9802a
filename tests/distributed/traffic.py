"""Counts the bytes that collectives of this process take or give, by kind; torch's own mode for it counts calls alone."""

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {
    "allreduce_": "all-reduce",
    "all_reduce": "all-reduce",
    "all_reduce_": "all-reduce",
    "allgather_": "all-gather",
    "_allgather_base_": "all-gather",
    "allgather_into_tensor_coalesced_": "all-gather",
    "all_gather_into_tensor": "all-gather",
    "all_gather_into_tensor_out": "all-gather",
    "reduce_scatter_": "reduce-scatter",
    "_reduce_scatter_base_": "reduce-scatter",
    "reduce_scatter_tensor_coalesced_": "reduce-scatter",
    "reduce_scatter_tensor": "reduce-scatter",
    "alltoall_": "all-to-all",
    "alltoall_base_": "all-to-all",
    "all_to_all_single": "all-to-all",
}
"""Of the operators of torch.distributed, both those that write and those that answer. A kind that is missing is an error."""
SILENT = {"wait_tensor", "_wrap_tensor_autograd", "barrier"}


class Traffic(TorchDispatchMode):
    """Sees the collectives while it is entered, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: Counter[str] = Counter()
        """Of the longer side of each collective: what is gathered, or what is reduced."""
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        if "c10d" not in space or name in SILENT:
            return answer
        sides = [args[0], answer if "functional" in space else args[1] if len(args) > 1 else None]
        sizes = [sum(each.nbytes for each in tree_leaves(side) if isinstance(each, Tensor)) for side in sides]
        self.bytes[KINDS[name]] += max(sizes)
        self.calls[KINDS[name]] += 1
        return answer
