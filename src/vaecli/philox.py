"""Random draws that are the same on every machine: Philox bits, turned into numbers here.

What is drawn is a function of (seed, purpose, place) alone: not of the device, the batch, or how
many are drawn.  numpy keeps the raw bits of its counter-based generator Philox4x64 from version
to version, but not its normal draws; so the step from bits to normals is written out, in operations
that IEEE 754 defines to the bit.

Source of the bits: Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

_WORDS = 4
"""64-bit words of one count of the generator."""
_ROOT_HALF = math.sqrt(0.5)
_LOG_2 = 0.6931471805599453


def derive_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose, independent of the seeds of all others."""
    text = ":".join(map(str, (seed, purpose, *numbers))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def words(width: int, start: int, stop: int, *, seed: int, purpose: str) -> NDArray[np.uint64]:
    """Random bits of the places start..stop-1, as (stop - start, width) words of 64 bits.

    Args:
        width: words of a place.
        start: first place, from 0.
        stop: place after the last one.
        seed: any number.
        purpose: what the draws are for; other purposes draw other numbers.
    """
    counts = -(-width // _WORDS)
    generator = np.random.Philox(key=derive_seed(seed, purpose))
    generator.advance(start * counts)
    drawn = generator.random_raw((stop - start) * counts * _WORDS)
    return drawn.reshape(stop - start, counts * _WORDS)[:, :width]


def normal(width: int, start: int, stop: int, *, seed: int, purpose: str) -> NDArray[np.float32]:
    """Standard normal draws of the places start..stop-1, as (stop - start, width).

    Each is the normal quantile at a uniform of `uniform`.  Args as for `words`.

    Example:
        >>> normal(3, 0, 2, seed=0, purpose="example").shape
        (2, 3)
    """
    return quantile(uniform(width, start, stop, seed=seed, purpose=purpose)).astype(np.float32)


def uniform(width: int, start: int, stop: int, *, seed: int, purpose: str) -> NDArray[np.float64]:
    """Uniform draws between 0 and 1 of the places start..stop-1, (stop - start, width).

    The upper 52 bits r of a word give u = (r + 1/2) / 2^52, exactly.  Args as for `words`.
    """
    bits = words(width, start, stop, seed=seed, purpose=purpose) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) / 2**52


def binarize(
    pixels: NDArray[np.uint8], start: int, *, seed: int, purpose: str
) -> NDArray[np.uint8]:
    """Pixels (B, ...) of the places from `start` on as 0 or 255: 255 with probability x/255.

    White is where a level 0..254, the upper part of 255 times 32 random bits, is below the pixel.
    """
    size = math.prod(pixels.shape[1:])
    bits = words(-(-size // 2), start, start + len(pixels), seed=seed, purpose=f"{purpose} levels")
    halves = np.stack([bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)], -1)
    levels = (halves.reshape(len(pixels), -1)[:, :size] * np.uint64(255)) >> np.uint64(32)
    return (levels.reshape(pixels.shape) < pixels).astype(np.uint8) * np.uint8(255)


def quantile(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The normal quantile at u in (0, 1), to 1e-15 of its value.

    Source: Wichura 1988, algorithm AS 241 (PPND16), https://doi.org/10.2307/2347330

    Example:
        >>> quantile(np.array([0.5, 0.975])).round(6).tolist()
        [0.0, 1.959964]
    """
    q = u - 0.5
    centre = np.abs(q) <= 0.425
    r = 0.180625 - q * q
    result = q * _ratio(r, _CENTRE)
    tail = ~centre
    if tail.any():
        q = q[tail]
        # the distance of u from the nearer of 0 and 1, which 1 - u gives without rounding
        nearer = np.where(q < 0, u[tail], 1 - u[tail])
        r = np.sqrt(-_log(nearer))
        value = np.where(r <= 5, _ratio(r - 1.6, _MIDDLE), _ratio(r - 5, _FAR))
        result[tail] = np.where(q < 0, -value, value)
    return result


def _ratio(
    r: NDArray[np.float64], coefficients: tuple[tuple[float, ...], tuple[float, ...]]
) -> NDArray[np.float64]:
    above, below = (np.full_like(r, each[-1]) for each in coefficients)
    for a, b in zip(coefficients[0][-2::-1], coefficients[1][-2::-1], strict=True):
        above, below = above * r + a, below * r + b
    quotient: NDArray[np.float64] = above / below
    return quotient


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm in operations that are rounded alike everywhere, unlike `numpy.log`.

    With x = m 2^e and s = (m - 1) / (m + 1): log x = e log 2 + 2 (s + s^3/3 + s^5/5 + ...).
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < _ROOT_HALF
    mantissa = np.where(low, 2 * mantissa, mantissa)
    exponent = exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    square, series = s * s, np.zeros_like(s)
    for odd in range(23, 0, -2):
        series = series * square + 1 / odd
    logarithm: NDArray[np.float64] = exponent * _LOG_2 + 2 * s * series
    return logarithm


_CENTRE = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
_MIDDLE = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
_FAR = (
    (
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)
