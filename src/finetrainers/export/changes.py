"""What an adapter changes of one layer, whose weight is W [O, I], or [O, I, h, w] of a convolution.

Shape letters: O outputs, I inputs, R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from finetrainers.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LowRank:
    """W + scale * up @ down (LoRA); with a magnitude, its rows are brought to that length afterwards (DoRA)."""

    down: Tensor
    """[R, I], or [R, I, h, w]; peft's ``lora_A``."""
    up: Tensor
    """[O, R], or [O, R, 1, 1]; peft's ``lora_B``."""
    scale: float
    magnitude: Tensor | None = None
    """[O]."""

    @property
    def rank(self) -> int:
        """R."""
        return len(self.down)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I), and of a convolution (O, I h w)."""
        return len(self.up), self.down[:1].numel()

    def product(self) -> Tensor:
        """Scale * up @ down, [O, I] in float32."""
        return (self.scale * self.up.float().flatten(1)) @ self.down.float().flatten(1)


@dataclass(frozen=True, slots=True)
class Kronecker:
    """W + scale * kron(w1, w2) (LoKr)."""

    factors: Mapping[str, Tensor]
    """By LyCORIS's names: lokr_w1 [a, b], or lokr_w1_a [a, R] and lokr_w1_b [R, b]; so too w2 [c, d]. O = ac, I = bd."""
    scale: float

    @property
    def rank(self) -> int | None:
        """R of the second factor, or else of the first; None if both are whole."""
        inner = next((self.factors[name] for name in ("lokr_w2_b", "lokr_w1_b") if name in self.factors), None)
        return None if inner is None else len(inner)

    @property
    def shape(self) -> tuple[int, int]:
        """(O, I), and of a convolution (O, I h w)."""
        sizes = [self._size(name) for name in ("lokr_w1", "lokr_w2")]
        return sizes[0][0] * sizes[1][0], sizes[0][1] * sizes[1][1]

    def _size(self, name: str) -> tuple[int, int]:
        rows, columns = (self.factors[name if name in self.factors else f"{name}_{side}"] for side in "ab")
        return len(rows), columns[:1].numel()

    def product(self) -> Tensor:
        """Scale * kron(w1, w2), [O, I] in float32."""
        first, second = self._factor("lokr_w1"), self._factor("lokr_w2")
        if second.ndim > first.ndim:
            first = first[(...,) + (None,) * (second.ndim - first.ndim)]
        return torch.kron(self.scale * first, second).flatten(1)

    def _factor(self, name: str) -> Tensor:
        if name in self.factors:
            return self.factors[name].float()
        return self.factors[f"{name}_a"].float() @ self.factors[f"{name}_b"].float()


Change = LowRank | Kronecker


def is_dora(change: Change) -> bool:
    """Whether a change has a magnitude."""
    return isinstance(change, LowRank) and change.magnitude is not None


def difference(change: Change, weight: Tensor | None) -> Tensor:
    """What a change adds to a layer's weight, [O, I] in float32; a magnitude depends on the weight, nothing else does."""
    product = change.product()
    if isinstance(change, Kronecker) or change.magnitude is None:
        return product
    assert weight is not None, "a change with a magnitude has been asked for without the weight that it changes"
    check_fits(change, weight)
    before = weight.float().flatten(1)
    after = before + product
    return after * torch.div(change.magnitude.float(), after.norm(dim=1))[:, None] - before


def check_fits(change: Change, weight: Tensor) -> None:
    """Refuse a change of another layer than the one with this weight.

    Raises:
        ConfigError: If shapes differ.
    """
    stored = tuple(weight.flatten(1).shape)
    if stored != change.shape:
        raise ConfigError(
            f"--base: a layer has shape {list(stored)}, and the adapter changes {list(change.shape)}; name what it was "
            "trained from"
        )
