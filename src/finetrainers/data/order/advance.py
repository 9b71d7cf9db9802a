"""How the data sets of a run with chapters advance: which shard is due next, and how far the sets of known items are then.

Without weights all sets do the same part of a pass, times ``repeats``. With weights all give the same number of samples,
times ``weight``, whatever their sizes. A set that is read shard by shard advances by whole shards.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from finetrainers.data.order.chapter import Begin, Known, Shards, Source


@dataclass(frozen=True, slots=True)
class Advance:
    """Counts shards and samples of data sets."""

    sources: tuple[Source, ...]

    @property
    def is_weighted(self) -> bool:
        """Whether the sets have weights: all have, or none."""
        return any(source.config.weight is not None for source in self.sources)

    def due(self, begin: Begin, listed: Mapping[int, Sequence[int]]) -> int:
        """Choose the data set whose next shard is due.

        Without weights it is the one that will have done the least of its pass then; with weights the one that has given
        least.

        Args:
            begin: Of the chapter.
            listed: By data set: items of each shard that the chapter has already.
        """
        due = []
        for number, _ in self._streamed():
            items = listed.get(number, ())
            done = begin.seen[number] + sum(items) if self.is_weighted else begin.taken[number] + len(items) + 1
            due.append((self._progress(number, done), number))
        return min(due)[1]

    def known(self, taken: Mapping[int, int], seen: Sequence[int]) -> dict[int, int]:
        """Count what has come of each set whose items are known, by the shards and the samples of the others."""
        if self.is_weighted:
            streamed = [number for number, _ in self._streamed()]
            done = sum(seen[number] for number in streamed) / sum((self._rate(number) for number in streamed), Fraction())
        else:
            done = max(self._progress(number, taken[number]) for number, _ in self._streamed())
        return {
            number: math.floor(done * self._rate(number) * (1 if self.is_weighted else len(source.data.item)))
            for number, source in enumerate(self.sources)
            if isinstance(source, Known)
        }

    def sizes(self, begin: Begin) -> list[int]:
        """Samples of each data set; of one that is read shard by shard by what its shards before, or all, had on average."""
        streamed = [number for number, _ in self._streamed()]
        every = Fraction(sum(begin.seen), max(1, sum(begin.taken[number] for number in streamed)))
        found = []
        for number, source in enumerate(self.sources):
            if isinstance(source, Known):
                found.append(len(source.data.item))
            else:
                taken = begin.taken[number]
                found.append(round(len(source.refs) * (Fraction(begin.seen[number], taken) if taken else every)))
        return found

    def asked(self, begin: Begin) -> list[float]:
        """Share of all samples that the configuration asks of each data set, by what is known of their sizes."""
        rates = [self._rate(number) for number in range(len(self.sources))]
        drawn = rates if self.is_weighted else [r * size for r, size in zip(rates, self.sizes(begin), strict=True)]
        return [float(each / (sum(drawn) or 1)) for each in drawn]

    def _progress(self, number: int, done: int) -> Fraction:
        """Epochs that are done when so many shards of a data set are taken; with weights, samples by unit of weight."""
        source = self.sources[number]
        whole = 1 if self.is_weighted or isinstance(source, Known) else len(source.refs)
        return Fraction(done, whole) / self._rate(number)

    def _rate(self, number: int) -> Fraction:
        config = self.sources[number].config
        return Fraction(str(config.repeats if config.weight is None else config.weight))

    def _streamed(self) -> list[tuple[int, Shards]]:
        return [(number, source) for number, source in enumerate(self.sources) if isinstance(source, Shards)]
