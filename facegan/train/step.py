"""One step: a real batch, and the updates of both networks on it in one of the published orders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from facegan.recipes import Recipe
from facegan.run.machine import Machine
from facegan.train import augment, penalties
from facegan.train.draws import Draws, StepDraws
from facegan.train.objective import (
    SIGN,
    Terms,
    discriminator_objective,
    generator_objective,
    one_sided_objective,
    scale_images,
)
from facegan.train.schedules import ScheduleValues, generator_is_due, takes_penalties
from facegan.train.state import State
from facegan.train.tensors import map_tensors


@dataclass(frozen=True)
class Batch:
    """This rank's part of one global batch, on the device."""

    nimg: int  # position of the global batch's first image
    images: Tensor  # (b, C, H, W) uint8; once the step has prepared them float32 in the recipe's range
    draws: StepDraws
    values: ScheduleValues
    device_nimg: Tensor | None = None  # nimg on the device, where the step is recorded

    def parts(self, size: int) -> list["Batch"]:
        """The batch cut into parts of at most `size` images; 0 leaves it whole."""
        if not size or size >= len(self.images):
            return [self]
        cuts = [slice(start, start + size) for start in range(0, len(self.images), size)]
        return [
            replace(self, images=self.images[cut], draws=map_tensors(self.draws, itemgetter(cut))) for cut in cuts
        ]


Parts = list[Batch]  # of one batch, each computed at once; their gradients add up
Objective = Callable[[], tuple[Tensor, Terms]]


