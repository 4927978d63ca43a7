"""Counter-based random numbers: pure functions of (seed, use, position of the sample in the stream).

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") gives each sample its own block of the
counter, so nothing has to be carried along, and neither ranks nor batch size nor a restart change a number.
"""

import hashlib
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 32  # bytes of one Philox4x64 counter step


def _words(seed: int, use: str, position: int, n: int, count: int, dtype: type) -> NDArray[np.unsignedinteger]:
    """`count` unsigned integers of `dtype` for each of the samples position .. position + n - 1: (n, count)."""
    size = np.dtype(dtype).itemsize
    blocks = -(-count * size // _BLOCK)
    key = int.from_bytes(hashlib.sha256(f"{seed}/{use}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key, counter=position * blocks).random_raw(n * blocks * 4)
    return raw.view(dtype).reshape(n, -1)[:, :count]


def uniform(seed: int, use: str, position: int, n: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform numbers in [0, 1): (n, *shape) float32; row i belongs to sample `position + i`."""
    bits = _words(seed, use, position, n, math.prod(shape), np.uint32)
    return torch.from_numpy((bits >> 8).astype(np.float32) * np.float32(2**-24)).view(n, *shape)


def normal(seed: int, use: str, position: int, n: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal numbers: (n, *shape) float32, |x| < 5.8; row i belongs to sample `position + i`.

    Box and Muller 1958, in double precision: single precision would let the place of a number in its array,
    and so the number of ranks, change its last bit.
    """
    count = math.prod(shape)
    half = -(-count // 2)
    bits = (_words(seed, use, position, n, 2 * half, np.uint32) >> 8).astype(np.float64)
    radius = np.sqrt(-2 * np.log((bits[:, :half] + 1) * 2**-24))
    angle = bits[:, half:] * (2 * np.pi * 2**-24)
    pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return torch.from_numpy(pairs[:, :count].astype(np.float32)).view(n, *shape)


def keep_bits(seed: int, use: str, position: int, n: int, count: int, dropout: float) -> Tensor:
    """`count` bits a sample, 0 with probability `dropout` (in steps of 1/65536): (n, bytes) uint8, lowest first.

    Row i belongs to sample `position + i`; the last byte's spare bits mean nothing. A half needs one random bit.
    """
    if dropout == 0.5:
        return torch.from_numpy(_words(seed, use, position, n, -(-count // 8), np.uint8).copy())
    kept = _words(seed, use, position, n, count, np.uint16) >= round(dropout * 65536)
    return torch.from_numpy(np.packbits(kept, axis=1, bitorder="little"))


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
