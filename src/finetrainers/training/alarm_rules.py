"""When a run goes wrong: what alarms count, as functions of what steps and validations measured."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FLAT_STEPS = 100
"""Optimizer steps after warm-up in which a loss at fixed noise has to move."""
FLAT_CHANGE = 2e-4
"""Part of the first loss by which it has to."""
ZERO_STEPS = 20
"""Steps in a row whose gradient is zero."""
NORM_STEPS, RECENT_STEPS = 50, 5
"""Steps whose median is usual, and steps whose median is compared with it."""
JUMP, SPIKE = 10.0, 50.0
"""Times the usual norm: of the median of the recent steps, and of one step."""
LEARNT, NOT_LEARNT = 0.1, 0.1
"""Part of the first loss by which items have become easier on average, and part of that by which one has not even become."""
HARD = 1.5
"""Times the median of all items, which the loss of such an item is at least: one that was easy from the start is none."""
SEEN_EPOCHS = 3
"""Epochs that have begun before an item can count as never learnt."""
RISE = 0.02
"""Part of its lowest value by which a held-out loss is higher, in two validations in a row."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one validation measured."""

    held_out: Mapping[str, float]
    """Held-out loss by data set, or of all under one name where there is one set."""
    items: Mapping[str, tuple[str, float]]
    """Path and loss of items by key."""

    @property
    def losses(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """What is measured at fixed noise, by name: of held-out data, and of items."""
        return self.held_out, {key: loss for key, (_, loss) in self.items.items()}


def is_flat(first: Figures, now: Figures) -> bool:
    """Whether nothing that was measured at fixed noise both times has moved."""
    pairs = []
    for old, new in zip(first.losses, now.losses, strict=True):
        both = [name for name in old if name in new]
        if both:
            pairs.append((statistics.fmean(old[name] for name in both), statistics.fmean(new[name] for name in both)))
    return bool(pairs) and all(abs(new - old) < FLAT_CHANGE * abs(old) for old, new in pairs)


def never_learnt(first: Figures, later: Sequence[Figures]) -> list[str]:
    """Paths of items that stayed as hard as at first in all later validations, while items became easier on average."""
    found: set[str] | None = None
    for figures in later:
        falls = {
            key: 1 - loss / first.items[key][1]
            for key, (_, loss) in figures.items.items()
            if key in first.items and first.items[key][1] > 0
        }
        mean = statistics.fmean(falls.values()) if falls else 0.0
        hard = HARD * statistics.median(loss for _, loss in figures.items.values()) if figures.items else 0.0
        now = {
            key
            for key, fall in falls.items()
            if mean >= LEARNT and fall < NOT_LEARNT * mean and figures.items[key][1] >= hard
        }
        found = now if found is None else found & now
    return list(dict.fromkeys(first.items[key][0] for key in sorted(found or ())))


def is_rising(held_out: Sequence[float], training: Sequence[float]) -> bool:
    """Whether a held-out loss rose in the last two validations, while the training loss has fallen.

    Args:
        held_out: At each validation, the first at step 0.
        training: Mean loss of the steps before each of them; the first is that of none.
    """
    if len(held_out) < 4:  # two that rose, and the training loss of one interval before them
        return False
    lowest = min(range(len(held_out)), key=lambda n: held_out[n])
    if lowest > len(held_out) - 3 or min(held_out[-2:]) < (1 + RISE) * held_out[lowest]:
        return False
    return training[-1] < training[max(1, lowest)]


@dataclass(slots=True)
class Norms:
    """The gradient norms of the last steps."""

    last: deque[float] = field(default_factory=lambda: deque(maxlen=NORM_STEPS + RECENT_STEPS))
    num_zero: int = 0
    num_calm: int = NORM_STEPS
    """Steps since the last jump."""

    def add(self, norm: float, *, steps: int = 1) -> str | None:
        """Take the norm of a step, which may stand for several; say what it is if it jumps and has not done so lately."""
        self.num_zero = self.num_zero + steps if norm == 0 else 0
        self.last.append(norm)
        if len(self.last) < NORM_STEPS + RECENT_STEPS:
            return None
        values = list(self.last)
        usual, recent = statistics.median(values[:NORM_STEPS]), statistics.median(values[NORM_STEPS:])
        is_jump = usual > 0 and (recent > JUMP * usual or norm > SPIKE * usual)
        was_calm = self.num_calm >= NORM_STEPS
        self.num_calm = 0 if is_jump else self.num_calm + 1
        if not (is_jump and was_calm):
            return None
        return f"it is {norm:.3g}, and its median was {usual:.3g} before"
