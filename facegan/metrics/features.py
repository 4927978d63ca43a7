"""A fixed network of random convolutions: features to compare sets of images where no trained one may be had.

Random features keep texture and layout but know nothing of faces; distances on them order blur, noise and
missing variety, and are comparable only with themselves. They are called `randomnet` everywhere so that
nobody takes them for Inception features.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facegan.randomness import normal

Extract = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Extractor:
    """A function from uint8 images (B, C, H, W) to features (B, D), by name and by the hash of its weights."""

    name: str
    sha256: str
    extract: Extract

    def __call__(self, chunks: Iterable[Tensor]) -> Tensor:
        """Features of all images of the chunks: (n, D) float32 on the CPU."""
        return torch.cat([self.extract(images) for images in chunks])


class RandomNet(nn.Module):
    """Four 3x3 convolutions with stride 2 and the means of each on a grid: (B, C, H, W) uint8 -> (B, 1120)."""

    WIDTHS = (32, 64, 128, 128)
    GRIDS = (1, 1, 2, 2)  # the last two keep a layout of 2x2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList()
        width = channels
        for layer, out in enumerate(self.WIDTHS):
            drawn = normal(0, f"randomnet-{channels}-{layer}", 0, out, (width, 3, 3))
            scale = (2 / (9 * width)) ** 0.5  # He et al. 2015: keeps the scale of activations
            self.weights.append(nn.Parameter(drawn * scale, requires_grad=False))
            width = out

    def forward(self, images: Tensor) -> Tensor:
        x = images.float() / 127.5 - 1
        features = []
        for weight, grid in zip(self.weights, self.GRIDS, strict=True):
            x = F.leaky_relu(F.conv2d(x, weight, stride=2, padding=1), 0.2)
            features.append(F.adaptive_avg_pool2d(x, grid).flatten(1))
        return torch.cat(features, dim=1)


def randomnet(channels: int) -> Extractor:
    """The random feature network for images with so many channels; the same on every machine."""
    network = RandomNet(channels)
    digest = hashlib.sha256()
    for weight in network.weights:
        digest.update(weight.detach().numpy().tobytes())

    @torch.no_grad()
    def extract(images: Tensor) -> Tensor:
        features: Tensor = network(images.cpu())
        return features

    return Extractor("randomnet", digest.hexdigest(), extract)
