"""Which samples each optimizer step takes: a pure function of seed, step and the contents of the data sets.

A group is the samples of one data set in one bucket. Its stream is an endless series of shuffled passes; an epoch takes
``repeats`` times the group's size from it. A bucket's stream is, epoch by epoch, the shuffled draws of its groups, cut into
batches: the last few samples of an epoch stay in the stream and open the first batch of the next. Everything has a closed
form, so any step can be asked for at any time, and nothing is kept that grows with the number of samples.

Shape letters: G groups, K buckets, T steps, B batch size, n draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from finetrainers.data.order.draws import Indices as Indices, Keys, keys_of, seed_of, shuffled
from finetrainers.data.order.epochs import EPOCHS_AT_ONCE, Epochs
from finetrainers.errors import DataError

ORDER_VERSION = 2
"""Raised when the same seed and data sets have another order than before."""
STEPS_AT_ONCE, DRAWS_AT_ONCE = 32, 4096
"""Most steps, and most draws of them, that are found when one step is asked for: the next ones then cost nothing."""
DRAWS_COUNTED_AT_ONCE = 1 << 20
"""Draws whose groups are counted in one go: bounds the memory that it takes."""


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of one data set in one bucket."""

    bucket: int
    """Number of what the samples of one optimizer step share, as the catalog counts it: the bucket, and sizes of pictures
    beside the media. Groups of several data sets may share one."""
    samples: Indices
    """Indices into whatever table the caller keeps."""
    repeats: float | Fraction
    """Times that each sample comes in an epoch, on average: of a float, the number that it is written as."""


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
        self._buckets, self._first_group = np.unique(self._of_group, return_index=True)
        self._epochs = Epochs(rates, self._first_group, batch_size)
        self._pass_seeds = _seeds(seed, "pass", len(groups))
        self._epoch_seeds = _seeds(seed, "epoch", len(self._buckets))
        self._batch_seed = _seeds(seed, "batches", 1)
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
            place, draws, epochs = self._draws(epoch, first, last)
            rows = slice(first - start, last - start)
            buckets[rows] = self._buckets[place[:: self.batch_size]]
            samples[rows] = self._samples_at(place, draws, epochs).reshape(-1, self.batch_size)
            first = last
        return buckets, samples

    def counts(self, steps: int) -> tuple[Indices, Indices]:
        """Count what the first ``steps`` steps take of each group [G]; and name one sample of each, by which it is known."""
        epoch = self.epoch_of(steps)
        drawn, in_bucket, first = self._epochs.before(epoch)
        waiting = in_bucket % self.batch_size  # for the first batches of the epoch
        places = np.repeat(np.arange(len(waiting)), waiting)
        draws = np.arange(len(places)) + np.repeat(in_bucket - np.cumsum(waiting), waiting)
        counts = drawn - self._count_groups(places, draws, np.full(len(places), epoch))
        while first < steps:
            last = min(steps, first + max(1, DRAWS_COUNTED_AT_ONCE // self.batch_size))
            counts += self._count_groups(*self._draws(epoch, first, last))
            first = last
        return counts, self._samples[self._starts].astype(np.int64)

    def samples_of(self, bucket: int) -> Indices:
        """All samples of a bucket, each once for each of its groups."""
        return self._samples[self._of(bucket)].astype(np.int64)

    def pick(self, bucket: int, draws: NDArray[np.float64]) -> Indices:
        """Pick a sample of a bucket by each of the draws [n] from [0, 1); all samples are as likely."""
        samples = self._samples[self._of(bucket)]
        return samples[(draws * len(samples)).astype(np.int64)].astype(np.int64)

    @property
    def stand_ins(self) -> range:
        """Steps that may come in the place of one whose bucket has no good sample left; none where that is an error."""
        return range(0)

    def first_step(self, epoch: int) -> int:
        """Return the number of full batches before an epoch."""
        return self._epochs.first_step(epoch)

    def epoch_of(self, step: int) -> int:
        """Epoch, counted from 0, in which a step's last sample comes."""
        return self._epochs.of_step(step)

    def starved(self, steps: int) -> list[int]:
        """Buckets that give no batch within the first ``steps`` steps."""
        if steps == 0:
            return []
        epoch = self.epoch_of(steps - 1)
        begun = np.flatnonzero(self._epochs.before(epoch).buckets < self.batch_size)
        served = self._batches(epoch, self.first_step(epoch), steps)[0] if len(begun) else begun
        return [int(bucket) for bucket in self._buckets[np.setdiff1d(begun, served)]]

    def _of(self, bucket: int) -> slice:
        """Where the samples of a bucket are: groups are sorted by their buckets."""
        own = np.flatnonzero(self._of_group == bucket)
        return slice(int(self._starts[own[0]]), int(self._starts[own[-1]] + self._sizes[own[-1]]))

    def _batches(self, epoch: int, start: int, stop: int) -> tuple[Indices, Indices, Indices]:
        """Number of the bucket, batch of its stream and epoch, each [T], of steps from one of the epoch on.

        The batches that a bucket completes in an epoch take turns with those of all others, in an order drawn for it.
        """
        epochs = np.arange(epoch, self.epoch_of(stop - 1) + 2)
        steps, first = np.arange(start, stop), np.array([self.first_step(each) for each in epochs.tolist()])
        complete = self._epochs.table("buckets", epochs) // self.batch_size
        rows = np.searchsorted(first, steps, side="right") - 1
        keys = keys_of(self._batch_seed, epochs[rows])
        places = shuffled(steps - first[rows], np.diff(first)[rows], keys)
        bucket, batch = _owner(np.diff(complete, axis=0), rows, places)
        return bucket, complete[rows, bucket] + batch, epochs[rows]

    def _draws(self, epoch: int, start: int, stop: int) -> tuple[Indices, Indices, Indices]:
        """Number of the bucket, draw of its stream and epoch in which its batch is full, each [T * B], of such steps."""
        bucket, batch, epochs = self._batches(epoch, start, stop)
        draws = batch[:, None] * self.batch_size + np.arange(self.batch_size)
        return np.repeat(bucket, self.batch_size), draws.ravel(), np.repeat(epochs, self.batch_size)

    def _samples_at(self, bucket: Indices, draws: Indices, epochs: Indices) -> Indices:
        """Samples [n] at draws [n] of the streams of buckets [n], whose batches are full in epochs [n]."""
        group, draws = self._groups_at(bucket, draws, epochs)
        number, places = np.divmod(draws, self._sizes[group])
        places = shuffled(places, self._sizes[group], keys_of(self._pass_seeds[group], number))
        found: Indices = self._samples[self._starts[group] + places].astype(np.int64)
        return found

    def _count_groups(self, bucket: Indices, draws: Indices, epochs: Indices) -> Indices:
        """Count such draws by group [G]."""
        groups = self._groups_at(bucket, draws, epochs)[0] if len(draws) else draws
        return np.bincount(groups, minlength=len(self._sizes))

    def _groups_at(self, bucket: Indices, draws: Indices, epochs: Indices) -> tuple[Indices, Indices]:
        """Group [n] that each such draw comes from, and the draw [n] of its stream that it is."""
        epochs, rows = np.unique(self._epochs.of_draws(bucket, draws, epochs), return_inverse=True)
        before, after = (self._epochs.table("groups", epochs + more) for more in (0, 1))
        counts = after - before
        first = np.add.reduceat(before, self._first_group, axis=1)
        in_bucket = np.add.reduceat(counts, self._first_group, axis=1)
        keys = keys_of(self._epoch_seeds[bucket], epochs[rows])
        places = shuffled(draws - first[rows, bucket], in_bucket[rows, bucket], keys)
        places += (np.cumsum(in_bucket, axis=1) - in_bucket)[rows, bucket]
        group, nth = _owner(counts, rows, places)
        return group, before[rows, group] + nth


def _narrow(samples: Indices) -> NDArray[np.integer]:
    """Take half the memory where the numbers allow it."""
    return samples.astype(np.int32) if samples.max() < np.iinfo(np.int32).max else samples


def _seeds(seed: int, purpose: str, count: int) -> Keys:
    return np.array([seed_of(seed, purpose, number) for number in range(count)], np.uint64)


def _owner(counts: Indices, rows: Indices, places: Indices) -> tuple[Indices, Indices]:
    """Say which count of its row [n] of ``counts`` [rows, N] each place [n] falls in, and which place of that it is."""
    ends = np.cumsum(counts)
    totals = counts.sum(axis=1)
    places = places + (np.cumsum(totals) - totals)[rows]
    owners = np.searchsorted(ends, places, side="right")
    return owners - rows * counts.shape[1], places - (ends - counts.ravel())[owners]
