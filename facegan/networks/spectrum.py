"""Fine detail and fine colours as in photographs: the spectrum of images matched, frequency by frequency.

A generator gets the finest frequencies last, brightness too little of them and colours too much (photographs have
next to none: JPEG keeps colour at half size). For the generator that is stored and shown the energy of its images
is measured in each frequency of blocks of 8x8, and a small even kernel behind the network takes it near to that of
the training pictures. What `facegan.networks.moments` matches in blocks of 8x8 pixels is left alone.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from facegan.networks.convolution import without_autocast
from facegan.networks.moments import Matched, linear_transport

BLOCK = 8  # pixels; its k-th frequency is k / 16 cycles a pixel
MOST, LEAST = 1.6, 0.25  # times its amplitude that a frequency is to have at most and at least
UNCHANGED, WHOLLY = 1, 3  # frequencies up to the first are to stay, from the second on to change in full
STEADY = 64.0, 4.0  # how much more flat light and the next frequency count, along each side
FARTHEST = 1.0  # times its amplitude that any frequency may be changed by: none is turned round, none doubled


class MatchedSpectrum(Matched):
    """Frequencies changed by an even kernel; beyond an image its border is repeated.

    kernel: its side, odd.
    """

    weight: Tensor  # (C, C, kernel, kernel)

    def __init__(self, channels: int, kernel: int, low: float, high: float) -> None:
        super().__init__(low, high)
        self.border = kernel // 2
        self.register_buffer("weight", torch.zeros(channels, channels, kernel, kernel))

    def added(self, images: Tensor) -> Tensor:
        exact = images if images.dtype == torch.float64 else images.float()
        with without_autocast(images):
            around = F.pad(exact, (self.border,) * 4, mode="replicate")
            return F.conv2d(around, self.weight)

    def match(self, found: Tensor, wanted: Tensor) -> None:
        """Take images of the spectrum `found` towards the one `wanted`, both as `spectrum` has them.

        A kernel is too short to follow every step between frequencies. Where `wanted` is empty, or `found` not
        finite, images are left alone.
        """
        if not wanted.numel() or not found.isfinite().all():
            self.leave()
            return
        gains = linear_transport(found, wanted, LEAST, MOST)
        self.weight.copy_(even_kernel(gains - torch.eye(len(gains[0, 0]), dtype=gains.dtype), self.border))


def spectrum(images: Tensor) -> Tensor:
    """(B, C, H, W), H and W multiples of 8 -> (8, 8, C, C) float64 on the host: of each frequency of blocks of 8x8
    (the orthonormal DCT, Ahmed et al. 1974) the mean products of the channels' coefficients.
    """
    blocks = images.float().unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # (B, C, h, w, 8, 8)
    n = torch.arange(BLOCK, dtype=torch.float64)
    dct = torch.cos(math.pi / BLOCK * (n + 0.5) * n[:, None]) * math.sqrt(2 / BLOCK)
    dct[0] /= math.sqrt(2)
    dct = dct.to(blocks)
    with without_autocast(images):
        waves = (dct @ blocks @ dct.T).permute(4, 5, 1, 0, 2, 3).flatten(3)  # (8, 8, C, all blocks)
        products = waves @ waves.mT / waves.shape[3]
    return products.double().cpu()


def even_kernel(changes: Tensor, border: int) -> Tensor:
    """Kernel (C, C, k, k), k = 2 border + 1, that adds (8, 8, C, C) `changes` times a frequency's own amplitude.

    An even kernel's response is a sum of cosines. This one is nearest in the weighted mean square, and scaled down
    where it is farther from 0 than `FARTHEST`.
    """
    frequency = torch.arange(BLOCK, dtype=torch.float64)
    share = ((frequency - UNCHANGED) / (WHOLLY - UNCHANGED)).clamp(0, 1)
    share = torch.maximum(share[:, None], share)
    cosines = _responses(frequency, border)
    counts = torch.ones_like(frequency)
    counts[: len(STEADY)] = torch.tensor(STEADY)
    solve = torch.linalg.pinv(counts[:, None] * cosines) * counts  # (border + 1, 8)
    quarter = torch.einsum("ru,sv,uvcd->cdrs", solve, solve, changes * share[..., None, None])
    everywhere = _responses(torch.arange(2 * BLOCK + 1) / 2, border)
    response = torch.einsum("ur,vs,cdrs->uvcd", everywhere, everywhere, quarter)
    quarter = quarter * (FARTHEST / torch.linalg.eigvalsh(response).abs().amax()).clamp(max=1)
    mirrored = torch.arange(-border, border + 1).abs()
    kernel: Tensor = quarter[:, :, mirrored][:, :, :, mirrored]
    return kernel


def _responses(frequencies: Tensor, border: int) -> Tensor:
    """(n,) frequencies of blocks -> (n, border + 1): what each tap of an even kernel gives along one side."""
    cosines = torch.cos(math.pi / BLOCK * frequencies.double()[:, None] * torch.arange(border + 1))
    cosines[:, 1:] *= 2
    return cosines
