"""One step: a real batch, the critic's updates on it and, every n_critic-th time, the generator's."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from facegan.recipes import Recipe
from facegan.run.machine import Machine
from facegan.train import augment, penalties
from facegan.train.draws import Draws, Knobs, StepDraws
from facegan.train.objective import (
    SIDES,
    Terms,
    discriminator_objective,
    generator_objective,
    one_sided_objective,
    scale_images,
)
from facegan.train.state import State

Objective = Callable[[], tuple[Tensor, Terms]]


@dataclass(frozen=True)
class Batch:
    """This rank's part of one global batch, on the device."""

    nimg: int  # position of the global batch's first image
    images: Tensor  # (b, C, H, W) uint8
    draws: StepDraws
    knobs: Knobs
    noted: Tensor | None = None  # nimg on the device, where the step is recorded

    def parts(self, size: int) -> list["Batch"]:
        """The batch cut into parts of at most `size` images; 0 leaves it whole."""
        if not size or size >= len(self.images):
            return [self]
        cuts = [slice(start, start + size) for start in range(0, len(self.images), size)]
        return [replace(self, images=self.images[c], draws=self.draws.map(lambda t, c=c: t[c])) for c in cuts]


class Step:
    """Updates a `State` by one batch. Nothing in it waits for the device: terms stay there until asked for."""

    def __init__(self, recipe: Recipe, state: State, machine: Machine, batch_per_rank: int = 0) -> None:
        self.recipe, self.state, self.machine = recipe, state, machine
        self.batch_per_rank = batch_per_rank

    def __call__(self, batch: Batch) -> None:
        """Take the step. A non-finite loss or gradient withholds this and every later update (`Meter.tripped`)."""
        self.state.set_learning_rates(batch.knobs.g_lr, batch.knobs.d_lr)
        turns = [_Turn(self, part, keep=not self.batch_per_rank) for part in batch.parts(self.batch_per_rank)]
        if self.recipe.fresh_reals:
            self._critic_update(turns, 0)
            if self.generator_is_due(batch):
                self._apply("generator", batch, *self._gradients("generator", (t.generator for t in turns)))
        else:  # the generator's gradient meets the critic as it was before its update; more critic steps follow
            gradients = self._gradients("generator", (t.generator for t in turns))
            self._critic_update(turns, 0)
            self._apply("generator", batch, *gradients)
            for k in range(1, self.recipe.n_critic):
                self._critic_update(turns, k)
        self._average_statistics()

    def kind(self, batch: Batch) -> tuple[bool, bool]:
        """What the host decides about a batch: whether to update the generator, whether to take lazy penalties."""
        return self.generator_is_due(batch), self.penalises(batch)

    def penalises(self, batch: Batch) -> bool:
        """Whether this batch is one of those that lazy regularisation takes."""
        return batch.nimg // self.recipe.batch_size % self.recipe.penalty_every == 0

    def generator_is_due(self, batch: Batch) -> bool:
        """Whether the generator is updated in this batch's step: on every n_critic-th batch."""
        return not self.recipe.fresh_reals or (batch.nimg // self.recipe.batch_size + 1) % self.recipe.n_critic == 0

    def _critic_update(self, turns: list["_Turn"], k: int) -> None:
        sides = SIDES if self.recipe.split_updates else ("both",)
        for side in sides:
            objectives = [partial(turn.critic, k, side) for turn in turns]
            self._apply("discriminator", turns[0].batch, *self._gradients("discriminator", objectives))
        if self.recipe.clip:
            penalties.clip_weights(self.state.discriminator, self.recipe.clip)

    def _gradients(self, which: str, objectives: Iterable[Objective]) -> tuple[list[Tensor], Terms]:
        """The mean gradient for one network only (no other weight gradient is computed), and the mean terms."""
        parameters = list(self.state.network(which).parameters())
        self.state.discriminator.requires_grad_(which == "discriminator")
        sums: list[Tensor] = []
        found: list[Terms] = []
        for objective in objectives:
            with self.machine.autocast():
                loss, terms = objective()
            grads = torch.autograd.grad(loss, parameters)
            sums = [a + b for a, b in zip(sums, grads, strict=True)] if sums else list(grads)
            found.append(terms)
        if len(found) > 1:
            torch._foreach_div_(sums, len(found))
        return sums, {name: sum(t[name] for t in found) / len(found) for name in found[0]}  # type: ignore[misc]

    def _apply(self, which: str, batch: Batch, grads: list[Tensor], terms: Terms) -> None:
        """Average gradients and terms over the ranks, in one message, then update."""
        *grads, values = self.machine.average([*grads, torch.stack(list(terms.values()))])
        norm = get_total_norm(grads, foreach=True)
        at = batch.nimg if batch.noted is None else batch.noted
        self.state.meter.add((*terms, f"grad/{which}"), torch.cat([values, norm.view(1)]), at)
        self.state.apply(which, grads)
        if which == "generator":
            self.state.update_average(batch.knobs.ema_beta)

    def _average_statistics(self) -> None:
        """Make BatchNorm's running statistics the same on every rank: each continues from what rank 0 saves.

        Last in the step: a graph that is still to be gone back through must find them as it left them.
        """
        buffers = self.state.buffers()
        if self.machine.world > 1 and buffers:
            torch._foreach_copy_(buffers, self.machine.average(buffers))


class _Turn:
    """One part of a batch on its way through the step: real images prepared once, fakes used again."""

    def __init__(self, step: Step, batch: Batch, *, keep: bool) -> None:
        self.step, self.recipe, self.batch = step, step.recipe, batch
        self.keep = keep  # a graph for the generator's step; parts of a batch would hold all of theirs at once
        self.real = self._prepare(batch.images)
        self.fake: Tensor | None = None  # the first critic step's images, with their graph

    def critic(self, k: int, side: str) -> tuple[Tensor, Terms]:
        """The discriminator's objective in critic step `k` on `side`: both, real or fake."""
        recipe, critic, draws, knobs = (
            self.recipe,
            self.step.state.discriminator,
            self.batch.draws.critic[k],
            self.batch.knobs,
        )
        if side == "real":
            return one_sided_objective(recipe, critic, side, self.real, draws, knobs)
        fake = self._critic_fakes(k, draws)
        if side == "fake":
            return one_sided_objective(recipe, critic, side, fake, draws, knobs)
        penalise = self.step.penalises(self.batch)
        return discriminator_objective(recipe, critic, self.real, fake, draws, knobs, penalise=penalise)

    def generator(self) -> tuple[Tensor, Terms]:
        """The generator's objective, on the critic's first images where the recipe uses them again."""
        draws = self.batch.draws.generator
        fake = self.fake if self.fake is not None else self._generate(draws)
        self.fake = None if self.recipe.fresh_reals else fake
        critic = self.step.state.discriminator
        return generator_objective(
            self.recipe, critic, fake, self.real, draws, self.batch.knobs, lambda: self._evaluated(draws)
        )

    def _prepare(self, images: Tensor) -> Tensor:
        """(b, C, H, W) uint8 to the recipe's value range, flipped and warped; float32."""
        recipe, warp = self.recipe, self.batch.draws.warp
        real = scale_images(images, recipe.value_range)
        if warp is None:
            return real
        return augment.geometric(
            real, warp, rotation=recipe.rotation, shear=recipe.shear, zoom=recipe.zoom, flip=recipe.flip
        )

    def _critic_fakes(self, k: int, draws: Draws) -> Tensor:
        if k == 0 and self.fake is None and self._generator_comes_next():
            self.fake = self._generate(draws)
        if k == 0 and self.fake is not None:
            return self.fake.detach()
        with torch.no_grad():
            return self._generate(draws)

    def _generator_comes_next(self) -> bool:
        """Whether this step's generator update follows on the same images, so that their graph is worth keeping."""
        return self.keep and not self.recipe.fresh_latents and self.step.generator_is_due(self.batch)

    def _generate(self, draws: Draws) -> Tensor:
        images: Tensor = self.step.state.generator(draws.z, draws.generator_masks)
        return images

    def _evaluated(self, draws: Draws) -> Tensor:
        """G(z) as it is sampled: BatchNorm with running statistics, no dropout."""
        generator = self.step.state.generator.eval()
        try:
            images: Tensor = generator(draws.z)
        finally:
            generator.train()
        return images
