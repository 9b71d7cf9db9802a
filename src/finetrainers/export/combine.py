"""Several changes as one: exactly, by ranks side by side, or of a given rank."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from finetrainers.errors import ConfigError
from finetrainers.export.changes import Change, Kronecker, LowRank, difference, is_dora
from finetrainers.export.formats import Weights
from finetrainers.export.lowrank import Left, nearest

Weighted = Sequence[tuple[Mapping[str, Change], float]]
"""Changes by layer, and what they are multiplied by."""


def combined(adapters: Weighted, weights: Weights, *, rank: int | None, left: Left) -> dict[str, Change]:
    """Add changes up by layer.

    Args:
        adapters: What is added; with one whose weight is 1 and no rank, nothing changes.
        weights: Reads the base, which only magnitudes need.
        rank: Of the LoRA that is made of them; None adds their ranks, exactly.
        left: Is told what a given rank leaves.

    Raises:
        ConfigError: If they cannot be added exactly.
    """
    if len(adapters) == 1 and adapters[0][1] == 1.0 and rank is None:
        return dict(adapters[0][0])
    names = dict.fromkeys(layer for changes, _ in adapters for layer in changes)
    result: dict[str, Change] = {}
    for layer in names:
        own = [(changes[layer], factor) for changes, factor in adapters if layer in changes]
        if rank is None:
            result[layer] = _side_by_side(layer, own)
        else:
            matrix = total(layer, own, weights)
            result[layer] = low_rank = _shaped(nearest(matrix, rank), own[0][0])
            left.add(layer, matrix, low_rank)
    return result


def total(layer: str, own: Sequence[tuple[Change, float]], weights: Weights) -> Tensor:
    """Sum of what changes add to a layer's weight, [O, I] in float32."""
    weight = weights(layer) if any(is_dora(change) for change, _ in own) else None
    first, *others = own
    result = difference(first[0], weight).mul_(first[1])
    for change, factor in others:
        result.add_(difference(change, weight), alpha=factor)
    return result


def _side_by_side(layer: str, own: Sequence[tuple[Change, float]]) -> LowRank:
    downs, ups = [], []
    for change, factor in own:
        if isinstance(change, Kronecker) or change.magnitude is not None:
            kind = "LoKr" if isinstance(change, Kronecker) else "DoRA"
            raise ConfigError(f"--weights: {kind} of {layer} cannot be added exactly; give --rank N, of the LoRA it becomes")
        downs.append(change.down)
        ups.append(change.up * (factor * change.scale))
    return LowRank(torch.cat(downs), torch.cat(ups, dim=1), 1.0)


def _shaped(low_rank: LowRank, like: Change) -> LowRank:
    """Give the matrices of a convolution its shape."""
    if isinstance(like, LowRank) and like.down.ndim > 2:
        ones = (1,) * (like.down.ndim - 2)
        return LowRank(low_rank.down.unflatten(1, like.down.shape[1:]), low_rank.up.reshape(*low_rank.up.shape, *ones), 1.0)
    return low_rank
