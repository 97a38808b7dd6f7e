"""Random numbers that depend on what they are for, not on when they are drawn.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
counter and a key into four 32-bit words. Every number of a dataset has an address, so any image can be made
again alone, whatever the batch, the shard or the worker:

    key      = (seed low 32 bits, seed high 32 bits)
    counter  = (block, domain, sample, identity)

`block` counts groups of four words within one row; `domain` keeps purposes apart (`Domain`); `sample` and
`identity` name the picture. Numbers of one address never change: only the end of the row moves when more are
asked for.
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

from pyface.errors import ValueRangeError

__all__ = ["Domain", "normals", "permutation", "philox4x32", "uniforms", "words"]

Words = npt.NDArray[np.uint32]
Addresses = npt.ArrayLike

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


class Domain(enum.IntEnum):
    """What a random number is for. Values are part of the format of recipes: never renumber, only add."""

    IDENTITY = 1  # parameters of a rendered identity
    SAMPLE = 2  # expression, pose, light, background of one rendered picture
    LATENT = 3  # z of a generated picture
    NOISE = 4  # per-pixel noise of a generated picture
    CONDITION = 5  # conditions drawn for a generated picture
    SPLIT = 6  # order of identities when a dataset is split
    SHUFFLE = 7  # order of samples
    TRAINING = 8  # seeds of a training step's random numbers
    VARIATION = 9  # what a sample adds to the z of its identity


def philox4x32(counter: Any, key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Four uint32 words per counter: Philox4x32 with 10 rounds.

    Args:
        counter: four integers or integer arrays that broadcast, each in [0, 2^32).
        key: two integers in [0, 2^32).
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c).astype(np.uint64) for c in counter))
    k0, k1 = (int(k) for k in key)
    for _ in range(_ROUNDS):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _HALF) ^ c1 ^ np.uint64(k0)
        c1 = product1 & _LOW
        c2 = (product0 >> _HALF) ^ c3 ^ np.uint64(k1)
        c3 = product0 & _LOW
        k0 = (k0 + _WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0.astype(np.uint32), c1.astype(np.uint32), c2.astype(np.uint32), c3.astype(np.uint32)


def _address(values: Addresses, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueRangeError(
            f"{name} must be whole numbers; got {array.dtype}. Convert them with astype(int)."
        )
    if array.size and (int(array.min()) < 0 or int(array.max()) > 0xFFFFFFFF):
        raise ValueRangeError(f"{name} must lie in [0, 2^32); got {array.min()} to {array.max()}.")
    return np.atleast_1d(array.astype(np.int64))


def words(seed: int, domain: int, identity: Addresses, sample: Addresses, n: int) -> Words:
    """`n` random 32-bit words per (identity, sample): uint32 [N, n].

    Args:
        seed: of the dataset, in [0, 2^64).
        domain: purpose, see `Domain`; in [0, 2^32).
        identity: whole number or array [N] in [0, 2^32).
        sample: whole number or array [N] in [0, 2^32); broadcast against `identity`.
        n: words per row, at least 0.

    Raises:
        ValueRangeError: a number outside these ranges.
    """
    if not 0 <= int(seed) < 2**64:
        raise ValueRangeError(f"seed must lie in [0, 2^64); got {seed}.")
    if not 0 <= int(domain) < 2**32:
        raise ValueRangeError(f"domain must lie in [0, 2^32); got {domain}. Use pyface.io.rng.Domain.")
    if n < 0:
        raise ValueRangeError(f"n must be at least 0; got {n}.")
    identities, samples = np.broadcast_arrays(_address(identity, "identity"), _address(sample, "sample"))
    if identities.ndim != 1:
        raise ValueRangeError(f"identity and sample must have one axis; got {identities.ndim}. Flatten them.")
    blocks = np.arange((n + 3) // 4, dtype=np.uint64)[None, :]
    counter = (blocks, np.uint64(domain), samples[:, None], identities[:, None])
    four = philox4x32(counter, (int(seed) & 0xFFFFFFFF, int(seed) >> 32))
    return np.stack(four, axis=-1).reshape(len(identities), blocks.size * 4)[:, :n]


def uniforms(
    seed: int, domain: int, identity: Addresses, sample: Addresses, n: int
) -> npt.NDArray[np.float64]:
    """`n` uniform numbers per (identity, sample): float64 [N, n] in the open interval (0, 1).

    A word x becomes (x + 0.5) / 2^32, so neither 0 nor 1 occurs. Arguments and errors are those of `words`.

    >>> whole = uniforms(7, Domain.SAMPLE, [3, 4, 5], 0, 6)
    >>> bool((uniforms(7, Domain.SAMPLE, 4, 0, 6)[0] == whole[1]).all())
    True
    """
    return (words(seed, domain, identity, sample, n).astype(np.float64) + 0.5) * 2.0**-32


def normals(
    seed: int, domain: int, identity: Addresses, sample: Addresses, n: int
) -> npt.NDArray[np.float32]:
    """`n` standard normal numbers per (identity, sample): float32 [N, n].

    Box and Muller's transform in float64: a uniform pair (u, v) gives sqrt(-2 ln u) cos(2 pi v) and its twin
    with the sine.
    Arguments and errors are those of `words`.
    """
    u = uniforms(seed, domain, identity, sample, n + n % 2)
    radius = np.sqrt(-2.0 * np.log(u[:, 0::2]))
    angle = 2.0 * np.pi * u[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(u.shape)[:, :n].astype(np.float32)


def permutation(seed: int, domain: int, n: int) -> npt.NDArray[np.int64]:
    """A random order of 0..n-1: int64 [n]; two words of identity i are the 64-bit sort key of element i."""
    keys = words(seed, domain, np.arange(n), 0, 2).astype(np.uint64)
    order: npt.NDArray[np.int64] = np.argsort((keys[:, 0] << _HALF) | keys[:, 1], kind="stable")
    return order
