"""Improved precision and recall: how many samples look real, how much of the real variety is reached.

Kynkaanniemi et al. 2019 (arXiv:1904.06991): a point lies in a set's manifold where it is nearer to one of the
set's points than that point's own k-th nearest neighbour. Own code: torchmetrics has no such metric.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEIGHBOURS = 3  # k of the paper
_ROWS = 1024  # of the distance matrix at a time


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of fakes inside the reals' manifold, of reals inside the fakes' manifold."""

    precision: float
    recall: float


def precision_recall(real: Tensor, fake: Tensor, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Of features (n, D) and (m, D), each more than k. O(n m) time, memory for 1,024 rows of distances."""
    return PrecisionRecall(_share_inside(fake, real, k), _share_inside(real, fake, k))


def _share_inside(points: Tensor, of: Tensor, k: int) -> float:
    radii = torch.cat([torch.cdist(some, of).kthvalue(k + 1, dim=1).values for some in torch.split(of, _ROWS)])
    inside = [(torch.cdist(some, of) <= radii).any(dim=1) for some in torch.split(points, _ROWS)]
    return float(torch.cat(inside).float().mean())
