"""An order that is written down: of the optimizer steps of a chapter.

Shape letters: T optimizer steps, B batch size, M samples of a chapter.
"""

import numpy as np
import numpy.typing as npt

from finetrainers.data.order.draws import Indices
from finetrainers.data.order.order import Order, StepSamples


class WrittenOrder(Order):
    """An order of some optimizer steps that is written down, from ``start`` to ``stop``."""

    def __init__(
        self, batch_size: int, start: int, buckets: Indices, samples: Indices, pool: tuple[Indices, Indices]
    ) -> None:
        """Take buckets [T] and samples [T, B], and of all that may stand in for others the buckets [M] and samples [M]."""
        self.batch_size, self.start, self.stop = batch_size, start, start + len(buckets)
        self._rows, self._pool = (buckets, samples), pool

    def __reduce__(  # type: ignore[override]
        self,
    ) -> "tuple[type[WrittenOrder], tuple[int, int, Indices, Indices, tuple[Indices, Indices]]]":
        return WrittenOrder, (self.batch_size, self.start, *self._rows, self._pool)

    @property
    def buckets(self) -> list[int]:
        return list(np.unique(self._rows[0]).tolist())

    def step(self, step: int) -> StepSamples:
        buckets, samples = self.steps(step, step + 1)
        return StepSamples(int(buckets[0]), samples[0], step * self.batch_size + np.arange(self.batch_size))

    def steps(self, start: int, stop: int) -> tuple[Indices, Indices]:
        if not self.start <= start <= stop <= self.stop:
            raise IndexError(f"steps {start} to {stop} of a chapter from {self.start} to {self.stop}")
        buckets, samples = (own[start - self.start : stop - self.start] for own in self._rows)
        return buckets.copy(), samples.copy()

    def samples_of(self, bucket: int) -> Indices:
        buckets, samples = self._pool
        found: Indices = samples[buckets == bucket]
        return found

    def pick(self, bucket: int, draws: npt.NDArray[np.float64]) -> Indices:
        samples = self.samples_of(bucket)
        return samples[(draws * len(samples)).astype(np.int64)]

    @property
    def stand_ins(self) -> range:
        return range(self.start, self.stop)

    def first_step(self, epoch: int) -> int:
        return self.start if epoch == 0 else self.stop

    def epoch_of(self, step: int) -> int:
        return 0

    def starved(self, steps: int) -> list[int]:
        return []
