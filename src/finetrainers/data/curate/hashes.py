"""Perceptual hashes, and which of millions of them are near a given one, without comparing all.

Shape letters: N items, W words of 64 bits, B bands, H and W pixels of a picture.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE, FREQUENCIES = 32, 8
"""Pixels of the small picture that is hashed, and frequencies of it in either direction that become bits."""
WORD_BITS = 64
Words = npt.NDArray[np.uint64]


def _cosines() -> npt.NDArray[np.float64]:
    """Rows 1 to FREQUENCIES of the discrete cosine transform (II) of SIDE values."""
    k, n = np.arange(1, FREQUENCIES + 1)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))


COSINES = _cosines()


def perceptual_hash(picture: npt.NDArray[np.uint8]) -> int:
    """Hash a picture [H, W, 3]: the signs of its low frequencies beside their median, 64 bits."""
    small = np.asarray(Image.fromarray(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    low = COSINES @ small @ COSINES.T
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class NearIndex:
    """Finds hashes [W words] within a distance of bits.

    Two that differ in at most d bits agree in at least one of d + 1 bands (Manku et al., WWW 2007): only those that share a
    band are compared. Takes 8 W + 4 B bytes an item.
    """

    def __init__(self, num_words: int, distance: int) -> None:
        self._distance = distance
        bounds = np.linspace(0, num_words * WORD_BITS, distance + 2).round().astype(int)
        self._bands = [range(a, b) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
        self._buckets: list[dict[int, array[int]]] = [{} for _ in self._bands]
        self._words = np.empty((1024, num_words), np.uint64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, words: Sequence[int]) -> None:
        """Take in a hash; its number is the count of those before it."""
        if self._size == len(self._words):
            self._words = np.concatenate([self._words, np.empty_like(self._words)])
        self._words[self._size] = words
        for bucket, key in zip(self._buckets, self._keys(words), strict=True):
            bucket.setdefault(key, array("I")).append(self._size)
        self._size += 1

    def nearest(self, words: Sequence[int]) -> tuple[int, int] | None:
        """Find the earliest hash within the distance; its number and how many bits differ, or None."""
        best: tuple[int, int] | None = None
        wanted = np.array(words, np.uint64)
        for bucket, key in zip(self._buckets, self._keys(words), strict=True):
            if key not in bucket:
                continue
            numbers = np.array(bucket[key])
            differing = np.bitwise_count(self._words[numbers] ^ wanted).sum(axis=1, dtype=np.int64)
            hits = np.flatnonzero(differing <= self._distance)
            if len(hits) and (best is None or numbers[hits[0]] < best[0]):
                best = int(numbers[hits[0]]), int(differing[hits[0]])
        return best

    def _keys(self, words: Sequence[int]) -> list[int]:
        """Value [B] of each band of a hash."""
        bits = sum(word << (WORD_BITS * place) for place, word in enumerate(words))
        return [(bits >> band.start) & ((1 << len(band)) - 1) for band in self._bands]
