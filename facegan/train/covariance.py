"""The covariance of the pictures that a run trains on, made small, for the generator that it stores."""

import torch
from torch import Tensor

from facegan.networks.covariance import small_images
from facegan.recipes import Recipe
from facegan.train.feed import Stream
from facegan.train.objective import scale_images

PICTURES = 8192  # at most; 0.8 % of error in a direction's deviation


def training_covariance(recipe: Recipe, stream: Stream) -> Tensor | None:
    """(d, d) float64, of the first 8,192 pictures in the training's own order; None where the recipe has no use.

    d = channels * covariance_side ** 2, values in the recipe's range. With `flip`, each counts mirrored too.
    """
    if not recipe.covariance_side:
        return None
    d = recipe.channels * recipe.covariance_side**2
    seen, total, products = 0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
    while seen < min(PICTURES, stream.samples):
        images = scale_images(next(stream), recipe.value_range)
        for each in (images, images.flip(3)) if recipe.flip else (images,):
            small = small_images(each, recipe.covariance_side).double().cpu()
            total, products = total + small.sum(0), products + small.T @ small
        seen += len(images)
    count = seen * (2 if recipe.flip else 1)
    return (products - torch.outer(total, total) / count) / (count - 1)
