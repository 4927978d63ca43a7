"""Frechet distance, kernel distance and Inception score on features: torchmetrics' own, fed with ours."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 100, 1000  # Binkowski et al. 2018 (arXiv:1801.01401)
_ALONE: dict[str, Any] = {
    "sync_on_compute": False
}  # every rank has all features: gathered again they would count twice
SCORE_SPLITS = 10  # Salimans et al. 2016 (arXiv:1606.03498)


class _Features(nn.Module):
    """A feature network for torchmetrics that takes features as they are."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to features (n, D) and (m, D) (Heusel et al. 2017)."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Features(real.shape[1]), **_ALONE)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    return float(metric.compute())


def kernel_distance(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """Squared MMD with the kernel (x.y / D + 1)^3, unbiased, mean over random subsets (Binkowski et al. 2018).

    real, fake: features (n, D), (m, D). May be slightly negative. Sets below 2,000 use subsets of half of them.
    """
    with _quiet_and_seeded(seed):
        from torchmetrics.image.kid import KernelInceptionDistance

        metric = KernelInceptionDistance(
            feature=_Features(real.shape[1]),
            subsets=KERNEL_SUBSETS,
            subset_size=kernel_subset(min(len(real), len(fake))),
            **_ALONE,
        )
        metric.update(real.float(), real=True)
        metric.update(fake.float(), real=False)
        return float(metric.compute()[0])


def kernel_subset(n: int) -> int:
    """Size of the subsets of n features that `kernel_distance` compares."""
    return max(2, min(KERNEL_SUBSET_SIZE, n // 2))


def inception_score(probabilities: Tensor, seed: int = 0) -> float:
    """exp(E KL(p(y|x) || p(y))) over class probabilities (n, K), mean of 10 splits (Salimans et al. 2016)."""
    with _quiet_and_seeded(seed):
        from torchmetrics.image.inception import InceptionScore

        metric = InceptionScore(feature=_Features(probabilities.shape[1]), splits=SCORE_SPLITS, **_ALONE)
        metric.update(probabilities.double().clamp_min(1e-38).log())
        return float(metric.compute()[0])


@contextmanager
def _quiet_and_seeded(seed: int) -> Iterator[None]:
    # torchmetrics permutes with the global generator and warns that it keeps features, which we hand it.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `", UserWarning)
        torch.manual_seed(seed)
        yield
