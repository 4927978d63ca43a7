"""Of the pictures that a run trains on what the generator that it stores is matched to: moments and a spectrum."""

import torch
from torch import Tensor

from facegan.networks.moments import Moments, small_images
from facegan.networks.spectrum import spectrum
from facegan.recipes import Recipe
from facegan.run.machine import Machine
from facegan.train.feed import Stream
from facegan.train.objective import scale_images

PICTURES = 8192  # at most, of all ranks; 0.8 % of error in a direction's deviation


def training_moments(recipe: Recipe, stream: Stream, machine: Machine) -> Moments | None:
    """Of the first 8,192 pictures that the training will read, in the recipe's range; None where it has no use.

    Each rank reads its own part of their batches, and leaves `stream` behind them. With `flip`, each picture counts
    mirrored too.
    """
    if not recipe.moments_side and not recipe.spectrum_kernel:
        return None
    stream.seek(0)
    batches = max(min(PICTURES, stream.samples) // recipe.batch_size, 1)
    sums = _means(recipe, next(stream))
    for _ in range(batches - 1):
        sums = [total + means for total, means in zip(sums, _means(recipe, next(stream)), strict=True)]
    here = machine.average([(total / batches).to(machine.device) for total in sums])
    mean, square, energies = (t.double().cpu() for t in here)
    return Moments(mean, square - torch.outer(mean, mean), energies)


def _means(recipe: Recipe, pictures: Tensor) -> list[Tensor]:
    """Of one batch: the small images', their products', and the spectrum, which mirrored pictures have too."""
    images = scale_images(pictures, recipe.value_range)
    views = (images, images.flip(3)) if recipe.flip else (images,)
    small = torch.cat([small_images(view, max(recipe.moments_side, 1)) for view in views]).double().cpu()
    return [small.mean(0), small.T @ small / len(small), spectrum(images)]
