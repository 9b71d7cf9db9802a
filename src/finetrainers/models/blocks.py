"""The repeated blocks of a denoiser, as its adapter names them."""

from collections.abc import Sequence

from torch import nn


def is_linear_in_block(root: nn.Module, name: str, blocks: Sequence[str]) -> bool:
    """Whether a module of this name is a plain linear layer inside of a block.

    Args:
        root: The denoiser.
        name: Of one of its modules.
        blocks: Class names of its repeated blocks.
    """
    if type(root.get_submodule(name)) is not nn.Linear:
        return False
    parts = name.split(".")
    return any(type(root.get_submodule(".".join(parts[:count]))).__name__ in blocks for count in range(1, len(parts)))
