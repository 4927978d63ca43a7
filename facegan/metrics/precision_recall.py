"""Precision, recall, density and coverage: how many samples look real, how much of the real variety is reached.

Kynkaanniemi et al. 2019 (arXiv:1904.06991): a point lies in a set's manifold where it is nearer to one of the
set's points than that point's own k-th nearest neighbour. Naeem et al. 2020
(arXiv:2002.09797) count instead of asking once, so that one outlier makes no manifold. Own code: torchmetrics
has no such metric.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 3  # k of Kynkaanniemi et al.
DENSITY_NEIGHBOURS = 5  # k of Naeem et al.
_ROWS = 1024  # of the distance matrix at a time


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of fakes inside the reals' manifold, of reals inside the fakes' manifold."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Of features (n, D) and (m, D), each more than k. O(n m) time, memory for 1,024 rows of distances."""
    return PrecisionRecall(_share_inside(fake, real, k), _share_inside(real, fake, k))


class DensityCoverage(NamedTuple):
    """density: how many real neighbourhoods a fake lies in, 1 for equal distributions, above 1 possible.

    coverage: share in [0, 1] of reals with a fake in their neighbourhood, 1 - 2^-k for equal distributions.
    """

    density: float
    coverage: float


def density_coverage(real: Tensor, fake: Tensor, k: int = DENSITY_NEIGHBOURS) -> DensityCoverage:
    """Of features (n, D) and (m, D), n more than k (Naeem et al. 2020, equations 4 and 6)."""
    radii = _radii(real, k)
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for some in torch.split(fake, _ROWS):
        hits = torch.cdist(some, real) <= radii
        inside += int(hits.sum())
        covered |= hits.any(dim=0)
    return DensityCoverage(inside / (k * len(fake)), float(covered.double().mean()))


def _radii(of: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other one."""
    return torch.cat([torch.cdist(some, of).kthvalue(k + 1, dim=1).values for some in torch.split(of, _ROWS)])


def _share_inside(points: Tensor, of: Tensor, k: int) -> float:
    radii = _radii(of, k)
    inside = [(torch.cdist(some, of) <= radii).any(dim=1) for some in torch.split(points, _ROWS)]
    return float(torch.cat(inside).float().mean())
