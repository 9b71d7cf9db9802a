"""Uniform draws for many sample positions at once, each a pure function of (seed, position, purpose)."""

import hashlib

import numpy as np
from numpy.typing import NDArray

MANTISSA_BITS = 24
"""Draws are multiples of 2^-24, exact in float32."""


def seed_of(*parts: object) -> int:
    """Hash any values into a 64-bit seed."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def uniform(seed: int, positions: NDArray[np.int64], purpose: str) -> NDArray[np.float64]:
    """Draw from [0, 1) for each position, any shape: SplitMix64 (Steele et al. 2014, OOPSLA) with position as counter."""
    with np.errstate(over="ignore"):  # all of it is arithmetic modulo 2^64
        z = np.uint64(seed_of(seed, purpose)) + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(64 - MANTISSA_BITS)).astype(np.float64) / 2.0**MANTISSA_BITS


def permutation(count: int, *seed: object) -> NDArray[np.int64]:
    """Shuffle 0 .. count-1, as a pure function of the seed."""
    return np.random.Generator(np.random.Philox(seed_of(*seed))).permutation(count)
