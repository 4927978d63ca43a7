"""Does the discriminator know its training images by heart? Its scores on them against held-out reals."""

from typing import NamedTuple

import torch
from torch import Tensor


class Overfit(NamedTuple):
    """auc: probability that a training image scores above a held-out one; 0.5 is none, 1 is by heart.

    gap: difference of the mean scores in standard deviations of the held-out ones.
    """

    auc: float
    gap: float


def overfit(training: Tensor, held_out: Tensor) -> Overfit:
    """Of discriminator scores (n,) on training and (m,) on held-out real images, higher meaning more real.

    The AUC is the Mann-Whitney statistic, ties counting half.
    """
    order = held_out.sort().values
    below = torch.searchsorted(order, training) + torch.searchsorted(order, training, right=True)
    auc = below.double().mean() / (2 * len(held_out))
    gap = (training.mean() - held_out.mean()) / held_out.std().clamp_min(1e-12)
    return Overfit(float(auc), float(gap))
