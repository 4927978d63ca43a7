"""Light and tints of whole images, varied as in photographs: the covariance of images made small, matched.

What D tells G of brightness and colour is noisy, and an average of weights varies less than the weights do, so of
a generator's images made 8 px small some directions vary too little and others too much. In a training images stay
as they come. For the generator that is stored and shown, two covariances are measured, of its own images and of
the training pictures, and the linear map that takes one to the other with the least change is the network's last
layer (Pitie and Kokaram 2007, doi:10.1049/cp:20070055, as they transfer colours; Olkin and Pukelsheim 1982).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = 1.25  # times which any direction is stretched or shrunk, at most: a generator that fails stays recognisable


class MatchedCovariance(nn.Module):
    """Images (B, C, H, W) between `low` and `high`, their light changed by a linear function of their small images.

    side: of the small images, in blocks' means. Until `match`, and in training, nothing is changed.
    """

    mean: Tensor  # (d,) of small images, d = C * side * side
    change: Tensor  # (d, d): what is added to a small image less the mean, linear in it

    def __init__(self, channels: int, side: int, height: int, low: float, high: float) -> None:
        super().__init__()
        self.channels, self.side, self.factor, self.low, self.high = channels, side, height // side, low, high
        d = channels * side * side
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("change", torch.zeros(d, d))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return images
        small = small_images(images, self.side)
        change = ((small - self.mean) @ self.change).unflatten(1, (self.channels, self.side, self.side))
        large = F.interpolate(change, scale_factor=self.factor, mode="bilinear")
        return (images + large.to(images.dtype)).clamp(self.low, self.high)

    def leave(self) -> None:
        """Leave images as they come."""
        self.mean.zero_()
        self.change.zero_()

    def match(self, small: Tensor, wanted: Tensor) -> None:
        """Take the covariance of a generator's small images (n, d), n > 1, to `wanted` (d, d)."""
        transport = linear_transport(torch.cov(small.double().T).cpu(), wanted)
        self.mean.copy_(small.mean(0))
        self.change.copy_(transport - torch.eye(len(transport), dtype=torch.float64))


def small_images(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W), H and W multiples of `side` -> means of blocks (B, C * side * side), float32."""
    return F.avg_pool2d(images.float(), (images.shape[2] // side, images.shape[3] // side)).flatten(1)


def linear_transport(found: Tensor, wanted: Tensor) -> Tensor:
    """The symmetric A with A found A = wanted, (d, d) float64, its eigenvalues kept within 1/1.25 and 1.25.

    Of all linear maps that take zero-mean Gaussians of the one covariance to the other it moves least.
    """
    root, inverse = _power(found, 0.5), _power(found, -0.5)
    values, vectors = torch.linalg.eigh(inverse @ _power(root @ wanted @ root, 0.5) @ inverse)
    return (vectors * values.clamp(1 / MOST, MOST)) @ vectors.T


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    least = values.amax().clamp_min(1e-12) * 1e-9  # directions that do not vary at all
    return (vectors * values.clamp_min(least) ** exponent) @ vectors.T
