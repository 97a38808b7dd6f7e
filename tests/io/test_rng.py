"""Philox gives its published answers, and a number depends on its address alone."""

import numpy as np
import pytest
from scipy import stats

from pyface.errors import ValueRangeError
from pyface.io.rng import Domain, normals, permutation, philox4x32, uniforms, words

# kat_vectors of Random123 (D. E. Shaw Research): counter, key, result
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert [int(w) for w in philox4x32(counter, tuple(key))] == expected


def test_counter_layout_is_as_documented():
    seed = 0x299F31D0A4093822
    row = words(seed, 0x85A308D3, 0x03707344, 0x13198A2E, 8)[0]
    for block in (0, 1):
        direct = philox4x32((block, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
        assert row[4 * block : 4 * block + 4].tolist() == [int(w) for w in direct]


@pytest.mark.parametrize("draw", [words, uniforms, normals])
def test_independent_of_batch_order_and_length(draw):
    identity, sample = np.repeat(np.arange(8), 4), np.tile(np.arange(4), 8)
    whole = draw(5, Domain.SAMPLE, identity, sample, 11)
    assert whole.shape == (32, 11)
    alone = np.concatenate(
        [draw(5, Domain.SAMPLE, int(i), int(s), 11) for i, s in zip(identity, sample, strict=True)]
    )
    np.testing.assert_array_equal(whole, alone)
    order = np.random.default_rng(0).permutation(32)
    np.testing.assert_array_equal(whole[order], draw(5, Domain.SAMPLE, identity[order], sample[order], 11))
    np.testing.assert_array_equal(whole[:, :6], draw(5, Domain.SAMPLE, identity, sample, 6))


def test_every_part_of_the_address_matters():
    base = {"seed": 1, "domain": Domain.IDENTITY, "identity": 2, "sample": 3, "n": 64}
    rows = [base] + [base | change for change in (
        {"seed": 2}, {"seed": 1 + 2**32}, {"domain": Domain.SAMPLE}, {"identity": 3}, {"sample": 2}
    )] + [base | {"identity": 3, "sample": 2}]  # fmt: skip
    drawn = [words(**row)[0] for row in rows]
    for i in range(len(drawn)):
        for j in range(i):
            assert not np.intersect1d(drawn[i], drawn[j]).size


def test_domains_are_distinct():
    assert len({int(d) for d in Domain}) == len(Domain)
    a, b = (normals(0, d, np.arange(4096), 0, 4) for d in (Domain.IDENTITY, Domain.SAMPLE))
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03


def test_distributions():
    u = uniforms(3, Domain.LATENT, np.arange(500), 0, 101).ravel()
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    z = normals(3, Domain.LATENT, np.arange(500), 0, 101)
    assert z.dtype == np.float32
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z[:, 0], z[:, 1])[0, 1]) < 0.15


def test_extreme_addresses_and_empty_requests():
    assert words(2**64 - 1, 2**32 - 1, 2**32 - 1, 2**32 - 1, 4).shape == (1, 4)
    assert uniforms(0, 0, np.zeros(0, int), 0, 4).shape == (0, 4)
    assert normals(0, 0, [1, 2], 0, 0).shape == (2, 0)


@pytest.mark.parametrize(
    "change",
    [{"seed": -1}, {"seed": 2**64}, {"identity": -1}, {"sample": 2**32}, {"domain": -1}, {"n": -1},
     {"identity": 0.5}, {"identity": np.zeros((2, 2), int)}],
)  # fmt: skip
def test_bad_addresses_are_refused(change):
    with pytest.raises(ValueRangeError, match=next(iter(change))):
        words(**({"seed": 0, "domain": 0, "identity": 0, "sample": 0, "n": 4} | change))


def test_permutation():
    order = permutation(4, Domain.SPLIT, 100)
    assert sorted(order.tolist()) == list(range(100))
    assert order.tolist() != list(range(100))
    assert order.tolist() != permutation(5, Domain.SPLIT, 100).tolist()
