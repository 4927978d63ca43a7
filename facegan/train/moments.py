"""Mean and covariance of the pictures that a run trains on, made small, for the generator that it stores."""

import torch
from torch import Tensor

from facegan.networks.moments import Moments, small_images
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
    if not recipe.moments_side:
        return None
    stream.seek(0)
    batches = max(min(PICTURES, stream.samples) // recipe.batch_size, 1)
    small = torch.cat([_small(recipe, next(stream)) for _ in range(batches)]).double()
    here = [small.mean(0), small.T @ small / len(small)]
    mean, square = (t.double().cpu() for t in machine.average([t.to(machine.device) for t in here]))
    return Moments(mean, square - torch.outer(mean, mean))


def _small(recipe: Recipe, pictures: Tensor) -> Tensor:
    images = scale_images(pictures, recipe.value_range)
    views = (images, images.flip(3)) if recipe.flip else (images,)
    return torch.cat([small_images(view, recipe.moments_side) for view in views]).cpu()
