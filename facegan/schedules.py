"""Everything that changes while a run trains, as pure functions of how far it is."""

import math

from facegan.recipes.base import Recipe


def lr_factor(recipe: Recipe, step: int, nimg: int, total_nimg: int) -> float:
    """What both learning rates are multiplied by at an optimizer's own `step` (from 0) and at `nimg` images.

    constant: 1. exponential: lr_decay ** (step / lr_decay_steps), continuous (rlronan/Tensorflow-GAN-Faces).
    linear: from 1 to 0 over the run; cosine: the same along half a cosine (Loshchilov and Hutter 2017).
    """
    if recipe.lr_schedule == "exponential":
        return float(recipe.lr_decay ** (step / recipe.lr_decay_steps))
    if recipe.lr_schedule == "linear":
        return 1.0 - _share(nimg, total_nimg)
    if recipe.lr_schedule == "cosine":
        return _cosine(1.0, 0.0, _share(nimg, total_nimg))
    return 1.0


def penalty_gamma(recipe: Recipe, gamma: float, nimg: int, total_nimg: int) -> float:
    """R1 or R2 weight at `nimg`: `gamma`, or along half a cosine to `gamma_final` where that is not negative.

    Huang et al. 2024 (arXiv:2501.05441), appendix: 2 -> 0.2 at FFHQ-64.
    """
    if gamma == 0 or recipe.gamma_final < 0:
        return gamma
    return _cosine(gamma, recipe.gamma_final, _share(nimg, total_nimg))


def noise_std(recipe: Recipe, batch: int) -> float:
    """Standard deviation of the instance noise (Sonderby et al. 2017, arXiv:1610.04490) at batch number `batch`."""
    return float(recipe.instance_noise * recipe.instance_noise_decay ** (batch // recipe.instance_noise_steps))


def ema_beta(recipe: Recipe, nimg: int, batch_size: int) -> float:
    """Weight of the old average after a batch of `batch_size` that ends at `nimg`: StyleGAN2's formula.

    Half-life of `ema_kimg` thousand images, early on at most `ema_rampup` of the images seen (0: no ramp-up). 0
    where the average is off. Karras et al. 2020, NVlabs/stylegan3 training_loop.py.
    """
    half_life = recipe.ema_kimg * 1000
    if recipe.ema_rampup > 0:
        half_life = min(half_life, nimg * recipe.ema_rampup)
    return float(0.5 ** (batch_size / max(half_life, 1e-8)))


def _share(nimg: int, total_nimg: int) -> float:
    return min(nimg / total_nimg, 1.0) if total_nimg else 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
