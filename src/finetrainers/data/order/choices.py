"""Which sample each position shows, in which view and with which caption: pure functions of the seed and the position.

Shape letters: n positions.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.catalog.catalog import Catalog
from finetrainers.data.catalog.left_out import JOURNAL, BadViews
from finetrainers.data.order.draws import seed_of, shuffled, uniform
from finetrainers.data.order.order import Indices, Order
from finetrainers.errors import DataError

NO_CAPTION = -1
ATTEMPTS_BEFORE_A_COUNT = 64
"""Replacements that are drawn for a position before all samples of its bucket are looked at for a good one."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The draws of a run that say what its positions show."""

    catalog: Catalog
    seed: int
    bad: BadViews

    def at(self, order: Order, positions: Indices) -> tuple[Indices, NDArray[np.int32], NDArray[np.int32]]:
        """Sample, view and caption at positions [n] that follow each other, of whole optimizer steps.

        Raises:
            DataError: If there is no good sample in a bucket.
        """
        buckets, samples = order.steps(int(positions[0]) // order.batch_size, int(positions[-1]) // order.batch_size + 1)
        samples = samples.ravel()
        views, captions = self.of(samples, positions)
        if len(bad := self._bad_rows(order, samples, positions, views)):
            for row in np.unique(bad // order.batch_size).tolist() if len(order.stand_ins) else ():
                own = slice(row * order.batch_size, (row + 1) * order.batch_size)
                buckets[row], samples[own] = self._possible(order, int(buckets[row]), samples[own], positions[own])
            samples = self._replaced(order, samples, positions, np.repeat(buckets, order.batch_size))
            views, captions = self.of(samples, positions)
        return samples, views, captions

    def of(self, samples: Indices, positions: Indices) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """View and caption of each sample [n] at its position [n]; caption NO_CAPTION where it is dropped."""
        views, captions = np.zeros(len(samples), np.int32), np.zeros(len(samples), np.int32)
        view, dropout, caption = (uniform(self.seed, positions, p) for p in ("view", "dropout", "caption"))
        start = 0
        for data in self.catalog.sets:
            own = (samples >= start) & (samples < start + len(data.item))
            counts = data.num_captions[data.item[samples[own] - start]]
            views[own] = (view[own] * data.config.num_views).astype(np.int32)
            captions[own] = (caption[own] * counts).astype(np.int32)
            captions[own & (dropout < data.config.caption_dropout)] = NO_CAPTION
            start += len(data.item)
        return views, captions

    def num_replaced(self, order: Order, steps: range) -> int:
        """How many positions of these steps show another sample than the order has there."""
        if not len(self.bad.codes) or not steps:
            return 0
        positions = np.arange(steps.start * order.batch_size, steps.stop * order.batch_size)
        samples = order.steps(steps.start, steps.stop)[1].ravel()
        return len(self._bad_rows(order, samples, positions, self.of(samples, positions)[0]))

    def _bad_rows(self, order: Order, samples: Indices, positions: Indices, views: NDArray[np.int32]) -> Indices:
        return self.bad.rows(samples, views, positions // order.batch_size)

    def _replaced(self, order: Order, samples: Indices, positions: Indices, buckets: Indices) -> Indices:
        """Let another sample of the same bucket stand in for each bad one [n], drawn for its position."""
        rows = np.arange(len(samples))
        for attempt in itertools.count():
            views, _ = self.of(samples[rows], positions[rows])
            rows = rows[self._bad_rows(order, samples[rows], positions[rows], views)]
            if not len(rows):
                break
            if attempt and attempt % ATTEMPTS_BEFORE_A_COUNT == 0:
                self._check_bucket(order, int(buckets[rows[0]]), int(positions[rows[0]]))
            draws = uniform(self.seed, positions[rows], f"replacement {attempt}")
            for bucket in np.unique(buckets[rows]):
                own = buckets[rows] == bucket
                samples[rows[own]] = order.pick(int(bucket), draws[own])
        return samples

    def _possible(self, order: Order, bucket: int, samples: Indices, positions: Indices) -> tuple[int, Indices]:
        """Let another step stand in for one at positions [B] whose bucket has too few good samples: bucket, samples [B]."""
        exhausted = set[int]()
        if self._has_good(order, bucket, positions):
            return bucket, samples
        count, first = len(order.stand_ins), order.stand_ins.start
        seed = seed_of(self.seed, "step", int(positions[0]) // order.batch_size)
        for place in shuffled(np.arange(count), np.array(count), np.array(seed, np.uint64)).tolist():
            (other,), others = order.steps(first + place, first + place + 1)
            if other != bucket and other not in exhausted:
                if self._has_good(order, int(other), positions):
                    return int(other), others[0]
                exhausted.add(int(other))
        return bucket, samples

    def _has_good(self, order: Order, bucket: int, positions: Indices) -> bool:
        """Whether a good sample of a bucket can stand at each of these positions."""
        samples = order.samples_of(bucket)
        if not np.isin(samples, self.bad.codes // self.bad.num_views).all():
            return True
        rows = (np.full(len(samples), position) for position in positions)
        return all(len(self._bad_rows(order, samples, at, self.of(samples, at)[0])) < len(samples) for at in rows)

    def _check_bucket(self, order: Order, bucket: int, position: int) -> None:
        """Raise if no sample of a bucket can stand at a position."""
        samples = order.samples_of(bucket)
        positions = np.full(len(samples), position)
        if len(self._bad_rows(order, samples, positions, self.of(samples, positions)[0])) == len(samples):
            raise DataError(
                f"data: no good sample is left in the {self.catalog.about_shape(int(samples[0]))}: its {len(samples)} "
                f"samples cannot be decoded or encoded, and {JOURNAL} in output_dir says why; fix the files, or delete "
                f"{JOURNAL} to have them tried again"
            )
