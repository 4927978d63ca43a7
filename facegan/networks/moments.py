"""Light and tints of whole images as in photographs: mean and covariance of images made small, matched.

What D tells G of brightness and colour is noisy, and an average of weights varies less than the weights do, so of
a generator's images made 8 px small some directions vary too little and others too much. In a training images stay
as they come. For the generator that is stored and shown, the moments of its own small images are measured, and the
affine map that takes them to the training pictures' with the least change is the network's last layer (as Pitie and
Kokaram 2007, doi:10.1049/cp:20070055, transfer colours; Olkin and Pukelsheim 1982).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# At most: a generator that has failed stays recognisable.
MOST = 1.25  # times which any direction is stretched or shrunk
FARTHEST = 0.025  # of the range, by which a mean is moved


class Moments(NamedTuple):
    """Of small images of d = C * side * side numbers, in the generator's range: float64, on the host."""

    mean: Tensor  # (d,)
    covariance: Tensor  # (d, d)
    spectrum: Tensor = torch.empty(0, dtype=torch.float64)  # `facegan.networks.spectrum`'s; empty is not known


class Matched(nn.Module):
    """What is fitted to pictures behind a generator: images (B, C, H, W) and a change, between `low` and `high`.

    In training, and while all its buffers are zero, images stay as they come.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return images
        return (images + self.added(images).to(images.dtype)).clamp(self.low, self.high)

    def added(self, images: Tensor) -> Tensor:
        """The change of images (B, C, H, W), in float32 at least."""
        raise NotImplementedError

    def leave(self) -> None:
        """Leave images as they come."""
        for buffer in self.buffers():
            buffer.zero_()


class MatchedMoments(Matched):
    """Light changed by an affine function of small images.

    side: of the small images, in blocks' means.
    """

    change: Tensor  # (d, d)
    bias: Tensor  # (d,)

    def __init__(self, channels: int, side: int, height: int, low: float, high: float) -> None:
        super().__init__(low, high)
        self.channels, self.side, self.factor = channels, side, height // side
        d = channels * side * side
        self.register_buffer("change", torch.zeros(d, d))
        self.register_buffer("bias", torch.zeros(d))

    def added(self, images: Tensor) -> Tensor:
        change = small_images(images, self.side) @ self.change + self.bias
        maps = change.view(-1, self.channels, self.side, self.side)
        return F.interpolate(maps, scale_factor=self.factor, mode="bilinear")

    def match(self, small: Tensor, wanted: Moments) -> None:
        """Take a generator's small images (n, d) to the moments `wanted`, as far as the bounds let it.

        What is changed is enlarged: of the coarsest light all arrives, of the finest, from one block to the next, a
        half to a quarter. Images that are not finite are left alone.
        """
        found = moments(small)
        if not found.covariance.isfinite().all():
            self.leave()
            return
        farthest = FARTHEST * (self.high - self.low)
        shift = (wanted.mean - found.mean).clamp(-farthest, farthest)
        change = linear_transport(found.covariance, wanted.covariance) - torch.eye(len(shift), dtype=shift.dtype)
        self.change.copy_(change)
        self.bias.copy_(shift - found.mean @ change)


def small_images(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W), H and W multiples of `side` -> means of blocks (B, C * side * side), in float32 at least."""
    exact = images if images.dtype == torch.float64 else images.float()
    small: Tensor = F.avg_pool2d(exact, (images.shape[2] // side, images.shape[3] // side))
    return small.flatten(1)


def moments(small: Tensor) -> Moments:
    """Of (n, d) small images."""
    small = small.double().cpu()
    return Moments(small.mean(0), torch.cov(small.T, correction=0))


def linear_transport(found: Tensor, wanted: Tensor, smallest: float = 1 / MOST, largest: float = MOST) -> Tensor:
    """The symmetric A with A found A = wanted, (..., d, d) float64, its eigenvalues kept within the bounds.

    Of all linear maps that take zero-mean Gaussians of the one covariance to the other it moves least.
    """
    largest_found = torch.linalg.eigvalsh(found).amax(-1, keepdim=True)
    least = largest_found.clamp_min(1e-12) * 1e-9  # what varies less does not vary at all
    root, inverse = _power(found, 0.5, least), _power(found, -0.5, least)
    product = root @ wanted @ root  # of two variances: its least are the squares of theirs
    values, vectors = torch.linalg.eigh(inverse @ _power(product, 0.5, least**2 * 1e-3) @ inverse)
    transport: Tensor = (vectors * values.clamp(smallest, largest)[..., None, :]) @ vectors.mT
    return transport


def _power(covariance: Tensor, exponent: float, least: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    power: Tensor = (vectors * (values.clamp_min(least) ** exponent)[..., None, :]) @ vectors.mT
    return power
