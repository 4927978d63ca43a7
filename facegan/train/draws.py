"""The random numbers of one step, drawn ahead of it and passed in as tensors.

Each is a function of (seed, use, position of the sample): see `facegan.randomness`. The networks and losses draw
nothing themselves, so a step can be recorded, and no rank repeats another's numbers. What is large is drawn on the
device, to the bits that the host would draw.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from facegan.networks.layers import Network
from facegan.randomness import keep_bits, mask_of_bits, normal, uniform
from facegan.recipes import Recipe
from facegan.train import augment

LARGE = 1 << 20  # random bytes from which on a GPU's few hundred kernels for them are faster than its host
CPU = torch.device("cpu")


@dataclass(frozen=True)
class DropoutBits:
    """A dropout mask of B samples, a bit a number: 2.5 MB instead of 81 a batch of wgan-gp-64."""

    bits: Tensor  # (B, bytes) uint8
    shape: tuple[int, ...]  # of one sample's mask
    dropout: float

    def mask(self) -> Tensor:
        """(B, *shape) float32, 0 or 1 / (1 - dropout)."""
        return mask_of_bits(self.bits, self.shape, self.dropout)


@dataclass(frozen=True)
class ViewDraws:
    """Random numbers of the critic's view of B images; None where the recipe needs none."""

    dropout: list[DropoutBits] | None = None
    noise: Tensor | None = None  # (B, C, H, W) standard normal
    augment: Tensor | None = None  # (B, K) uniforms of DiffAugment, and of its chance where it has one

    @property
    def masks(self) -> list[Tensor] | None:
        """What the critic's forward pass takes."""
        return _masks(self.dropout)


@dataclass(frozen=True)
class Draws:
    """Random numbers of B samples in one critic or generator step; None where the recipe needs none."""

    z: Tensor  # (B, latent_dim) standard normal
    dropout: list[DropoutBits] | None  # of the generator
    fake: ViewDraws
    real: ViewDraws = field(default_factory=ViewDraws)
    mixed: ViewDraws = field(default_factory=ViewDraws)  # between both, where the gradient penalty is taken
    labels: Tensor | None = None  # (B,) targets of the real images
    eps: Tensor | None = None  # (B,) in [0, 1): where between real and fake

    @property
    def masks(self) -> list[Tensor] | None:
        """What the generator's forward pass takes."""
        return _masks(self.dropout)


@dataclass(frozen=True)
class StepDraws:
    """Everything random in the step that follows one real batch."""

    warp: Tensor | None  # (B, K) uniforms that flip, turn, shear and zoom the real images
    critic: tuple[Draws, ...]  # one for each critic step on this batch
    generator: Draws | None  # where this batch has a generator step

    def for_generator(self) -> Draws:
        """Those of the generator's step; ValueError where this batch has none."""
        if self.generator is None:
            raise ValueError("the draws of a batch without a generator step")
        return self.generator


class RandomNumbers:
    """Draws what a recipe's networks and losses need; every use has a name of its own, so none repeats another."""

    def __init__(
        self, recipe: Recipe, seed: int, generator: Network, discriminator: Network, device: torch.device = CPU
    ) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device
        self.generator, self.discriminator = generator, discriminator

    def step(self, position: int, n: int, *, with_generator: bool = True) -> StepDraws:
        """The draws of one real batch, of the samples `position` .. `position + n - 1`; none is made in vain."""
        r = self.recipe
        wanted = r.flip or r.rotation or r.shear or r.zoom
        warp = self._uniform("warp", position, n, augment.GEOMETRIC_DRAWS, wanted)
        critic = tuple(self._critic(k, position, n) for k in range(1 if r.fresh_reals else r.n_critic))
        return StepDraws(warp, critic, self._generator(position, n, critic[0]) if with_generator else None)

    def _critic(self, k: int, position: int, n: int) -> Draws:
        step, r, (low, high) = f"critic{k}", self.recipe, self.recipe.real_labels
        labels = torch.full((n,), low)
        if low != high:
            labels = low + (high - low) * uniform(self.seed, f"{step}/labels", position, n)
        draws = Draws(
            self._latents(step, position, n),
            self._dropout(self.generator, f"{step}/generator", position, n),
            self._view(f"{step}/fake", position, n, noisy=r.instance_noise_on == "both"),
            self._view(f"{step}/real", position, n, noisy=True),
            labels=labels,
        )
        if not r.gp_weight:
            return draws
        mixed = ViewDraws(self._dropout(self.discriminator, f"{step}/mixed", position, n))
        return replace(draws, mixed=mixed, eps=uniform(self.seed, f"{step}/eps", position, n))

    def _generator(self, position: int, n: int, first: Draws) -> Draws:
        """Of the generator's step, which reuses the latents of the first critic step or draws its own."""
        r, step = self.recipe, "generator"
        fake = self._view(f"{step}/fake", position, n, noisy=r.instance_noise_on == "both")
        draws = replace(first, fake=fake, real=ViewDraws(), mixed=ViewDraws(), labels=None, eps=None)
        if r.loss == "relativistic":
            draws = replace(draws, real=self._view(f"{step}/real", position, n, noisy=True))
        if not r.fresh_latents:
            return draws
        dropout = self._dropout(self.generator, f"{step}/generator", position, n)
        return replace(draws, z=self._latents(step, position, n), dropout=dropout)

    def _latents(self, step: str, position: int, n: int) -> Tensor:
        return normal(self.seed, f"{step}/z", position, n, (self.recipe.latent_dim,))

    def _view(self, use: str, position: int, n: int, *, noisy: bool) -> ViewDraws:
        r = self.recipe
        where = self._where(4 * n * r.channels * math.prod(r.resolution))
        noise = partial(normal, self.seed, f"{use}-noise", position, n, device=where)
        count = augment.DIFFAUGMENT_DRAWS + (augment.CHANCE_DRAWS if r.augment_target else 0)
        return ViewDraws(
            self._dropout(self.discriminator, use, position, n),
            _as_images(noise, (r.channels, *r.resolution)) if noisy and r.instance_noise else None,
            self._uniform(f"{use}-augment", position, n, count, r.diffaugment),
        )

    def _dropout(self, network: Network, use: str, position: int, n: int) -> list[DropoutBits] | None:
        p, drawn = network.dropout, []
        for i, shape in enumerate(network.mask_shapes):
            count = math.prod(shape)
            where = self._where(n * count // 8 if p == 0.5 else 2 * n * count)
            drawn.append(DropoutBits(keep_bits(self.seed, f"{use}{i}", position, n, count, p, where), shape, p))
        return drawn or None

    def _where(self, random_bytes: int) -> torch.device:
        return self.device if random_bytes >= LARGE else CPU

    def _uniform(self, use: str, position: int, n: int, count: int, wanted: object) -> Tensor | None:
        return uniform(self.seed, use, position, n, (count,)) if wanted else None


def _masks(dropout: list[DropoutBits] | None) -> list[Tensor] | None:
    return None if dropout is None else [bits.mask() for bits in dropout]


def _as_images(draw: Callable[..., Tensor], shape: tuple[int, int, int]) -> Tensor:
    """(n, *shape) numbers, channels last in memory, as the maps are that they meet."""
    channels, height, width = shape
    return draw(shape=(height, width, channels)).permute(0, 3, 1, 2)
