"""Which samples each optimizer step takes: a pure function of seed, step and the contents of the data sets.

A group is the samples of one data set in one bucket. Its stream is an endless series of shuffled passes; an epoch takes
``repeats`` times the group's size from it. A bucket's stream is, epoch by epoch, the shuffled draws of its groups, cut into
batches: the last few samples of an epoch stay in the stream and open the first batch of the next. Everything has a closed
form, so any step can be asked for at any time, and nothing is kept that grows with the number of samples.

Shape letters: G groups, K buckets, T steps, B batch size, n draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.order.draws import Indices as Indices, Keys, keys_of, seed_of, shuffled
from finetrainers.errors import DataError

EPOCHS_AT_ONCE = 64
"""Epochs whose steps are found in one go. Of twice as many the beginnings are remembered: more than a search for one of a
million visits."""

STEPS_AT_ONCE, DRAWS_AT_ONCE = 32, 4096
"""Most steps, and most draws of them, that are found when one step is asked for: the next ones then cost nothing."""


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of one data set in one bucket."""

    bucket: int
    """Number of what the samples of one optimizer step share, as the catalog counts it: the bucket, and sizes of pictures
    beside the media. Groups of several data sets may share one."""
    samples: Indices
    """Indices into whatever table the caller keeps."""
    repeats: float
    """Times that each sample comes in an epoch, on average."""


@dataclass(frozen=True, slots=True)
class StepSamples:
    """What one optimizer step takes."""

    bucket: int
    samples: Indices
    """[batch_size]."""
    positions: Indices
    """[batch_size]: the n of "the n-th sample that training sees"."""