class Step:
    """Updates a `State` by one batch. Nothing in it waits for the device: terms stay there until asked for."""

    def __init__(self, recipe: Recipe, state: State, machine: Machine, batch_per_rank: int = 0) -> None:
        self.recipe, self.state, self.machine = recipe, state, machine
        self.batch_per_rank = batch_per_rank
        self.order = self.critic_then_generator if recipe.fresh_reals else self.both_from_one_pass
        self.critic_step = self.reals_then_fakes if recipe.split_updates else self.reals_with_fakes

    def __call__(self, batch: Batch) -> None:
        """Take the step. A non-finite loss or gradient withholds this and every later update (`Meter.tripped`)."""
        self.state.set_learning_rates(batch.values.g_lr, batch.values.d_lr)
        self.order([self._prepare(part) for part in batch.parts(self.batch_per_rank)])
        self._average_statistics()

    def critic_then_generator(self, parts: Parts) -> None:
        """The critic on every batch, the generator on every n_critic-th: Goodfellow et al. 2014, algorithm 1, and
        after it DCGAN, WGAN and WGAN-GP. A generator that is to learn from the images just shown makes them once.
        """
        due = generator_is_due(self.recipe, parts[0].nimg)
        once = due and not self.recipe.fresh_latents and len(parts) == 1  # the graphs of many would all be held
        fakes = [self._generate(part.draws.critic[0], graph=once) for part in parts]
        self.critic_step(parts, 0, fakes)
        if due:
            made = fakes if once else [None for _ in parts]
            objectives = [partial(self._generator, part, fake) for part, fake in zip(parts, made, strict=True)]
            self._update("generator", parts, self._gradients("generator", parts, objectives))

    def both_from_one_pass(self, parts: Parts) -> None:
        """rlronan/Tensorflow-GAN-Faces: the generator and the first critic step learn from the same images, the
        generator from the critic before its update; more critic steps follow, on the same reals and new fakes.
        """
        fakes: list[Tensor] = []

        def generator(part: Batch) -> tuple[Tensor, Terms]:
            fakes.append(self._generate(part.draws.for_generator(), graph=True))
            return self._generator(part, fakes[-1])

        gradients = self._gradients("generator", parts, [partial(generator, part) for part in parts])
        self.critic_step(parts, 0, fakes)
        self._update("generator", parts, gradients)
        for k in range(1, self.recipe.n_critic):
            self.critic_step(parts, k, [self._generate(part.draws.critic[k]) for part in parts])

    def reals_with_fakes(self, parts: Parts, k: int, fakes: list[Tensor]) -> None:
        """Critic step `k`: one update on real and generated images together."""
        objective = partial(discriminator_objective, self.recipe, self.state.discriminator)
        penalise = takes_penalties(self.recipe, parts[0].nimg)
        objectives = [
            partial(objective, p.images, fake.detach(), p.draws.critic[k], p.values, penalise=penalise)
            for p, fake in zip(parts, fakes, strict=True)
        ]
        self._update("discriminator", parts, self._gradients("discriminator", parts, objectives))

    def reals_then_fakes(self, parts: Parts, k: int, fakes: list[Tensor]) -> None:
        """Critic step `k` of Noe & Thapa: an update on the real images, then one on the generated ones."""
        objective = partial(one_sided_objective, self.recipe, self.state.discriminator)
        for side, shown in (("real", [part.images for part in parts]), ("fake", fakes)):
            objectives = [
                partial(objective, side, images.detach(), p.draws.critic[k], p.values)
                for p, images in zip(parts, shown, strict=True)
            ]
            self._update("discriminator", parts, self._gradients("discriminator", parts, objectives))

    def kind(self, batch: Batch) -> tuple[bool, bool]:
        """What the host decides about a batch: whether to update the generator, whether to take lazy penalties."""
        return generator_is_due(self.recipe, batch.nimg), takes_penalties(self.recipe, batch.nimg)

    def _prepare(self, part: Batch) -> Batch:
        """The real images in the recipe's value range, flipped and warped; and the chance of augmentation."""
        r, warp = self.recipe, part.draws.warp
        real = scale_images(part.images, r.value_range)
        if warp is not None:
            real = augment.geometric(real, warp, rotation=r.rotation, shear=r.shear, zoom=r.zoom, flip=r.flip)
        return replace(part, images=real, values=replace(part.values, chance=self.state.chance))

    def _generate(self, draws: Draws, *, graph: bool = False) -> Tensor:
        """G(z) in training; `graph`: to learn from."""
        with self.machine.autocast(), torch.set_grad_enabled(graph):
            images: Tensor = self.state.generator(draws.z, draws.masks)
        return images

    def _generator(self, part: Batch, fake: Tensor | None) -> tuple[Tensor, Terms]:
        """The generator's objective on its images `fake`, or on new ones."""
        draws, state = part.draws.for_generator(), self.state
        if fake is None:
            fake = self._generate(draws, graph=True)
        sample = partial(self._sample, draws.z)
        return generator_objective(self.recipe, state.discriminator, fake, part.images, draws, part.values, sample)

    def _sample(self, z: Tensor) -> Tensor:
        """G(z) as it is sampled: BatchNorm with running statistics, no dropout."""
        generator = self.state.generator.eval()
        try:
            images: Tensor = generator(z)
        finally:
            generator.train()
        return images

    def _gradients(self, which: str, parts: Parts, objectives: Sequence[Objective]) -> tuple[list[Tensor], Terms]:
        """The gradient of the batch's mean loss for one network only, and the batch's mean terms.

        Each part counts by its size. No other weight gradient is computed.
        """
        parameters = list(self.state.network(which).parameters())
        self.state.discriminator.requires_grad_(which == "discriminator")
        whole = sum(len(part.images) for part in parts)
        sums: list[Tensor] = []
        means: Terms = {}
        for part, objective in zip(parts, objectives, strict=True):
            with self.machine.autocast():
                loss, terms = objective()
            share = len(part.images) / whole
            grads = list(torch.autograd.grad(loss if share == 1 else loss * share, parameters))
            sums = torch._foreach_add(sums, grads) if sums else grads  # type: ignore[assignment]
            means = {name: means.get(name, 0.0) + share * term for name, term in terms.items()}
        return sums, means

    def _update(self, which: str, parts: Parts, gradients: tuple[list[Tensor], Terms]) -> None:
        """Average gradients and terms over the ranks, in one message, then update."""
        batch, (grads, terms) = parts[0], gradients
        *grads, means = self.machine.average([*grads, torch.stack(list(terms.values()))])
        norm = get_total_norm(grads, foreach=True)
        at = batch.nimg if batch.device_nimg is None else batch.device_nimg
        self.state.meter.add((*terms, f"grad/{which}"), torch.cat([means, norm.view(1)]), at)
        self.state.apply(which, grads)
        if SIGN in terms:
            self.state.adapt_chance(means[list(terms).index(SIGN)])
        if which == "generator":
            self.state.update_average(batch.values.ema_beta)
        elif self.recipe.clip:
            penalties.clip_weights(self.state.discriminator, self.recipe.clip)

    def _average_statistics(self) -> None:
        """Make BatchNorm's running statistics the same on every rank: each continues from what rank 0 saves.

        Last in the step: a graph that is still to be gone back through must find them as it left them.
        """
        buffers = self.state.buffers()
        if self.machine.world > 1 and buffers:
            torch._foreach_copy_(buffers, self.machine.average(buffers))
