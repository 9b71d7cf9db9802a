"""What becomes of the weights of blocks while a denoiser is filled, module by module."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import nn

from finetrainers.models.blocks import named_blocks
from finetrainers.models.weights import Settle


class SettleBlocks(ABC):
    """Keeps weights of blocks otherwise than they were filled, as soon as each module is whole."""

    def __init__(self, blocks: Sequence[str], settle: Settle | None = None) -> None:
        """Take the class names of blocks, and what settles modules first."""
        self._blocks, self._settle = tuple(blocks), settle
        self._prefixes: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()

    def __call__(self, root: nn.Module, name: str) -> None:
        """Settle one module."""
        if self._settle is not None:
            self._settle(root, name)
        if root not in self._prefixes:
            self._prefixes[root] = tuple(f"{own}." for own in self.chosen(list(named_blocks(root, self._blocks))))
        if not f"{name}.".startswith(self._prefixes[root]):
            return
        held = root.get_submodule(name)._parameters
        for own, parameter in held.items():
            if parameter is not None:
                held[own] = self.kept(parameter)

    def chosen(self, names: Sequence[str]) -> Sequence[str]:
        """Choose blocks by their names, in their order; all of them by default."""
        return names

    @abstractmethod
    def kept(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return what is kept of a parameter."""
