"""DCGAN with a dense first layer, BatchNorm and dropout in the critic: y-assylbekov/Human-Faces-with-WGAN-GP.

BatchNorm in a critic under a gradient penalty is against Gulrajani et al. 2017 (arXiv:1704.00028, section 4): the
penalty is meant for each sample's own gradient. It is kept for the recipe wgan-gp-64, which published it so, and
refused elsewhere; `critic_norm` layer gives the correct one. Square resolutions 4 * 2^n, published at 64 px.
"""

from itertools import pairwise

from torch import Tensor, nn

from facegan.networks import layers
from facegan.networks.layers import Masks, Network
from facegan.recipes.base import Recipe


class Generator(Network):
    """z (B, latent_dim) -> images (B, C, H, W) in the recipe's value range."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = [layers.width(recipe.ngf, k) for k in reversed(range(layers.stages(recipe)))]
        self.project = nn.Linear(recipe.latent_dim, widths[0] * 16)
        self.norm = nn.BatchNorm1d(
            widths[0] * 16, eps=recipe.bn_eps, momentum=recipe.bn_momentum
        )  # each of 4x4 alone
        self.activation = layers.activation(recipe.g_slope)
        self.grow = nn.ModuleList(self.stage(recipe, i, o) for i, o in pairwise(widths))
        self.to_image = layers.up(widths[-1], recipe.channels, recipe.kernel, recipe.upsample, bias=True)
        self.to_range = layers.to_range(recipe)

    @staticmethod
    def stage(recipe: Recipe, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            layers.up(inputs, outputs, recipe.kernel, recipe.upsample, bias=True),
            layers.norm("batch", outputs, recipe),
            layers.activation(recipe.g_slope),
        )

    def forward(self, z: Tensor, masks: Masks = None) -> Tensor:
        x = self.activation(self.norm(self.project(z))).unflatten(1, (-1, 4, 4))
        for stage in self.grow:
            x = stage(x)
        images: Tensor = self.to_range(self.to_image(x))
        return images


class Discriminator(Network):
    """images (B, C, H, W) -> critic values (B,): halved until 2x2, dropout on every map."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        n = layers.stages(recipe) + 1
        widths = [recipe.channels, *(recipe.ndf << min(k, 4) for k in range(n))]
        self.shrink = nn.ModuleList(layers.halving(recipe, i, o) for i, o in pairwise(widths))
        self.to_logit = layers.Head(widths[-1] * 4, 1)
        sides = [recipe.resolution.height >> k for k in range(1, n + 1)]
        self.drop(recipe.dropout, [(c, s, s) for c, s in zip(widths[1:], sides, strict=True)])

    def forward(self, images: Tensor, masks: Masks = None) -> Tensor:
        x = images
        for index, stage in enumerate(self.shrink):
            x = layers.dropout(stage(x), masks, index)
        logits: Tensor = self.to_logit(x)
        return logits
