"""The random numbers of one step, drawn ahead of it and passed in as tensors.

Each is a function of (seed, use, position of the sample): see `facegan.randomness`. The networks and losses draw
nothing themselves, so a step can be compiled or captured, and no rank repeats another's numbers.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from facegan.randomness import keep_mask, normal, uniform
from facegan.recipes import Recipe
from facegan.train import augment

Masks = list[Tensor]


@dataclass(frozen=True)
class Draws:
    """Random numbers of B samples in one critic or generator step; None where the recipe needs none."""

    z: Tensor  # (B, latent_dim) standard normal
    labels: Tensor | None = None  # (B,) targets of the real images
    eps: Tensor | None = None  # (B,) in [0, 1): where between real and fake the penalty is taken
    generator_masks: Masks | None = None
    real_masks: Masks | None = None
    fake_masks: Masks | None = None
    mixed_masks: Masks | None = None
    real_noise: Tensor | None = None  # (B, C, H, W) standard normal
    fake_noise: Tensor | None = None
    real_augment: Tensor | None = None  # (B, K) uniforms of DiffAugment
    fake_augment: Tensor | None = None

    def map(self, change: Any) -> "Draws":
        """The same draws with `change` applied to every tensor."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Draws(**{name: _map(value, change) for name, value in values.items()})


@dataclass(frozen=True)
class StepDraws:
    """Everything random in the step that follows one real batch."""

    warp: Tensor | None  # (B, K) uniforms that flip, turn, shear and zoom the real images
    critic: tuple[Draws, ...]  # one for each critic step on this batch
    generator: Draws

    def map(self, change: Any) -> "StepDraws":
        """The same draws with `change` applied to every tensor."""
        return StepDraws(
            _map(self.warp, change), tuple(d.map(change) for d in self.critic), self.generator.map(change)
        )


def _map(value: Any, change: Any) -> Any:
    if isinstance(value, list):
        return [change(item) for item in value]
    return None if value is None else change(value)


class Drawer:
    """Draws the numbers of the samples `position` .. `position + n - 1` for a recipe's networks."""

    def __init__(self, recipe: Recipe, seed: int, generator: nn.Module, discriminator: nn.Module) -> None:
        self.recipe, self.seed = recipe, seed
        self.mask_shapes = {
            "generator": (getattr(generator, "mask_shapes", []), getattr(generator, "dropout", 0.0)),
            "critic": (getattr(discriminator, "mask_shapes", []), getattr(discriminator, "dropout", 0.0)),
        }

    def step(self, position: int, n: int) -> StepDraws:
        """The draws of one real batch; every use has a name of its own, so none repeats another."""
        r = self.recipe
        critic = tuple(self._draws(f"critic{k}", position, n) for k in range(1 if r.fresh_reals else r.n_critic))
        reuse = "generator" if r.fresh_latents else "critic0"
        return StepDraws(self._warp(position, n), critic, self._draws("generator", position, n, latents=reuse))

    def _draws(self, step: str, position: int, n: int, latents: str | None = None) -> Draws:
        r, latents = self.recipe, latents or step
        image = (r.channels, *r.resolution)

        def masks(use: str, network: str, step: str = step) -> Masks | None:
            shapes, dropout = self.mask_shapes[network]
            if not shapes or not dropout:
                return None
            draw = partial(keep_mask, self.seed, position=position, n=n, dropout=dropout)
            return [_as_images(partial(draw, f"{step}/{use}{i}"), shape) for i, shape in enumerate(shapes)]

        def noise(use: str, wanted: bool) -> Tensor | None:
            return _as_images(partial(normal, self.seed, f"{step}/{use}", position, n), image) if wanted else None

        def augments(use: str) -> Tensor | None:
            if not r.diffaugment:
                return None
            return uniform(self.seed, f"{step}/{use}", position, n, (augment.DIFFAUGMENT_DRAWS,))

        in_critic = step != "generator"
        noisy = r.instance_noise > 0
        return Draws(
            z=normal(self.seed, f"{latents}/z", position, n, (r.latent_dim,)),
            labels=self._labels(f"{step}/labels", position, n) if in_critic else None,
            eps=uniform(self.seed, f"{step}/eps", position, n) if in_critic and r.gp_weight else None,
            generator_masks=masks("generator", "generator", latents),
            real_masks=masks("real", "critic"),
            fake_masks=masks("fake", "critic"),
            mixed_masks=masks("mixed", "critic") if in_critic and r.gp_weight else None,
            real_noise=noise("real-noise", noisy),
            fake_noise=noise("fake-noise", noisy and r.instance_noise_on == "both"),
            real_augment=augments("real-augment"),
            fake_augment=augments("fake-augment"),
        )

    def _labels(self, use: str, position: int, n: int) -> Tensor:
        low, high = self.recipe.real_labels
        if low == high:
            return torch.full((n,), low)
        return low + (high - low) * uniform(self.seed, use, position, n)

    def _warp(self, position: int, n: int) -> Tensor | None:
        r = self.recipe
        if not (r.flip or r.rotation or r.shear or r.zoom):
            return None
        return uniform(self.seed, "warp", position, n, (augment.GEOMETRIC_DRAWS,))


def _as_images(draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) numbers; those for maps (C, H, W) channels last in memory, as the maps are that they meet."""
    if len(shape) != 3:
        return draw(shape=tuple(shape))
    channels, height, width = shape
    return draw(shape=(height, width, channels)).permute(0, 3, 1, 2)


def knobs(recipe: Recipe, nimg: int, total_nimg: int) -> "Knobs":
    """The scheduled numbers of the step that reads images `nimg` .. `nimg + batch_size - 1`."""
    from facegan.train import schedules

    r, batch = recipe, nimg // recipe.batch_size
    per_batch = (1 if r.fresh_reals else r.n_critic) * (2 if r.split_updates else 1)
    g_step = batch // r.n_critic if r.fresh_reals else batch
    progress = nimg / total_nimg if total_nimg else 0.0
    return Knobs(
        g_lr=r.g_lr * schedules.learning_rate_factor(r, g_step, progress),
        d_lr=r.d_lr * schedules.learning_rate_factor(r, batch * per_batch, progress),
        r1_gamma=schedules.gamma(r.r1_gamma, r.gamma_final, progress),
        r2_gamma=schedules.gamma(r.r2_gamma, r.gamma_final, progress),
        noise_std=schedules.instance_noise_std(r, batch),
        ema_beta=schedules.ema_beta(r, nimg),
    )


@dataclass(frozen=True)
class Knobs:
    """Scheduled numbers of one step; in a recorded step 0-d tensors, which calculate like floats."""

    g_lr: float
    d_lr: float
    r1_gamma: float
    r2_gamma: float
    noise_std: float
    ema_beta: float

    def __post_init__(self) -> None:
        values: list[Any] = [getattr(self, f.name) for f in dataclasses.fields(self)]
        if not all(math.isfinite(value) for value in values if not isinstance(value, Tensor)):
            raise ValueError(f"a schedule left the finite numbers: {self}")
