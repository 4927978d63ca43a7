"""Adversarial losses on raw logits, each a few lines to check against its paper; computed in float32.

| name | discriminator: on real, on fake | generator | source |
|---|---|---|---|
| bce | softplus(-r), softplus(f) | softplus(-f) | Goodfellow et al. 2014, section 3, non-saturating |
| minimax | the same | -softplus(f) | Goodfellow et al. 2014, equation 1 |
| wasserstein | -r, f | -f | Arjovsky et al. 2017, equation 2 |
| lsgan | (r - 1)^2 / 2, f^2 / 2 | (f - 1)^2 / 2 | Mao et al. 2017, equation 9 |
| hinge | relu(1 - r), relu(1 + f) | -f | Lim and Ye 2017; Miyato et al. 2018, equations 16, 17 |
| relativistic | softplus(f - r), pair by pair | softplus(r - f) | Huang et al. 2024, equation 1 |

r and f are the logits of real and generated images; each loss is the mean over the batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from facegan.errors import UsageError
from facegan.recipes.checks import LOSSES


def discriminator_loss(
    name: str, real_logits: Tensor, fake_logits: Tensor, real_labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The loss on real and on generated images, two scalars whose sum the discriminator minimises.

    real_logits, fake_logits: (B,). real_labels: (B,) targets of the real images in bce, minimax and lsgan, 1 where
    None; fixed or drawn, they smooth one side only (Salimans et al. 2016, section 3.4) and may exceed 1. Raises
    UsageError for an unknown name.
    """
    if name == "relativistic":
        half = F.softplus((fake_logits - real_logits).float()).mean() / 2  # each of a pair has half a share
        return half, half
    return real_loss(name, real_logits, real_labels), fake_loss(name, fake_logits)


def real_loss(name: str, logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """The discriminator's loss on real images alone, for an update of its own; not for relativistic."""
    logits = logits.float()
    targets = torch.ones_like(logits) if labels is None else labels.float()
    if name in ("bce", "minimax"):
        return F.binary_cross_entropy_with_logits(logits, targets)
    if name == "wasserstein":
        return -logits.mean()
    if name == "lsgan":
        return (logits - targets).square().mean() / 2
    if name == "hinge":
        return F.relu(1 - logits).mean()
    raise _unknown(name)


def fake_loss(name: str, logits: Tensor) -> Tensor:
    """The discriminator's loss on generated images alone, for an update of its own; not for relativistic."""
    logits = logits.float()
    if name in ("bce", "minimax"):
        return F.softplus(logits).mean()
    if name == "wasserstein":
        return logits.mean()
    if name == "lsgan":
        return logits.square().mean() / 2
    if name == "hinge":
        return F.relu(1 + logits).mean()
    raise _unknown(name)


def generator_loss(name: str, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """The scalar the generator minimises; `real_logits` (B,) are needed by relativistic alone.

    Raises UsageError for an unknown name or where they are missing.
    """
    fake = fake_logits.float()
    if name == "bce":
        return F.softplus(-fake).mean()
    if name == "minimax":
        return -F.softplus(fake).mean()
    if name in ("wasserstein", "hinge"):
        return -fake.mean()
    if name == "lsgan":
        return (fake - 1).square().mean() / 2
    if name == "relativistic" and real_logits is not None:
        return F.softplus(real_logits.float() - fake).mean()
    raise _unknown(name)


def _unknown(name: str) -> UsageError:
    if name == "relativistic":
        return UsageError("loss relativistic compares pairs: it needs real and generated logits together")
    return UsageError(f"loss {name!r} does not exist; expected one of: {', '.join(LOSSES)}")
