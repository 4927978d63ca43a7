"""Everything that changes while a run trains, as pure functions of how far it is.

`progress` is the share of the run's images seen so far, 0 to 1.
"""

import math
from dataclasses import astuple, dataclass

from torch import Tensor

from facegan.recipes.base import Recipe

Number = float | Tensor  # a tensor of no dimensions where the step is recorded: it calculates like the float


@dataclass(frozen=True)
class ScheduleValues:
    """The scheduled numbers of one step, and the chance of augmentation that the steps before it have left."""

    g_lr: Number
    d_lr: Number
    r1_gamma: Number
    r2_gamma: Number
    noise_std: Number
    ema_beta: Number
    chance: Number = 0.0


def schedule_values(recipe: Recipe, nimg: int, total_nimg: int) -> ScheduleValues:
    """Those of the step that reads images `nimg` .. `nimg + batch_size - 1` of a run of `total_nimg`."""
    r, batch = recipe, nimg // recipe.batch_size
    d_steps = (1 if r.fresh_reals else r.n_critic) * (2 if r.split_updates else 1)  # a batch
    g_step = batch // r.n_critic if r.fresh_reals else batch
    progress = nimg / total_nimg if total_nimg else 0.0
    values = ScheduleValues(
        g_lr=r.g_lr * learning_rate_factor(r, g_step, progress),
        d_lr=r.d_lr * learning_rate_factor(r, batch * d_steps, progress),
        r1_gamma=gamma(r.r1_gamma, r.gamma_final, progress),
        r2_gamma=gamma(r.r2_gamma, r.gamma_final, progress),
        noise_std=instance_noise_std(r, batch),
        ema_beta=ema_beta(r, nimg),
    )
    if not all(map(math.isfinite, astuple(values))):
        raise ValueError(f"a schedule left the finite numbers: {values}")
    return values


def generator_is_due(recipe: Recipe, nimg: int) -> bool:
    """Whether the step that begins at `nimg` updates the generator: every n_critic-th, or all on shared reals."""
    return not recipe.fresh_reals or (nimg // recipe.batch_size + 1) % recipe.n_critic == 0


def takes_penalties(recipe: Recipe, nimg: int) -> bool:
    """Whether the step that begins at `nimg` is one of those that lazy regularisation takes."""
    return nimg // recipe.batch_size % recipe.penalty_every == 0


def learning_rate_factor(recipe: Recipe, step: int, progress: float) -> float:
    """What a network's learning rate is multiplied by before its optimizer's `step` (from 0).

    constant: 1. exponential: lr_decay ** (step / lr_decay_steps), continuous (rlronan/Tensorflow-GAN-Faces).
    linear: from 1 to 0 over the run; cosine: the same along half a cosine (Loshchilov and Hutter 2017).
    cooldown: 1, over the run's last `lr_cooldown` linearly to `lr_final` (Hagele et al. 2024, arXiv:2405.18392).
    """
    if recipe.lr_schedule == "exponential":
        return math.pow(recipe.lr_decay, step / recipe.lr_decay_steps)
    if recipe.lr_schedule == "linear":
        return 1 - min(progress, 1.0)
    if recipe.lr_schedule == "cosine":
        return _cosine(1.0, 0.0, progress)
    if recipe.lr_schedule == "cooldown" and recipe.lr_cooldown:
        cooled = (progress - (1 - recipe.lr_cooldown)) / recipe.lr_cooldown
        return 1 - (1 - recipe.lr_final) * min(max(cooled, 0.0), 1.0)
    return 1.0


def gamma(start: float, final: float, progress: float) -> float:
    """R1 or R2 weight: `start`, or from it to `final` along half a cosine where `final` is not negative.

    Huang et al. 2024 (arXiv:2501.05441), table of hyperparameters: 2 to 0.2 for FFHQ at 64 px. A penalty that is
    off (start 0) stays off.
    """
    if start == 0 or final < 0:
        return start
    return _cosine(start, final, progress)


def instance_noise_std(recipe: Recipe, batch: int) -> float:
    """Standard deviation of the instance noise (Sonderby et al. 2017, arXiv:1610.04490) at real batch `batch`.

    A staircase: the recipe's standard deviation times instance_noise_decay once per instance_noise_steps batches.
    """
    return recipe.instance_noise * math.pow(recipe.instance_noise_decay, batch // recipe.instance_noise_steps)


def ema_beta(recipe: Recipe, nimg: int) -> float:
    """Weight of the old average in the generator's moving average, where `nimg` images were seen: StyleGAN2's rule.

    Half-life `ema_kimg` thousand images, early on at most `ema_rampup` of the images seen (0: no ramp-up); 0 where
    the average is off. Karras et al. 2020 (arXiv:1912.04958), as in NVlabs/stylegan3's training loop. Where each
    critic step reads its own batch, n_critic batches lie between two updates.
    """
    half_life = recipe.ema_kimg * 1000
    if recipe.ema_rampup > 0:
        half_life = min(half_life, nimg * recipe.ema_rampup)
    images = recipe.batch_size * (recipe.n_critic if recipe.fresh_reals else 1)
    return math.pow(0.5, images / max(half_life, 1e-8))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
