"""Counter-based random numbers: pure functions of (seed, use, position of the sample in the stream).

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") gives each sample its own block of the
counter, so nothing has to be carried along, and neither ranks nor batch size nor a restart change a number. Nor
does the device: drawn on a GPU they have the same bits, by `facegan.philox` and arithmetic that IEEE 754 rounds
alike everywhere.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from facegan.philox import philox

_BLOCK = 32  # bytes of one Philox4x64 counter step
_AT_ONCE = 1 << 16  # pairs of normals on a CPU, to stay in its cache
_CPU = torch.device("cpu")


def _words(
    seed: int, use: str, position: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Random integers of `dtype` for each of the samples position .. position + n - 1: `shape` is (n, count)."""
    n, count = shape
    blocks = -(-count * dtype.itemsize // _BLOCK)
    key = int.from_bytes(hashlib.sha256(f"{seed}/{use}".encode()).digest()[:16], "little")
    if device.type == "cpu":
        raw = np.random.Philox(key=key, counter=position * blocks).random_raw(n * blocks * 4)
        bits = torch.from_numpy(raw.view(np.int64))
    else:
        bits = philox(key, position * blocks + 1, n * blocks, device)  # NumPy counts before it draws
    return bits.view(dtype).view(n, -1)[:, :count]


def _fractions(seed: int, use: str, position: int, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Integers in [0, 2**24): int32 of `shape`, (n, count)."""
    return (_words(seed, use, position, shape, torch.int32, device) >> 8) & 0xFFFFFF


def uniform(
    seed: int, use: str, position: int, n: int, shape: tuple[int, ...] = (), device: torch.device = _CPU
) -> Tensor:
    """Uniform numbers in [0, 1): (n, *shape) float32; row i belongs to sample `position + i`."""
    return (_fractions(seed, use, position, (n, math.prod(shape)), device).float() * 2**-24).view(n, *shape)


def normal(
    seed: int, use: str, position: int, n: int, shape: tuple[int, ...] = (), device: torch.device = _CPU
) -> Tensor:
    """Standard normal numbers: (n, *shape) float32, |x| < 5.8; row i belongs to sample `position + i`.

    Box and Muller 1958, in double precision.
    """
    count = math.prod(shape)
    half = -(-count // 2)
    bits = _fractions(seed, use, position, (n, 2 * half), device)
    rows = max(_AT_ONCE // max(half, 1), 1) if device.type == "cpu" else max(n, 1)
    pairs = torch.cat([_normals(part) for part in torch.split(bits, rows)])
    return pairs[:, :count].reshape(n, *shape)


def keep_bits(
    seed: int, use: str, position: int, n: int, count: int, dropout: float, device: torch.device = _CPU
) -> Tensor:
    """`count` bits a sample, 0 with probability `dropout` (in steps of 1/65536): (n, bytes) uint8, lowest first.

    Row i belongs to sample `position + i`; the last byte's spare bits mean nothing. A half needs one random bit.
    """
    size = -(-count // 8)
    if dropout == 0.5:
        return _words(seed, use, position, (n, size), torch.uint8, device).clone()
    words = _words(seed, use, position, (n, 8 * size), torch.int16, device)
    if device.type == "cpu":  # the same bits, four times as fast
        kept_here = words.numpy().view(np.uint16) >= round(dropout * 65536)
        return torch.from_numpy(np.packbits(kept_here, axis=1, bitorder="little"))
    kept = (words.int() & 0xFFFF) >= round(dropout * 65536)
    return (kept.view(n, size, 8) << torch.arange(8, dtype=torch.uint8, device=device)).sum(-1, dtype=torch.uint8)


def mask_of_bits(bits: Tensor, shape: tuple[int, ...], dropout: float) -> Tensor:
    """Inverted dropout from `keep_bits`: (n, *shape) float32, 0 or 1 / (1 - dropout).

    Masks for maps (C, H, W) lie channels last in memory, as the maps do that they meet.
    """
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    kept = ((bits.unsqueeze(-1) >> places) & 1).flatten(1)[:, : math.prod(shape)].float()
    kept = kept * float(np.float32(1 / (1 - dropout)))
    if len(shape) != 3:
        return kept.view(len(bits), *shape)
    channels, height, width = shape
    return kept.view(len(bits), height, width, channels).permute(0, 3, 1, 2)


def keep_mask(seed: int, use: str, position: int, n: int, shape: tuple[int, ...], dropout: float) -> Tensor:
    """Inverted dropout, (n, *shape) float32: `mask_of_bits` of `keep_bits`."""
    return mask_of_bits(keep_bits(seed, use, position, n, math.prod(shape), dropout), shape, dropout)


# What follows is made of single sums, products, quotients and roots of doubles: those have the same bits on every
# device and machine, which the libraries' own logarithms and cosines have not.
_LOG = tuple(2 / (2 * k + 1) for k in range(11))  # of log((1 + s) / (1 - s)) / s by s^2, below 1e-17 for |s| < 0.18
_COS = tuple((-1) ** k / math.factorial(2 * k) for k in range(10))  # by x^2, below 1e-17 for |x| < pi / 4
_SIN = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(9))
_MANTISSA, _ONE = (1 << 52) - 1, 1023 << 52
_MANTISSA_OF_SQRT2 = 0x6A09E667F3BCD


def _normals(bits: Tensor) -> Tensor:
    """Normal numbers (n, 2 h) float32 of as many integers in [0, 2**24)."""
    first, second = bits.chunk(2, dim=1)
    radius = (-2 * _log((first + 1).double() * 2**-24)).sqrt()
    cosine, sine = _circle(second)
    return torch.cat([(radius * cosine).float(), (radius * sine).float()], dim=1)


def _log(x: Tensor) -> Tensor:
    """The logarithm of positive normal doubles."""
    bits = x.view(torch.int64)
    mantissa = bits & _MANTISSA
    above = (mantissa > _MANTISSA_OF_SQRT2).long()
    scaled = (mantissa | _ONE - (above << 52)).view(torch.float64)  # in [0.7, 1.42)
    s = (scaled - 1) / (scaled + 1)
    return ((bits >> 52) - 1023 + above).double() * math.log(2) + _polynomial(s * s, _LOG) * s


def _circle(turns: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2 pi turns / 2**24, for integers in [0, 2**24), as doubles."""
    shifted = turns + (1 << 21)
    quarter, rest = shifted >> 22 & 3, (shifted & (1 << 22) - 1) - (1 << 21)
    x = rest.double() * (2 * math.pi * 2**-24)
    z = x * x
    cosine, sine = _polynomial(z, _COS), _polynomial(z, _SIN) * x
    odd = quarter % 2 == 1
    across, along = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    return torch.where((quarter == 1) | (quarter == 2), -across, across), torch.where(quarter > 1, -along, along)


def _polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """c0 + c1 x + c2 x^2 ..., by Horner's rule; each product and each sum is rounded."""
    value = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value.mul_(x).add_(c)
    return value
