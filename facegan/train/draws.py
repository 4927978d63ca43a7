"""The random numbers of one step, drawn ahead of it and passed in as tensors.

Each is a function of (seed, use, position of the sample): see `facegan.randomness`. The networks and losses draw
nothing themselves, so a step can be recorded, and no rank repeats another's numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from facegan.networks.layers import Network
from facegan.randomness import keep_mask, normal, uniform
from facegan.recipes import Recipe
from facegan.train import augment


@dataclass(frozen=True)
class ViewDraws:
    """Random numbers of the critic's view of B images; None where the recipe needs none."""

    masks: list[Tensor] | None = None  # of dropout
    noise: Tensor | None = None  # (B, C, H, W) standard normal
    augment: Tensor | None = None  # (B, K) uniforms of DiffAugment


@dataclass(frozen=True)
class Draws:
    """Random numbers of B samples in one critic or generator step; None where the recipe needs none."""

    z: Tensor  # (B, latent_dim) standard normal
    generator_masks: list[Tensor] | None
    real: ViewDraws
    fake: ViewDraws
    mixed: ViewDraws  # of the images between real and fake, where the gradient penalty is taken
    labels: Tensor | None = None  # (B,) targets of the real images
    eps: Tensor | None = None  # (B,) in [0, 1): where between real and fake


@dataclass(frozen=True)
class StepDraws:
    """Everything random in the step that follows one real batch."""

    warp: Tensor | None  # (B, K) uniforms that flip, turn, shear and zoom the real images
    critic: tuple[Draws, ...]  # one for each critic step on this batch
    generator: Draws


class RandomNumbers:
    """Draws what a recipe's networks and losses need; every use has a name of its own, so none repeats another."""

    def __init__(self, recipe: Recipe, seed: int, generator: Network, discriminator: Network) -> None:
        self.recipe, self.seed = recipe, seed
        self.generator, self.discriminator = generator, discriminator

    def step(self, position: int, n: int) -> StepDraws:
        """The draws of one real batch: those of the samples `position` .. `position + n - 1`."""
        r = self.recipe
        critic = tuple(self._critic(f"critic{k}", position, n) for k in range(1 if r.fresh_reals else r.n_critic))
        latents = "generator" if r.fresh_latents else "critic0"
        warp = self._uniform(
            "warp", position, n, augment.GEOMETRIC_DRAWS, r.flip or r.rotation or r.shear or r.zoom
        )
        return StepDraws(warp, critic, self._draws("generator", position, n, latents))

    def _critic(self, step: str, position: int, n: int) -> Draws:
        r, (low, high) = self.recipe, self.recipe.real_labels
        draws = self._draws(step, position, n, step)
        labels = torch.full((n,), low)
        if low != high:
            labels = low + (high - low) * uniform(self.seed, f"{step}/labels", position, n)
        if not r.gp_weight:
            return replace(draws, labels=labels)
        mixed = ViewDraws(self._masks(self.discriminator, f"{step}/mixed", position, n))
        return replace(draws, labels=labels, mixed=mixed, eps=uniform(self.seed, f"{step}/eps", position, n))

    def _draws(self, step: str, position: int, n: int, latents: str) -> Draws:
        return Draws(
            normal(self.seed, f"{latents}/z", position, n, (self.recipe.latent_dim,)),
            self._masks(self.generator, f"{latents}/generator", position, n),
            real=self._view(f"{step}/real", position, n, noisy=True),
            fake=self._view(f"{step}/fake", position, n, noisy=self.recipe.instance_noise_on == "both"),
            mixed=ViewDraws(),
        )

    def _view(self, use: str, position: int, n: int, *, noisy: bool) -> ViewDraws:
        r = self.recipe
        noise = partial(normal, self.seed, f"{use}-noise", position, n)
        return ViewDraws(
            self._masks(self.discriminator, use, position, n),
            _as_images(noise, (r.channels, *r.resolution)) if noisy and r.instance_noise else None,
            self._uniform(f"{use}-augment", position, n, augment.DIFFAUGMENT_DRAWS, r.diffaugment),
        )

    def _masks(self, network: Network, use: str, position: int, n: int) -> list[Tensor] | None:
        draw = partial(keep_mask, self.seed, position=position, n=n, dropout=network.dropout)
        shapes = enumerate(network.mask_shapes)
        return [_as_images(partial(draw, f"{use}{i}"), shape) for i, shape in shapes] or None

    def _uniform(self, use: str, position: int, n: int, count: int, wanted: object) -> Tensor | None:
        return uniform(self.seed, use, position, n, (count,)) if wanted else None


def _as_images(draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) numbers; those for maps (C, H, W) channels last in memory, as the maps are that they meet."""
    if len(shape) != 3:
        return draw(shape=tuple(shape))
    channels, height, width = shape
    return draw(shape=(height, width, channels)).permute(0, 3, 1, 2)
