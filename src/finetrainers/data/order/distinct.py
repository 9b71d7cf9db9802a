"""What many optimizer steps show, each once: in pieces, so that planning takes little memory beside its result.

Shape letters: n choices.
"""

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.order.choices import NO_CAPTION, Choices
from finetrainers.data.order.order import Indices, Order

DRAWS_AT_ONCE = 1 << 21
"""Draws that are planned in one go: bounds the memory that planning takes beside its result."""


def distinct_choices(
    choices: Choices, order: Order, start: int, stop: int, rows: slice = slice(None)
) -> tuple[Indices, Indices, NDArray[np.int32], NDArray[np.int32]]:
    """Sample, position, view and caption, each [n], of some rows of the optimizer steps from ``start`` to ``stop``.

    Each of what they show comes once, at the position of its first use, in the order of those.
    """
    sets = choices.catalog.sets
    steps_at_once = max(1, DRAWS_AT_ONCE // order.batch_size)
    num_views = max(data.config.num_views for data in sets)
    num_choices = 1 + max(int(data.num_captions.max(initial=0)) for data in sets)
    known, found = np.empty(0, np.int64), [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for first in range(start, stop, steps_at_once):
        last = min(first + steps_at_once, stop)
        positions = np.arange(first * order.batch_size, last * order.batch_size)
        samples, views, captions = choices.at(order, positions)
        own = np.arange(len(positions)).reshape(-1, order.batch_size)[:, rows].ravel()
        samples, views, captions, positions = samples[own], views[own], captions[own], positions[own]
        codes = (samples * num_views + views) * num_choices + captions - NO_CAPTION
        values, uses = np.unique(codes, return_index=True)
        new = np.sort(uses[~_is_in(values, known)])
        found.append((codes[new], positions[new]))
        if last < stop:
            known = np.concatenate([known, codes[new]])
            known.sort(kind="stable")  # mostly sorted already
    codes, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
    del found, known
    captions = (codes % num_choices + NO_CAPTION).astype(np.int32)
    codes //= num_choices
    views = (codes % num_views).astype(np.int32)
    codes //= num_views
    return codes, positions, views, captions


def first_uses(codes: Indices) -> Indices:
    """Where each value comes for the first time, in ascending order."""
    _, first = np.unique(codes, return_index=True)
    first.sort()
    return first


def _is_in(codes: Indices, known: Indices) -> NDArray[np.bool_]:
    """Which codes are among the known ones; both are sorted, or the search would take many times longer."""
    places = np.searchsorted(known, codes)
    is_in: NDArray[np.bool_] = np.zeros(len(codes), np.bool_)
    inside = places < len(known)
    is_in[inside] = known[places[inside]] == codes[inside]
    return is_in
