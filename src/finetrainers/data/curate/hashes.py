"""Perceptual hashes, and which of millions of them are near a given one, without comparing all.

Shape letters: N items, W words of 64 bits, B bands, H and W pixels of a picture.
"""

import itertools
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


class DigestIndex:
    """Finds the number of a digest (hexadecimal, 80 bits of it) among millions; takes 16 bytes an item."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(1 << 16)]

    def add(self, digest: str, number: int) -> None:
        """Take in a digest that is not there."""
        self._buckets[int(digest[:4], 16)].extend((int(digest[4:20], 16), number))

    def find(self, digest: str) -> int | None:
        """Find the number of a digest."""
        pairs = np.array(self._buckets[int(digest[:4], 16)]).reshape(-1, 2)
        hits = np.flatnonzero(pairs[:, 0] == int(digest[4:20], 16))
        return int(pairs[hits[0], 1]) if len(hits) else None


class NearIndex:
    """Finds items whose hashes [W words] all differ in at most ``distance`` bits.

    Two words that differ in d bits agree in at least one of d + 1 bands (Manku et al., WWW 2007): only items that share a
    band of their middle word are compared. Takes 8 W + 4 B bytes an item.
    """

    def __init__(self, num_words: int, distance: int) -> None:
        self._distance = distance
        bounds = np.linspace(0, WORD_BITS, distance + 2).round().astype(int).tolist()
        self._bands = [range(a, b) for a, b in itertools.pairwise(bounds)]
        self._buckets: list[dict[int, array[int]]] = [{} for _ in self._bands]
        self._words = np.empty((1024, num_words), np.uint64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, words: Sequence[int]) -> None:
        """Take in an item; its number is the count of those before it."""
        if self._size == len(self._words):
            self._words = np.concatenate([self._words, np.empty_like(self._words)])
        self._words[self._size] = words
        for bucket, key in zip(self._buckets, self._keys(words), strict=True):
            bucket.setdefault(key, array("I")).append(self._size)
        self._size += 1

    def earliest(self, words: Sequence[int]) -> tuple[int, int] | None:
        """Find the first item within the distance; its number and how many bits differ in all, or None."""
        best: tuple[int, int] | None = None
        wanted = np.array(words, np.uint64)
        for bucket, key in zip(self._buckets, self._keys(words), strict=True):
            if key not in bucket:
                continue
            numbers = np.array(bucket[key])
            differing = np.bitwise_count(self._words[numbers] ^ wanted)
            hits = np.flatnonzero((differing <= self._distance).all(axis=1))
            if len(hits) and (best is None or numbers[hits[0]] < best[0]):
                best = int(numbers[hits[0]]), int(differing[hits[0]].sum())
        return best

    def _keys(self, words: Sequence[int]) -> list[int]:
        """Value [B] of each band of the middle word."""
        word = words[len(words) // 2]
        return [(word >> band.start) & ((1 << len(band)) - 1) for band in self._bands]
