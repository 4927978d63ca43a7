"""What the two networks minimise, from a recipe: losses and penalties as sums of named terms."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from facegan.recipes import Recipe
from facegan.train import augment, losses, penalties
from facegan.train.draws import Draws, ViewDraws
from facegan.train.schedules import Number, ScheduleValues

Terms = dict[str, Tensor]
SIGN = "augment/sign"  # the discriminator's mean sign on real images, which augment_target holds


def discriminator_objective(
    recipe: Recipe,
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    draws: Draws,
    values: ScheduleValues,
    *,
    penalise: bool = True,
) -> tuple[Tensor, Terms]:
    """The discriminator's loss on `real` and `fake` (B, C, H, W), and its detached, named terms.

    `penalise` is false on the batches that lazy regularisation leaves out.
    """
    real, fake = (_view(recipe, x, d, values) for x, d in ((real, draws.real), (fake, draws.fake)))
    real_logits, fake_logits = _logits(recipe, critic, real, fake, draws)
    on_real, on_fake = losses.discriminator_loss(recipe.loss, real_logits, fake_logits, draws.labels)
    terms = {
        "loss/real": on_real,
        "loss/fake": on_fake,
        "scores/real": real_logits.float().mean(),
        "scores/fake": fake_logits.float().mean(),
    }
    if recipe.augment_target:
        terms[SIGN] = real_logits.float().sign().mean()
        terms["augment/chance"] = torch.as_tensor(values.chance, device=real.device)
    loss = on_real + on_fake
    for name, weight, penalty in _penalties(recipe, critic, real, fake, draws, values, penalise):
        terms[name] = penalty
        loss = loss + weight * penalty
    return loss, _detached(terms | {"loss/discriminator": loss})


def one_sided_objective(
    recipe: Recipe, critic: nn.Module, side: str, images: Tensor, draws: Draws, values: ScheduleValues
) -> tuple[Tensor, Terms]:
    """The discriminator's loss on only `real` or only `fake` images, for recipes that update on each in turn."""
    view = draws.real if side == "real" else draws.fake
    logits = critic(_view(recipe, images, view, values), view.masks)
    if side == "real":
        loss = losses.real_loss(recipe.loss, logits, draws.labels)
    else:
        loss = losses.fake_loss(recipe.loss, logits)
    return loss, _detached({f"loss/{side}": loss, f"scores/{side}": logits.float().mean()})


def generator_objective(
    recipe: Recipe,
    critic: nn.Module,
    fake: Tensor,
    real: Tensor,
    draws: Draws,
    values: ScheduleValues,
    sample: Callable[[], Tensor],
) -> tuple[Tensor, Terms]:
    """The generator's loss on its images `fake` (B, C, H, W), and its detached, named terms.

    `real` is used by the relativistic loss only; `sample()` gives the generator's images in eval mode, for the
    diversity penalty only.
    """
    fake_logits, real_logits = critic(_view(recipe, fake, draws.fake, values), draws.fake.masks), None
    if recipe.loss == "relativistic":
        real_logits = critic(_view(recipe, real, draws.real, values), draws.real.masks)
    loss, terms = losses.generator_loss(recipe.loss, fake_logits, real_logits), {}
    if recipe.diversity_weight:
        penalty = penalties.diversity_penalty(sample(), loss, recipe.diversity_weight)
        terms["loss/diversity"] = penalty
        loss = loss + penalty
    return loss, _detached(terms | {"loss/generator": loss})


def _logits(recipe: Recipe, critic: nn.Module, real: Tensor, fake: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The critic's logits (B,) each; in one pass, with fewer and larger kernels, where no sample sees another."""
    if recipe.critic_norm == "batch" or recipe.minibatch_std or recipe.spectral_norm:
        return critic(real, draws.real.masks), critic(fake, draws.fake.masks)
    both = zip(draws.real.masks or (), draws.fake.masks or (), strict=True)
    logits = critic(torch.cat([real, fake]), [torch.cat(pair) for pair in both])
    return logits[: len(real)], logits[len(real) :]


def _penalties(
    recipe: Recipe,
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    draws: Draws,
    values: ScheduleValues,
    penalise: bool,
) -> Iterator[tuple[str, Number, Tensor]]:
    """The recipe's penalties: name, weight in the loss, value."""
    if recipe.gp_weight and draws.eps is not None:
        penalty = penalties.gradient_penalty(critic, real, fake, draws.eps, draws.mixed.masks)
        yield "loss/gp", recipe.gp_weight, penalty
    if recipe.r1_gamma and penalise:
        penalty = penalties.zero_centred_penalty(critic, real, draws.real.masks)
        yield "loss/r1", values.r1_gamma / 2 * recipe.penalty_every, penalty
    if recipe.r2_gamma and penalise:
        penalty = penalties.zero_centred_penalty(critic, fake, draws.fake.masks)
        yield "loss/r2", values.r2_gamma / 2 * recipe.penalty_every, penalty


def _view(recipe: Recipe, images: Tensor, draws: ViewDraws, values: ScheduleValues) -> Tensor:
    """What the discriminator sees of `images`: DiffAugment, then sharpened, then instance noise."""
    if draws.augment is not None:
        chance = values.chance if recipe.augment_target else None
        images = augment.diffaugment(images, draws.augment, recipe.diffaugment, chance)
    images = augment.sharpen(images, recipe.sharpen)
    if draws.noise is not None:
        images = augment.instance_noise(images, draws.noise, values.noise_std)
    return images


def _detached(terms: Terms) -> Terms:
    return {name: term.detach() for name, term in terms.items()}


def scale_images(images: Tensor, value_range: str) -> Tensor:
    """uint8 (B, C, H, W) to float32 in [-1, 1] (`tanh`) or [0, 1] (`sigmoid`), memory layout kept."""
    if value_range == "tanh":
        return images.to(torch.float32).sub_(127.5).div_(127.5)
    return images.to(torch.float32).div_(255)
