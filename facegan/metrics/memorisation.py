"""Has the generator copied its training set? Nearest training images of samples, beside those of held-out reals.

A generator that has learned the distribution is as far from the training images as new real pictures are.
Distances are between 16x16 thumbnails, which sees copies through small shifts and noise, not copied parts.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

THUMBNAIL = 16
CLOSE_QUANTILE = 0.01


class Nearest(NamedTuple):
    """For each of n images: distance to its nearest training image, and that image's number."""

    distances: Tensor  # (n,) float32, root mean square over the thumbnail, 0..255
    indices: Tensor  # (n,) int64


class Memorisation(NamedTuple):
    """ratio: median distance of the samples over that of held-out reals; 1 is as new as new pictures, 0 copies.

    copies: share of samples nearer to a training image than all but 1 % of held-out reals are; 0.01 is normal.
    """

    ratio: float
    copies: float


def memorisation(fake: Nearest, held_out: Nearest) -> Memorisation:
    """Compare the samples' nearest training images with those of held-out real images."""
    limit = torch.quantile(held_out.distances, CLOSE_QUANTILE)
    ratio = fake.distances.median() / held_out.distances.median().clamp_min(1e-6)
    return Memorisation(float(ratio), float((fake.distances < limit).float().mean()))


def nearest(images: Tensor, training: Iterable[Tensor]) -> Nearest:
    """Nearest of the training images, which come in chunks (B, C, H, W) uint8, to each of `images` (n, C, H, W)."""
    queries = _thumbnails(images)
    best = torch.full((len(images),), float("inf"))
    indices = torch.zeros(len(images), dtype=torch.int64)
    first = 0
    for chunk in training:
        distances, places = torch.cdist(queries, _thumbnails(chunk)).min(dim=1)
        nearer = distances < best
        best = torch.where(nearer, distances, best)
        indices = torch.where(nearer, first + places, indices)
        first += len(chunk)
    return Nearest(best / queries.shape[1] ** 0.5, indices)


def _thumbnails(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images.float(), THUMBNAIL).flatten(1)