class Order:
    """The samples of every optimizer step.

    Args:
        seed: Of the run.
        batch_size: Samples of one optimizer step, over all devices.
        groups: All of them; groups without samples are left out.

    Raises:
        DataError: If there is no sample at all.
    """

    def __init__(self, seed: int, batch_size: int, groups: Sequence[Group]) -> None:
        self.batch_size = batch_size
        self._seed = seed
        groups = sorted((group for group in groups if len(group.samples)), key=lambda group: group.bucket)
        if not groups:
            raise DataError("data: there is no sample to train on")
        self._repeats = [group.repeats for group in groups]
        self._of_group = np.array([group.bucket for group in groups])
        self._sizes = np.array([len(group.samples) for group in groups])
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._samples = _narrow(np.concatenate([group.samples for group in groups]))
        rates = [Fraction(str(g.repeats)) * len(g.samples) for g in groups]
        self._rates = [(rate.numerator, rate.denominator) for rate in rates]  # many times faster than fractions
        self._buckets, self._first_group = np.unique(self._of_group, return_index=True)
        self._pass_seeds = _seeds(seed, "pass", len(groups))
        self._epoch_seeds = _seeds(seed, "epoch", len(self._buckets))
        self._batch_seed = _seeds(seed, "batches", 1)
        self._counts = lru_cache(maxsize=2 * EPOCHS_AT_ONCE)(self._count)
        self._block = max(1, min(STEPS_AT_ONCE, DRAWS_AT_ONCE // batch_size))
        self._steps = lru_cache(maxsize=2)(lambda block: self._find(block * self._block, (block + 1) * self._block))

    def __reduce__(self) -> tuple[type["Order"], tuple[int, int, list[Group]]]:
        parts = np.split(self._samples, self._starts[1:])
        groups = [Group(*group) for group in zip(self._of_group.tolist(), parts, self._repeats, strict=True)]
        return Order, (self._seed, self.batch_size, groups)  # what is remembered of epochs stays behind

    @property
    def buckets(self) -> list[int]:
        """All that have samples, in ascending order."""
        return list(self._buckets.tolist())

    def step(self, step: int) -> StepSamples:
        """Samples of an optimizer step, counted from 0; all of one bucket."""
        buckets, samples = self.steps(step, step + 1)
        return StepSamples(int(buckets[0]), samples[0], step * self.batch_size + np.arange(self.batch_size))

    def steps(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """Buckets [T] and samples [T, B] of the optimizer steps from ``start`` to ``stop``: many at once are cheaper."""
        if stop - start == 1:
            block, row = divmod(start, self._block)
            buckets, samples = self._steps(block)
            return buckets[row : row + 1], samples[row : row + 1].copy()
        return self._find(start, stop)

    def _find(self, start: int, stop: int) -> tuple[Indices, Indices]:
        buckets, samples = np.empty(stop - start, np.int64), np.empty((stop - start, self.batch_size), np.int64)
        first = start
        while first < stop:
            epoch = self.epoch_of(first)
            last = min(stop, self.first_step(epoch + EPOCHS_AT_ONCE))
            place, batch, epochs = self._batches(epoch, first, last)
            rows = slice(first - start, last - start)
            buckets[rows] = self._buckets[place]
            draws = batch[:, None] * self.batch_size + np.arange(self.batch_size)
            place, epochs = (np.repeat(each, self.batch_size) for each in (place, epochs))
            samples[rows] = self._draw(place, draws.ravel(), epochs).reshape(draws.shape)
            first = last
        return buckets, samples

    def samples_of(self, bucket: int) -> Indices:
        """All samples of a bucket, each once for each of its groups."""
        return self._samples[self._of(bucket)].astype(np.int64)

    def pick(self, bucket: int, draws: NDArray[np.float64]) -> Indices:
        """Pick a sample of a bucket by each of the draws [n] from [0, 1); all samples are as likely."""
        samples = self._samples[self._of(bucket)]
        return samples[(draws * len(samples)).astype(np.int64)].astype(np.int64)

    def first_step(self, epoch: int) -> int:
        """Return the number of full batches before an epoch."""
        return self._counts(epoch)[2]

    def epoch_of(self, step: int) -> int:
        """Epoch, counted from 0, in which a step's last sample comes."""
        return _last(lambda epoch: self.first_step(epoch) <= step)

    def starved(self, steps: int) -> list[int]:
        """Buckets that give no batch within the first ``steps`` steps."""
        if steps == 0:
            return []
        epoch = self.epoch_of(steps - 1)
        begun = np.flatnonzero(self._counts(epoch)[1] < self.batch_size)
        served = self._batches(epoch, self.first_step(epoch), steps)[0] if len(begun) else begun
        return [int(bucket) for bucket in self._buckets[np.setdiff1d(begun, served)]]

    def _of(self, bucket: int) -> slice:
        """Where the samples of a bucket are: groups are sorted by their buckets."""
        own = np.flatnonzero(self._of_group == bucket)
        return slice(int(self._starts[own[0]]), int(self._starts[own[-1]] + self._sizes[own[-1]]))

    def _count(self, epoch: int) -> tuple[Indices, Indices, int]:
        """Draws of each group [G] and of each bucket [K] before an epoch, and the full batches of them."""
        groups = np.array([self._group_drawn(index, epoch) for index in range(len(self._rates))])
        buckets = np.add.reduceat(groups, self._first_group)
        return groups, buckets, int((buckets // self.batch_size).sum())

    def _group_drawn(self, index: int, epoch: int) -> int:
        numerator, denominator = self._rates[index]
        return epoch * numerator // denominator

    def _batches(self, epoch: int, start: int, stop: int) -> tuple[Indices, Indices, Indices]:
        """Number of the bucket, batch of its stream and epoch, each [T], of steps from one of the epoch on.

        The batches that a bucket completes in an epoch take turns with those of all others, in an order drawn for it.
        """
        epochs = np.arange(epoch, self.epoch_of(stop - 1) + 2)
        steps, first = np.arange(start, stop), np.array([self.first_step(each) for each in epochs.tolist()])
        complete = np.stack([self._counts(each)[1] // self.batch_size for each in epochs.tolist()])
        rows = np.searchsorted(first, steps, side="right") - 1
        keys = keys_of(self._batch_seed, epochs[rows])
        places = shuffled(steps - first[rows], np.diff(first)[rows], keys)
        bucket, batch = _owner(np.diff(complete, axis=0), rows, places)
        return bucket, complete[rows, bucket] + batch, epochs[rows]

    def _draw(self, bucket: Indices, draws: Indices, epochs: Indices) -> Indices:
        """Samples [n] of draws [n] from the streams of buckets [n], by number, for batches that are full in epochs [n]."""
        epochs, rows = np.unique(self._epochs_of(bucket, draws, epochs), return_inverse=True)
        before, after = (np.stack([self._counts(e + more)[0] for e in epochs.tolist()]) for more in (0, 1))
        counts = after - before
        first = np.add.reduceat(before, self._first_group, axis=1)
        in_bucket = np.add.reduceat(counts, self._first_group, axis=1)
        keys = keys_of(self._epoch_seeds[bucket], epochs[rows])
        places = shuffled(draws - first[rows, bucket], in_bucket[rows, bucket], keys)
        places += (np.cumsum(in_bucket, axis=1) - in_bucket)[rows, bucket]
        group, nth = _owner(counts, rows, places)
        number, places = np.divmod(before[rows, group] + nth, self._sizes[group])
        places = shuffled(places, self._sizes[group], keys_of(self._pass_seeds[group], number))
        found: Indices = self._samples[self._starts[group] + places].astype(np.int64)
        return found

    def _epochs_of(self, bucket: Indices, draws: Indices, epochs: Indices) -> Indices:
        """Epoch [n] of each draw [n] of a bucket [n]: that in which its batch is full, or one before, if few are drawn."""
        _, rows = np.unique(epochs, return_inverse=True)
        begins = np.stack([self._counts(epoch)[1] for epoch in np.unique(epochs).tolist()])
        early = np.flatnonzero(draws < begins[rows, bucket])
        early = early[np.lexsort((draws[early], bucket[early]))]
        epochs = epochs.copy()
        for group in np.split(early, np.flatnonzero(np.diff(bucket[early])) + 1):
            own = group
            while len(own):
                number = int(bucket[own[0]])
                epoch = self._epoch_of_draw(number, int(draws[own[0]]))
                count = np.searchsorted(draws[own], self._counts(epoch + 1)[1][number])
                epochs[own[:count]], own = epoch, own[count:]
        return epochs

    def _epoch_of_draw(self, bucket: int, draw: int) -> int:
        return _last(lambda epoch: int(self._counts(epoch)[1][bucket]) <= draw)


def _narrow(samples: Indices) -> NDArray[np.integer]:
    """Take half the memory where the numbers allow it."""
    return samples.astype(np.int32) if samples.max() < np.iinfo(np.int32).max else samples


def _seeds(seed: int, purpose: str, count: int) -> Keys:
    return np.array([seed_of(seed, purpose, number) for number in range(count)], np.uint64)


def _last(holds: Callable[[int], bool]) -> int:
    """Find the last number for which something holds that holds for 0, and for none after one for which it does not."""
    low, high = 0, 1
    while holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _owner(counts: Indices, rows: Indices, places: Indices) -> tuple[Indices, Indices]:
    """Say which count of its row [n] of ``counts`` [rows, N] each place [n] falls in, and which place of that it is."""
    ends = np.cumsum(counts)
    totals = counts.sum(axis=1)
    places = places + (np.cumsum(totals) - totals)[rows]
    owners = np.searchsorted(ends, places, side="right")
    return owners - rows * counts.shape[1], places - (ends - counts.ravel())[owners]
