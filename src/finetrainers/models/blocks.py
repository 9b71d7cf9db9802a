"""The repeated blocks of a denoiser, as its adapter names them."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn

from finetrainers.distributed.parallelize import plain_class
from finetrainers.errors import ModelError


def named_blocks(denoiser: nn.Module, blocks: Sequence[str]) -> dict[str, nn.Module]:
    """Find the repeated blocks of a denoiser by the names of their classes, in the order of its modules."""
    return {name: module for name, module in denoiser.named_modules() if plain_class(module).__name__ in blocks}


def check_blocks_exist(denoiser: nn.Module, blocks: Sequence[str], adapter: str) -> None:
    """Refuse names of blocks that no module of a denoiser has; its weights are not looked at.

    A family may name those of other models of its own, whose classes stand in the same file of the library.

    Raises:
        ModelError: Naming the nearest class.
    """
    has = dict.fromkeys(type(module).__name__ for module in denoiser.modules())
    others = vars(sys.modules[type(denoiser).__module__])
    wrong = [name for name in blocks if name not in has and name not in others]
    if wrong or not any(name in has for name in blocks):
        name = wrong[0] if wrong else ", ".join(blocks)
        repeated = repeated_classes(denoiser)
        close = get_close_matches(name, repeated, n=1) or repeated or get_close_matches(name, has, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "name the class that it repeats"
        raise ModelError(f"{adapter}: blocks: {name!r} is the class of no module of {type(denoiser).__name__}; {hint}")


def repeated_classes(denoiser: nn.Module) -> list[str]:
    """Class names of the layers that a denoiser itself holds in lists: of several, or that its library calls blocks."""
    whole = getattr(denoiser, "_no_split_modules", None) or ()  # which diffusers' models have, or not
    lists = [[type(layer).__name__ for layer in own] for own in denoiser.children() if isinstance(own, nn.ModuleList)]
    return list(dict.fromkeys(name for names in lists for name in names if len(names) > 1 or name in whole))


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
