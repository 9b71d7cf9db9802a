"""Where each epoch of an order begins: how much is drawn before it.

Shape letters: G groups, K buckets, n draws.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from finetrainers.data.order.draws import Indices

EPOCHS_AT_ONCE = 64
"""Epochs whose steps are found in one go. Of twice as many the beginnings are remembered: more than a search for one of a
million visits."""


class Before(NamedTuple):
    """What is drawn before an epoch."""

    groups: Indices
    """[G] draws of each group."""
    buckets: Indices
    """[K] draws of each bucket."""
    steps: int
    """Full batches."""


class Epochs:
    """Counts of draws; groups that share a bucket follow each other.

    Args:
        rates: Draws of each group in an epoch, on average; over many epochs exactly.
        first_group: [K] where the groups of each bucket begin.
        batch_size: Samples of one optimizer step.
    """

    def __init__(self, rates: Sequence[Fraction], first_group: Indices, batch_size: int) -> None:
        self._rates = [(rate.numerator, rate.denominator) for rate in rates]  # many times faster than fractions
        self._first_group = first_group
        self._batch_size = batch_size
        self.before = lru_cache(maxsize=2 * EPOCHS_AT_ONCE)(self._count)

    def first_step(self, epoch: int) -> int:
        """Return the number of full batches before an epoch."""
        return self.before(epoch).steps

    def of_step(self, step: int) -> int:
        """Epoch, counted from 0, in which a step's last sample comes."""
        return _last(lambda epoch: self.first_step(epoch) <= step)

    def table(self, of: Literal["groups", "buckets"], epochs: Indices) -> Indices:
        """Draws before each of the epochs, of all groups or buckets: [epochs, G] or [epochs, K]."""
        rows = [getattr(self.before(epoch), of) for epoch in epochs.tolist()]
        return np.array(rows, np.int64).reshape(len(rows), -1)

    def of_draws(self, bucket: Indices, draws: Indices, epochs: Indices) -> Indices:
        """Epoch [n] of each draw [n] of a bucket [n]: that in which its batch is full, or one before, if few are drawn."""
        begun, rows = np.unique(epochs, return_inverse=True)
        early = np.flatnonzero(draws < self.table("buckets", begun)[rows, bucket])
        early = early[np.lexsort((draws[early], bucket[early]))]
        epochs = epochs.copy()
        for group in np.split(early, np.flatnonzero(np.diff(bucket[early])) + 1):
            own = group
            while len(own):
                number = int(bucket[own[0]])
                epoch = self._of_draw(number, int(draws[own[0]]))
                count = np.searchsorted(draws[own], self.before(epoch + 1).buckets[number])
                epochs[own[:count]], own = epoch, own[count:]
        return epochs

    def _of_draw(self, bucket: int, draw: int) -> int:
        return _last(lambda epoch: int(self.before(epoch).buckets[bucket]) <= draw)

    def _count(self, epoch: int) -> Before:
        groups = np.array([self._group_drawn(index, epoch) for index in range(len(self._rates))])
        buckets = np.add.reduceat(groups, self._first_group)
        return Before(groups, buckets, int((buckets // self._batch_size).sum()))

    def _group_drawn(self, index: int, epoch: int) -> int:
        numerator, denominator = self._rates[index]
        return epoch * numerator // denominator


def _last(holds: Callable[[int], bool]) -> int:
    """Find the last number for which something holds that holds for 0, and for none after one for which it does not."""
    low, high = 0, 1
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
