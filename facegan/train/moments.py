"""Mean and covariance of the pictures that a run trains on, made small, for the generator that it stores."""

import torch

from facegan.networks.moments import Moments, moments, small_images
from facegan.recipes import Recipe
from facegan.train.feed import Stream
from facegan.train.objective import scale_images

PICTURES = 8192  # at most; 0.8 % of error in a direction's deviation


def training_moments(recipe: Recipe, stream: Stream) -> Moments | None:
    """Of the first 8,192 pictures in the training's own order, in the recipe's range; None where it has no use.

    d = channels * moments_side ** 2. With `flip`, each picture counts mirrored too.
    """
    if not recipe.moments_side:
        return None
    small, seen = [], 0
    while seen < min(PICTURES, stream.samples):
        images = scale_images(next(stream), recipe.value_range)
        for each in (images, images.flip(3)) if recipe.flip else (images,):
            small.append(small_images(each, recipe.moments_side).cpu())
        seen += len(images)
    return moments(torch.cat(small))
