"""Draws from Philox bits: against a generator written from the paper, and the normal's own laws."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from vaecli import philox

MASK = 2**64 - 1


def philox4x64(counter: list[int], key: int) -> list[int]:
    """Ten rounds of Philox4x64 as Salmon et al. 2011 define it, in Python's own integers."""
    keys = [key & MASK, key >> 64]
    words = counter
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [
            (second >> 64) ^ words[1] ^ keys[0],
            second & MASK,
            (first >> 64) ^ words[3] ^ keys[1],
            first & MASK,
        ]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & MASK, (keys[1] + 0xBB67AE8584CAA73B) & MASK]
    return words


def test_the_bits_are_those_of_the_paper_at_any_place() -> None:
    key = philox.derive_seed(7, "test")
    drawn = philox.words(6, 5, 8, seed=7, purpose="test")
    for row, place in zip(drawn, range(5, 8), strict=True):
        counts = [2 * place + 1, 2 * place + 2]  # numpy counts from 1
        expected = [word for count in counts for word in philox4x64([count, 0, 0, 0], key)]
        assert row.tolist() == expected[:6]


def test_a_draw_depends_on_nothing_but_seed_purpose_and_place() -> None:
    whole = philox.normal(20, 0, 300, seed=1, purpose="a")
    assert np.array_equal(philox.normal(20, 77, 79, seed=1, purpose="a"), whole[77:79])
    assert philox.normal(20, 4, 4, seed=1, purpose="a").shape == (0, 20)
    for seed, purpose in ((2, "a"), (1, "b")):
        other = philox.normal(20, 0, 300, seed=seed, purpose=purpose)
        assert (other != whole).mean() > 0.99


def test_these_very_numbers_on_every_machine() -> None:
    """To the bit: the step from bits to normals uses nothing that a processor may round its way."""
    drawn = philox.normal(4, 0, 2, seed=0, purpose="samples")
    assert [value.hex() for value in drawn.ravel().tolist()] == PINNED


PINNED = [
    "-0x1.a593680000000p-1",
    "-0x1.0647e80000000p+1",
    "-0x1.5b85e80000000p-1",
    "-0x1.038f260000000p-2",
    "0x1.78471e0000000p-1",
    "-0x1.58d5040000000p+0",
    "0x1.5a25ba0000000p-2",
    "-0x1.bd6a420000000p+0",
]


def test_quantiles_are_those_of_the_standard_library() -> None:
    tails = 10.0 ** -np.arange(1, 16)
    u = np.concatenate([np.linspace(0.001, 0.999, 999), tails, 1 - tails, [2.0**-53]])
    expected = [NormalDist().inv_cdf(value) for value in u.tolist()]
    np.testing.assert_allclose(philox.quantile(u), expected, rtol=2e-15, atol=1e-15)


def test_the_logarithm_is_the_logarithm() -> None:
    x = np.concatenate([np.linspace(1e-3, 2, 9999), 2.0 ** -np.arange(0, 60)])
    expected = [math.log(value) for value in x.tolist()]
    np.testing.assert_allclose(philox._log(x), expected, rtol=4e-16, atol=1e-16)


def test_normals_have_the_moments_of_the_normal() -> None:
    z = philox.normal(8, 0, 50_000, seed=3, purpose="moments").astype(np.float64)
    n = z.size
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 4 * math.sqrt(variance / n)
    assert abs(np.corrcoef(z.T) - np.eye(8)).max() < 4 / math.sqrt(50_000)
    assert abs(np.corrcoef(z[1:, 0], z[:-1, 0])[0, 1]) < 4 / math.sqrt(50_000)


@pytest.mark.parametrize("level", [0, 1, 90, 254, 255])
def test_a_pixel_is_white_with_the_probability_of_its_level(level: int) -> None:
    pixels = np.full((400, 1, 10, 10), level, np.uint8)
    drawn = philox.binarize(pixels, 0, seed=0, purpose="test")
    assert {*np.unique(drawn)} <= {0, 255}
    share, p = float((drawn == 255).mean()), level / 255
    assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / drawn.size)
    assert np.array_equal(philox.binarize(pixels[7:9], 7, seed=0, purpose="test"), drawn[7:9])
