"""Multi-scale structural similarity between pairs of generated images: a measure of variety.

Wang et al. 2003; between pairs of samples as in Odena et al. 2017 (arXiv:1610.09585) and Karras et al. 2018
(arXiv:1710.10196). A value above that of pairs of real images means that the samples are too much alike; it
says nothing about their quality. Own code because torchmetrics refuses images under 176 pixels; here, as in
the published figures, the 11x11 filter and its width shrink with the scale.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from facegan.errors import FaceganError
from facegan.metrics.ranks import Ranks

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, table 1; they do not sum to 1
FILTER, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

_BATCH = 512


def pair_similarity(images: Tensor, ranks: Ranks | None = None) -> float:
    """Mean MS-SSIM of the pairs (0, 1), (2, 3), ... of (n, C, H, W) uint8 images.

    Raises FaceganError for fewer than two images or sides below 16 pixels (five scales need them).
    """
    ranks = ranks or Ranks()
    pairs = len(images) // 2
    if not pairs or min(images.shape[2:]) < 2 ** (len(WEIGHTS) - 1):
        raise FaceganError(f"MS-SSIM needs two images of at least 16 pixels a side, found {tuple(images.shape)}")
    mine = torch.tensor(ranks.share(pairs))
    similarities = [ms_ssim(images[2 * some], images[2 * some + 1]) for some in torch.split(mine, _BATCH)]
    return float(ranks.gather(torch.cat(similarities), pairs).mean())


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of each pair of (n, C, H, W) images with values 0..255: (n,) in [0, 1]."""
    a, b = a.float(), b.float()
    product = torch.ones(len(a))
    for weight in WEIGHTS[:-1]:
        product = product * _ssim(a, b)[1].clamp(min=0) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return product * _ssim(a, b)[0].clamp(min=0) ** WEIGHTS[-1]


def _ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of each pair: (n,), (n,)."""
    rows, columns = (_gaussian(side, min(FILTER, *a.shape[2:])) for side in a.shape[2:])

    def blur(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    mean_a, mean_b = blur(a), blur(b)
    covariance = blur(a * b) - mean_a * mean_b
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    contrast = (2 * covariance + C2) / (variances + C2)
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def _gaussian(side: int, size: int) -> Tensor:
    """The Gaussian window of `size`, without padding, as a (side - size + 1, side) matrix."""
    places = torch.arange(size) - (size - 1) / 2
    window = torch.exp(-(places**2) / (2 * (SIGMA * size / FILTER) ** 2))
    window /= window.sum()
    matrix = torch.zeros(side - size + 1, side)
    for row in range(len(matrix)):
        matrix[row, row : row + size] = window
    return matrix
