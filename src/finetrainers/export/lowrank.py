"""LoRA of a given rank: the nearest to a change of any kind, by its singular values."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetrainers.export.changes import LowRank

EXACT_SIZE = 512
"""Smallest side of a matrix up to which all singular values are computed."""
OVERSAMPLING, POWER_STEPS = 16, 4
"""Of the randomized method (Halko et al., arXiv:0909.4061), which computes the largest alone."""


@dataclass(slots=True)
class Left:
    """What approximations left, as squared Frobenius norms by layer."""

    whole: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)

    def add(self, layer: str, matrix: Tensor, change: LowRank) -> None:
        """Count a layer."""
        self.whole[layer] = float(matrix.square().sum())
        self.left[layer] = float((matrix - change.product()).square().sum())

    @property
    def share(self) -> float:
        """Norm of what is left by the norm of all changes."""
        whole = sum(self.whole.values())
        return (sum(self.left.values()) / whole) ** 0.5 if whole else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The layer of which most is left, and its share."""
        shares = {layer: (self.left[layer] / whole) ** 0.5 if whole else 0.0 for layer, whole in self.whole.items()}
        layer = max(shares, key=lambda name: shares[name])
        return layer, shares[layer]


def nearest(matrix: Tensor, rank: int) -> LowRank:
    """The LoRA of a rank, or of fewer if they suffice, that is nearest to a change [O, I] in float32."""
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= max(EXACT_SIZE, 2 * rank):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # equal matrices give equal files
            u, s, rows = torch.svd_lowrank(matrix, q=min(rank + OVERSAMPLING, *matrix.shape), niter=POWER_STEPS)
            v = rows.T
    root = s[:rank].sqrt()
    return LowRank(down=(root[:, None] * v[:rank]).contiguous(), up=(u[:, :rank] * root).contiguous(), scale=1.0)
