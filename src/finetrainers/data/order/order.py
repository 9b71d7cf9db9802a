"""Which samples each optimizer step takes: a pure function of seed, step and the contents of the data sets.

A group is the samples of one data set in one bucket. Its stream is an endless series of shuffled passes; an epoch takes
``repeats`` times the group's size from it. A bucket's stream is, epoch by epoch, the shuffled draws of its groups, cut into
batches: the last few samples of an epoch stay in the stream and open the first batch of the next. Everything has a closed
form, so any step can be asked for at any time, and no state is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.order.draws import permutation
from finetrainers.errors import DataError

Indices = NDArray[np.int64]

EPOCHS_IN_MIND = 128
"""Epochs whose beginnings are remembered: more than a search for one of a million visits."""


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
        self._groups = [group for group in groups if len(group.samples)]
        if not self._groups:
            raise DataError("data: there is no sample to train on")
        rates = [Fraction(str(g.repeats)) * len(g.samples) for g in self._groups]
        self._rates = [(rate.numerator, rate.denominator) for rate in rates]  # many times faster than fractions
        self.buckets = sorted({group.bucket for group in self._groups})
        self._own = {b: [i for i, group in enumerate(self._groups) if group.bucket == b] for b in self.buckets}
        self._drawn = lru_cache(maxsize=EPOCHS_IN_MIND * len(self.buckets))(self._count_drawn)
        self._first_step = lru_cache(maxsize=EPOCHS_IN_MIND)(self._find_first_step)
        self._epoch = lru_cache(maxsize=2 * len(self.buckets) + 2)(self._make_epoch)
        self._batches = lru_cache(maxsize=2)(self._make_batches)
        self._pass = lru_cache(maxsize=2 * len(self._groups))(self._make_pass)

    def __reduce__(self) -> tuple[type["Order"], tuple[int, int, list[Group]]]:
        return Order, (self._seed, self.batch_size, self._groups)  # what is remembered of epochs stays behind

    def step(self, step: int) -> StepSamples:
        """Samples of an optimizer step, counted from 0; all of one bucket."""
        epoch = self.epoch_of(step)
        bucket, batch = self._batches(epoch)[step - self.first_step(epoch)]
        samples = self._stream(int(bucket), int(batch) * self.batch_size, (int(batch) + 1) * self.batch_size)
        return StepSamples(int(bucket), samples, step * self.batch_size + np.arange(self.batch_size))

    def samples_of(self, bucket: int) -> Indices:
        """All samples of a bucket, each once for each of its groups."""
        return np.concatenate([self._groups[index].samples for index in self._own[bucket]])

    def pick(self, bucket: int, draws: NDArray[np.float64]) -> Indices:
        """Pick a sample of a bucket by each of the draws [n] from [0, 1); all samples are as likely."""
        groups = [self._groups[index].samples for index in self._own[bucket]]
        ends = np.cumsum([len(samples) for samples in groups])
        places = (draws * ends[-1]).astype(np.int64)
        owners = np.searchsorted(ends, places, side="right")
        picked = np.empty(len(draws), np.int64)
        for number, samples in enumerate(groups):
            own = owners == number
            picked[own] = samples[places[own] - (ends[number] - len(samples))]
        return picked

    def _find_first_step(self, epoch: int) -> int:
        return sum(self._drawn(bucket, epoch) // self.batch_size for bucket in self.buckets)

    def first_step(self, epoch: int) -> int:
        """Return the number of full batches before an epoch."""
        return self._first_step(epoch)

    def epoch_of(self, step: int) -> int:
        """Epoch, counted from 0, in which a step's last sample comes."""
        low, high = 0, 1
        while self.first_step(high) <= step:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.first_step(middle) <= step else (low, middle)
        return low

    def starved(self, steps: int) -> list[int]:
        """Buckets that give no batch within the first ``steps`` steps."""
        if steps == 0:
            return []
        epoch = self.epoch_of(steps - 1)
        begun = [b for b in self.buckets if self._drawn(b, epoch) < self.batch_size]
        served = set(self._batches(epoch)[: steps - self.first_step(epoch), 0].tolist())
        return [b for b in begun if b not in served]

    def _count_drawn(self, bucket: int, epoch: int) -> int:
        """Samples of a bucket's stream before an epoch."""
        return sum(self._group_drawn(index, epoch) for index in self._own[bucket])

    def _group_drawn(self, index: int, epoch: int) -> int:
        numerator, denominator = self._rates[index]
        return epoch * numerator // denominator

    def _stream(self, bucket: int, start: int, stop: int) -> Indices:
        parts = []
        epoch = self._epoch_of_draw(bucket, start)
        while start < stop:
            offset, end = self._drawn(bucket, epoch), self._drawn(bucket, epoch + 1)
            parts.append(self._epoch(bucket, epoch)[start - offset : min(stop, end) - offset])
            start, epoch = min(stop, end), epoch + 1
        return np.concatenate(parts)

    def _epoch_of_draw(self, bucket: int, draw: int) -> int:
        low, high = 0, 1
        while self._drawn(bucket, high) <= draw:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._drawn(bucket, middle) <= draw else (low, middle)
        return low

    def _make_epoch(self, bucket: int, epoch: int) -> Indices:
        """All draws of a bucket in an epoch, shuffled."""
        drawn = [
            self._group_draws(index, self._group_drawn(index, epoch), self._group_drawn(index, epoch + 1))
            for index in self._own[bucket]
        ]
        samples = np.concatenate(drawn)
        return samples[permutation(len(samples), self._seed, "epoch", bucket, epoch)]

    def _group_draws(self, index: int, start: int, stop: int) -> Indices:
        group = self._groups[index]
        count, parts = len(group.samples), []
        while start < stop:
            number, offset = divmod(start, count)
            end = min(count, offset + stop - start)
            parts.append(group.samples[self._pass(index, number)[offset:end]])
            start += end - offset
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _make_pass(self, index: int, number: int) -> Indices:
        return permutation(len(self._groups[index].samples), self._seed, "pass", index, number)

    def _make_batches(self, epoch: int) -> Indices:
        """(bucket, batch of the bucket's stream) of each step of an epoch, shuffled: [steps, 2]."""
        parts = []
        for bucket in self.buckets:
            first, last = (self._drawn(bucket, e) // self.batch_size for e in (epoch, epoch + 1))
            batches = np.arange(first, last)
            parts.append(np.stack([np.full_like(batches, bucket), batches], axis=1))
        rows = np.concatenate(parts)
        return rows[permutation(len(rows), self._seed, "batches", epoch)]
