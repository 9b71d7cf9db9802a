"""Numbers of the steps of a run as columns, and as few of them as a picture needs.

Shape letters: N steps, P points of a picture.
"""

import math
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetrainers.runs.log import Event

Column = npt.NDArray[np.float64]
SPARE = frozenset({"v"})


@dataclass(frozen=True, slots=True)
class Curves:
    """Columns [P] over one axis of steps: where several steps are one point, their mean, least and greatest."""

    steps: npt.NDArray[np.int64]
    """[P], the last step of each point."""
    mean: dict[str, Column]
    low: dict[str, Column]
    high: dict[str, Column]

    def plain(self) -> dict[str, object]:
        """Write as JSON takes it; what is not finite, or not known, is null."""
        columns = {"mean": self.mean, "low": self.low, "high": self.high}
        return {
            "steps": self.steps.tolist(),
            **{kind: {name: _plain(column) for name, column in own.items()} for kind, own in columns.items()},
        }


class Columns:
    """All step events of a run as growing columns, whatever numbers they have; of a step that came twice, the later."""

    def __init__(self) -> None:
        self._steps = array("q")
        self._columns: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, event: Event) -> bool:
        """Take a step event; say whether it took the place of others, that a run which was killed had come to."""
        step = int(event["step"])
        is_again = bool(self._steps) and step <= self._steps[-1]
        if is_again:
            self.cut(step - 1)
        before = len(self._steps)
        self._steps.append(step)
        for name, value in event.items():
            number = None if name in SPARE or name == "step" else _number(value)
            if number is not None:
                if name not in self._columns:
                    self._columns[name] = array("d", [math.nan]) * before
                self._columns[name].append(number)
        for column in self._columns.values():
            if len(column) == before:
                column.append(math.nan)
        return is_again

    def cut(self, step: int) -> None:
        """Forget all after a step."""
        kept = int(np.searchsorted(self.steps(), step, side="right"))
        del self._steps[kept:]
        for column in self._columns.values():
            del column[kept:]

    def steps(self) -> npt.NDArray[np.int64]:
        """All steps [N], in order."""
        return np.array(self._steps, dtype=np.int64)

    def column(self, name: str) -> Column:
        """All values [N] of a column; nan where a step has none."""
        return np.array(self._columns.get(name, [math.nan] * len(self)), dtype=np.float64)

    @property
    def names(self) -> list[str]:
        """Of all columns."""
        return list(self._columns)

    def curves(self, points: int, *, names: Collection[str] | None = None, after: int = -1) -> Curves:
        """Bring the columns of the given names, by default all, to at most so many points, of the steps after a step."""
        steps = self.steps()
        first = int(np.searchsorted(steps, after, side="right"))
        steps = steps[first:]
        columns = {name: self.column(name)[first:] for name in (self.names if names is None else names)}
        edges = np.unique(np.linspace(0, len(steps), min(points, len(steps)) + 1).astype(int))  # [P + 1]
        if len(steps) == 0:
            return Curves(steps, columns, dict(columns), dict(columns))
        starts = edges[:-1]
        return Curves(
            steps[edges[1:] - 1],
            {name: _means(column, starts) for name, column in columns.items()},
            {name: np.fmin.reduceat(column, starts) for name, column in columns.items()},
            {name: np.fmax.reduceat(column, starts) for name, column in columns.items()},
        )


def smooth(values: Column, *, weight: float) -> Column:
    """Running mean [N] that forgets, without the bias of its beginning; values that are not finite change nothing."""
    result, mean, total = np.full(len(values), math.nan), 0.0, 0.0
    for place, value in enumerate(values.tolist()):
        if math.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            total = weight * total + (1 - weight)
        if total:
            result[place] = mean / total
    return result


def _means(column: Column, starts: npt.NDArray[np.int64]) -> Column:
    """Mean [P] of the finite values of each part of a column; nan where a part has none."""
    is_finite = np.isfinite(column)
    counts = np.add.reduceat(is_finite.astype(np.int64), starts)
    sums = np.add.reduceat(np.where(is_finite, column, 0.0), starts)
    return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def _number(value: object) -> float | None:
    """Read a number as events.jsonl writes them: one that is not finite is a word."""
    if isinstance(value, int | float):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") and isinstance(value, str) else None


def _plain(column: Column) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in column.tolist()]


def numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Read the numbers of a mapping; what is none is left out."""
    found = {name: _number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}
