"""The repeated blocks of a denoiser, as its adapter names them."""

from collections.abc import Sequence

from torch import nn

from finetrainers.distributed.parallelize import plain_class


def named_blocks(denoiser: nn.Module, blocks: Sequence[str]) -> dict[str, nn.Module]:
    """Find the repeated blocks of a denoiser by the names of their classes, in the order of its modules."""
    return {name: module for name, module in denoiser.named_modules() if plain_class(module).__name__ in blocks}


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
    return any(plain_class(root.get_submodule(".".join(parts[:count]))).__name__ in blocks for count in range(1, len(parts)))
