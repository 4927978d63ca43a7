"""Sliced Wasserstein distance between sets of images, level by level of a Laplacian pyramid.

The protocol of Karras et al. 2018 (arXiv:1710.10196, section 5 and appendix), so numbers can be set beside
published ones made with as many images of the same crop: 128 patches of 7x7 an image and level, normalised per
channel on each side by itself, 4 x 128 random directions, the mean distance of the sorted projections times
1000, levels from the full resolution down to 16. No weights are downloaded and no network is involved.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.errors import FaceganError
from facegan.metrics.ranks import Ranks
from facegan.randomness import normal, uniform

PATCH = 7
PATCHES_PER_IMAGE = 128
REPEATS = 4
DIRECTIONS_PER_REPEAT = 128
SMALLEST_LEVEL = 16

_BATCH = 256  # images a pyramid is built of at a time
_DIRECTIONS_AT_ONCE = 32  # bounds the projections held: 0.27 GB a side for 16,384 images

Floats = NDArray[np.float32]


def sliced_wasserstein(real: Tensor, fake: Tensor, seed: int = 0, ranks: Ranks | None = None) -> dict[str, float]:
    """Distances (x 1000, lower is better) per level, named by its height, and their "mean".

    real, fake: (n, C, H, W) uint8, equally many. The patches and directions are functions of `seed`, and
    the patches of an image of its place alone. The ranks, each with all images, share the directions.
    Memory at the peak: 0.2 MB an RGB image whatever its size, so 3.5 GB for the 16,384 of the published protocol.
    Raises FaceganError where the two sets differ in count or size, or are too small for one level.
    """
    check(real, fake)
    distances = {}
    for level, height in enumerate(level_heights(*real.shape[2:])):
        distances[str(height)] = 1000 * _mean_distance(  # no names: a level's patches are freed before the next's
            descriptors(real, level, seed, "real"), descriptors(fake, level, seed, "fake"), seed, ranks or Ranks()
        )
    return {**distances, "mean": float(np.mean(list(distances.values())))}


def check(real: Tensor, fake: Tensor) -> None:
    """Raise FaceganError unless both are (n, C, H, W) uint8 of one shape and large enough."""
    if real.shape != fake.shape or real.dtype != torch.uint8 or fake.dtype != torch.uint8:
        raise FaceganError(
            f"the sliced Wasserstein distance takes two equal sets of uint8 images (n, C, H, W), "
            f"found {tuple(real.shape)} {real.dtype} and {tuple(fake.shape)} {fake.dtype}"
        )
    if min(real.shape[2:]) < SMALLEST_LEVEL or len(real) == 0:
        raise FaceganError(f"images of {tuple(real.shape)} are too few or below {SMALLEST_LEVEL} pixels")


def level_heights(height: int, width: int) -> list[int]:
    """Heights of the pyramid's levels: halved (rounding up) while the shorter side is at least 16."""
    heights = []
    while min(height, width) >= SMALLEST_LEVEL:
        heights.append(height)
        height, width = -(-height // 2), -(-width // 2)
    return heights


def descriptors(images: Tensor, level: int, seed: int, side: str) -> Floats:
    """Random 7x7 patches of one pyramid level, each channel with mean 0 and standard deviation 1.

    images: (n, C, H, W) uint8 -> (n * 128, C * 49) float32. A channel without any variation stays 0.
    """
    channels = images.shape[1]
    patches = np.empty((len(images) * PATCHES_PER_IMAGE, channels, PATCH * PATCH), np.float32)
    for start, band in _level(images, level):
        rows = slice(start * PATCHES_PER_IMAGE, (start + len(band)) * PATCHES_PER_IMAGE)
        patches[rows] = _cut(band, f"swd-{side}-{level}", seed, start)
    for channel in range(channels):  # in place and one by one: the set is large
        values = torch.from_numpy(patches[:, channel])
        std, mean = torch.std_mean(values, correction=0)
        values.sub_(mean).div_(std if std > 0 else 1)
    return patches.reshape(len(patches), -1)


def laplacian(images: Tensor, level: int) -> Tensor:
    """One level of the Laplacian pyramid of (B, C, H, W) float images; the last level is no difference."""
    last = len(level_heights(*images.shape[2:])) - 1
    for _ in range(level):
        images = _down(images)
    return images if level == last else images - _up(_down(images), images.shape)


def _level(images: Tensor, level: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(images), _BATCH):
        yield start, laplacian(images[start : start + _BATCH].float(), level)


def _cut(band: Tensor, use: str, seed: int, start: int) -> Floats:
    """128 patches of each image at uniform places: (B * 128, C, 49)."""
    n, channels, height, width = band.shape
    places = torch.tensor([height - PATCH + 1, width - PATCH + 1])
    corners = (uniform(seed, use, start, n, (PATCHES_PER_IMAGE, 2)) * places).long()
    windows = np.lib.stride_tricks.sliding_window_view(band.numpy(), (PATCH, PATCH), axis=(2, 3))
    rows, columns = corners.numpy().transpose(2, 0, 1)
    cut: Floats = windows[np.arange(n)[:, None], :, rows, columns]  # (B, 128, C, 7, 7)
    return cut.reshape(-1, channels, PATCH * PATCH)


def _mean_distance(real: Floats, fake: Floats, seed: int, ranks: Ranks) -> float:
    """Mean 1-Wasserstein distance of the two sets' projections on 512 random unit directions."""
    count = REPEATS * DIRECTIONS_PER_REPEAT
    directions = normal(seed, "swd-directions", 0, count, (real.shape[1],))
    directions /= directions.norm(dim=1, keepdim=True)
    mine = directions[list(ranks.share(count))]
    distances = []
    for some in torch.split(mine, _DIRECTIONS_AT_ONCE):
        gaps = _sorted(some, real)
        gaps -= _sorted(some, fake)
        distances.append(torch.from_numpy(np.abs(gaps, out=gaps).mean(axis=1, dtype=np.float64)))
    return float(ranks.gather(torch.cat(distances), count).mean())


def _sorted(directions: Tensor, points: Floats) -> Floats:
    """Sorted projections, one row a direction. NumPy's vector sort is 40 times torch's on a CPU (measured)."""
    projected: Floats = (directions @ torch.from_numpy(points).T).numpy()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(np.ndarray.sort, projected))
    return projected


def _binomial(side: int) -> Tensor:
    """The filter (1, 4, 6, 4, 1) / 16 with mirrored borders (cv2.pyrDown's), as a (side, side) matrix.

    Two small matrix products are 4 to 7 times as fast as the convolution (measured).
    """
    matrix = torch.zeros(side, side)
    for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        source = (torch.arange(side) + offset).abs()
        source = torch.where(source < side, source, 2 * (side - 1) - source)
        matrix[torch.arange(side), source] += weight / 16
    return matrix


def _down(images: Tensor) -> Tensor:
    height, width = images.shape[2:]
    return _binomial(height)[::2] @ images @ _binomial(width)[::2].T


def _up(images: Tensor, shape: torch.Size) -> Tensor:
    height, width = shape[2:]
    return 4 * _binomial(height)[:, ::2] @ images @ _binomial(width)[:, ::2].T
