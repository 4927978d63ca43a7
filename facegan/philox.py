"""Philox4x64-10 as tensor operations: NumPy's bits (`numpy.random.Philox`), made on any device.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". Tensors have no unsigned words of 64 bits, so
signed ones stand for them: sums and products wrap alike, and a product's upper half is put together from halves.
"""

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def philox(key: int, counter: int, count: int, device: torch.device) -> Tensor:
    """The blocks `counter` .. `counter + count - 1` under a key of 128 bits: (count, 4) int64, all bits random."""
    first = _signed(counter)
    low = torch.arange(count, device=device) + first
    carry = (low ^ -(1 << 63)) < first ^ -(1 << 63)  # compared as unsigned words are
    words = [low, _signed(counter >> 64) + carry.long(), torch.zeros_like(low), torch.zeros_like(low)]
    keys = [key, key >> 64]
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = (_product(a, x) for a, x in zip(_MULTIPLIERS, words[::2], strict=True))
        words = [high1 ^ words[1] ^ _signed(keys[0]), low1, high0 ^ words[3] ^ _signed(keys[1]), low0]
        keys = [k + weyl for k, weyl in zip(keys, _WEYL, strict=True)]
    return torch.stack(words, dim=1)


def _product(a: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower 64 bits of `a` times each word of `x`."""
    a_low, a_high, x_low, x_high = a & _LOW, a >> 32, x & _LOW, _upper(x)
    middle = x_high * a_low + _upper(x_low * a_low)
    other = x_low * a_high + (middle & _LOW)
    return x_high * a_high + _upper(middle) + _upper(other), x * _signed(a)


def _upper(x: Tensor) -> Tensor:
    return (x >> 32) & _LOW


def _signed(word: int) -> int:
    """The lower 64 bits of `word` as a signed number."""
    return ((word & (1 << 64) - 1) ^ (1 << 63)) - (1 << 63)
