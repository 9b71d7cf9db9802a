"""Uniform draws and random orders for many positions at once, each a pure function of a seed, position and purpose.

Shape letters: n positions.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Keys = NDArray[np.uint64]

MANTISSA_BITS = 24
"""Draws are multiples of 2^-24, exact in float32."""
GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: the step of the counter of SplitMix64."""
ROUNDS = 16
"""Of the Feistel network, an even number; with 16 all orders of six are equally likely, as far as 10^5 keys can tell."""
BLOCK = 1 << 14
"""Positions that are shuffled in one go, so that what is computed in between stays in the processor's cache."""


def seed_of(*parts: object) -> int:
    """Hash any values into a 64-bit seed."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def keys_of(seeds: Keys, numbers: Indices) -> Keys:
    """Hash seeds [n] and numbers [n] into 64-bit keys [n]: SplitMix64 (Steele et al. 2014, OOPSLA), number as counter."""
    with np.errstate(over="ignore"):  # all of it is arithmetic modulo 2^64
        z = seeds + numbers.astype(np.uint64) * np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys: Keys = z ^ (z >> np.uint64(31))
    return keys


def uniform(seed: int, positions: Indices, purpose: str) -> NDArray[np.float64]:
    """Draw from [0, 1) for each position, any shape."""
    z = keys_of(np.asarray(seed_of(seed, purpose), np.uint64), positions)
    return (z >> np.uint64(64 - MANTISSA_BITS)).astype(np.float64) / 2.0**MANTISSA_BITS


def shuffled(places: Indices, counts: Indices, keys: Keys) -> Indices:
    """Say what stands at places [n], each in the random order of 0 .. count-1 that its key gives.

    No order is ever stored: it is a Feistel network over the digits of the place in base about sqrt(count), and what lands
    beyond the count goes through it again (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    counts, keys = np.broadcast_to(counts, places.shape), np.broadcast_to(keys, places.shape)
    found = np.empty(len(places), np.int64)
    for first in range(0, len(places), BLOCK):
        part = slice(first, first + BLOCK)
        found[part] = _walk(places[part].astype(np.uint64), counts[part].astype(np.uint64), keys[part])
    return found


def shuffled_range(count: int, *seed: object) -> Indices:
    """Shuffle 0 .. count-1, as a pure function of the seed."""
    return shuffled(np.arange(count), np.array(count), np.array(seed_of(*seed), np.uint64))


def _walk(x: Keys, count: Keys, key: Keys) -> Keys:
    x = _encipher(x, count, key)
    beyond = np.flatnonzero(x >= count)
    while len(beyond):
        x[beyond] = _encipher(x[beyond], count[beyond], key[beyond])
        beyond = beyond[x[beyond] >= count[beyond]]
    return x


def _encipher(x: Keys, count: Keys, key: Keys) -> Keys:
    """Permute 0 .. a*b-1, where a*b is the count or little more."""
    a = np.ceil(np.sqrt(count)).astype(np.uint64)
    b = (count + a - np.uint64(1)) // a
    left = x // b
    right = x - left * b
    for number in range(0, ROUNDS, 2):
        _add(left, _mix(right, key, number), a)
        _add(right, _mix(left, key, number + 1), b)
    left *= b
    left += right
    return left


def _mix(half: Keys, key: Keys, number: int) -> Keys:
    """Hash a half of the digits into 32 bits, by the key and the number of the round."""
    z = half + key
    z += np.uint64((number + 1) * GOLDEN % 2**64)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z >>= np.uint64(32)
    return z


def _add(half: Keys, mixed: Keys, size: Keys) -> None:
    """Add 32 random bits to a half in place, scaled to and modulo its size."""
    mixed *= size
    mixed >>= np.uint64(32)
    half += mixed
    np.minimum(half, half - size, out=half)  # which wraps around, and is large, where the half is below its size
