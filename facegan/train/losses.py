"""Adversarial losses on raw logits, a line each to check against its paper; computed in float32.

r and f are the logits of real and generated images; each loss is the mean over the batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from facegan.errors import UsageError


class Loss(NamedTuple):
    """What the discriminator minimises on real images and on generated ones, and what the generator minimises."""

    real: Callable[[Tensor, Tensor], Tensor]  # of r and its targets y, 1 without label smoothing
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    paired: bool = False  # r stands for r - f and f for f - r, of pairs


_BCE = Loss(F.binary_cross_entropy_with_logits, lambda f: F.softplus(f).mean(), lambda f: F.softplus(-f).mean())
LOSSES = {
    # Goodfellow et al. 2014, section 3, non-saturating: softplus(-r), softplus(f); softplus(-f)
    "bce": _BCE,
    # Goodfellow et al. 2014, equation 1
    "minimax": _BCE._replace(generator=lambda f: -F.softplus(f).mean()),
    # Arjovsky et al. 2017, equation 2
    "wasserstein": Loss(lambda r, y: -r.mean(), lambda f: f.mean(), lambda f: -f.mean()),
    # Mao et al. 2017, equation 9
    "lsgan": Loss(
        lambda r, y: (r - y).square().mean() / 2,
        lambda f: f.square().mean() / 2,
        lambda f: (f - 1).square().mean() / 2,
    ),
    # Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17
    "hinge": Loss(lambda r, y: F.relu(1 - r).mean(), lambda f: F.relu(1 + f).mean(), lambda f: -f.mean()),
    # Huang et al. 2024, equation 1: softplus(f - r), half of it from each of a pair; softplus(r - f)
    "relativistic": Loss(
        lambda r, y: F.softplus(-r).mean() / 2,
        lambda f: F.softplus(f).mean() / 2,
        lambda f: F.softplus(-f).mean(),
        paired=True,
    ),
}


def discriminator_loss(
    name: str, real_logits: Tensor, fake_logits: Tensor, real_labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss on real and on generated images, two scalars whose sum the discriminator minimises.

    real_logits, fake_logits: (B,). real_labels: (B,) targets of the real images in bce, minimax and lsgan, 1 where
    None; fixed or drawn, they smooth one side only (Salimans et al. 2016, section 3.4) and may exceed 1. Raises
    UsageError for an unknown name.
    """
    loss, r, f = _find(name), real_logits.float(), fake_logits.float()
    if loss.paired:
        r, f = r - f, f - r
    return loss.real(r, _targets(r, real_labels)), loss.fake(f)


def real_loss(name: str, logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """The discriminator's loss on real images alone, for an update of its own; UsageError for relativistic."""
    return _find(name, paired=False).real(logits.float(), _targets(logits, labels))


def fake_loss(name: str, logits: Tensor) -> Tensor:
    """The discriminator's loss on generated images alone, for an update of its own; UsageError for relativistic."""
    return _find(name, paired=False).fake(logits.float())


def generator_loss(name: str, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """The scalar the generator minimises; `real_logits` (B,) are needed by relativistic alone.

    Raises UsageError for an unknown name or where they are missing.
    """
    loss, f = _find(name, paired=real_logits is not None), fake_logits.float()
    return loss.generator(f - real_logits.float() if loss.paired and real_logits is not None else f)


def _find(name: str, *, paired: bool = True) -> Loss:
    if name not in LOSSES:
        raise UsageError(f"loss {name!r} does not exist; expected one of: {', '.join(LOSSES)}")
    if LOSSES[name].paired and not paired:
        raise UsageError(f"loss {name} compares pairs: it needs real and generated logits together")
    return LOSSES[name]


def _targets(logits: Tensor, labels: Tensor | None) -> Tensor:
    return torch.ones_like(logits, dtype=torch.float32) if labels is None else labels.float()
