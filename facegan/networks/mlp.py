"""Fully connected networks of SamSamhuns/ml_gan_human_face_synthesis, for any image size.

Published at 64 px with widths 256, 512, 1024, 1024 in the generator and 256, 512 in the discriminator.
"""

import math
from itertools import pairwise

from torch import Tensor, nn

from facegan.networks import layers
from facegan.networks.layers import Masks, Network
from facegan.recipes.base import Recipe


class Generator(Network):
    """z (B, latent_dim) -> images (B, C, H, W) in the recipe's value range."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.image_shape = (recipe.channels, *recipe.resolution)
        widths = [recipe.latent_dim, *(recipe.ngf * times for times in (1, 2, 4, 4))]
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(i, o), layers.activation(recipe.g_slope)) for i, o in pairwise(widths)
        )
        self.to_image = nn.Linear(widths[-1], math.prod(self.image_shape))
        self.to_range = layers.to_range(recipe)

    def forward(self, z: Tensor, masks: Masks = None) -> Tensor:
        for layer in self.hidden:
            z = layer(z)
        images: Tensor = self.to_range(self.to_image(z))
        return images.view(-1, *self.image_shape)


class Discriminator(Network):
    """images (B, C, H, W) -> logits (B,); dropout after each activation of the improved version."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = [recipe.channels * math.prod(recipe.resolution), recipe.ndf, 2 * recipe.ndf]
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(i, o), layers.activation(recipe.d_slope)) for i, o in pairwise(widths)
        )
        self.to_logit = layers.Head(widths[-1], 1)
        self.drop(recipe.dropout, [(width,) for width in widths[1:]])

    def forward(self, images: Tensor, masks: Masks = None) -> Tensor:
        x = images.flatten(1)
        for index, layer in enumerate(self.hidden):
            x = layers.dropout(layer(x), masks, index)
        logits: Tensor = self.to_logit(x)
        return logits
