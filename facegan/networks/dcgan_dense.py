"""DCGAN with dense first and last layers, activation before BatchNorm: Noe & Thapa.

Square resolutions 4 * 2^n: published at 32, 64 and 128 px, the layers at 128. Smaller sizes leave out the
generator's first stages and keep the discriminator's four convolutions.
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
        self.norm = layers.norm("batch", widths[0], recipe)
        self.grow = nn.ModuleList(self.stage(recipe, i, o) for i, o in pairwise(widths))
        self.to_image = layers.up(widths[-1], recipe.channels, recipe.kernel, recipe.upsample, bias=True)
        self.to_range = layers.to_range(recipe)

    @staticmethod
    def stage(recipe: Recipe, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            layers.up(inputs, outputs, recipe.kernel, recipe.upsample, bias=True),
            layers.activation(recipe.g_slope),
            layers.norm("batch", outputs, recipe),
        )

    def forward(self, z: Tensor, masks: Masks = None) -> Tensor:
        x = self.norm(self.project(z).unflatten(1, (-1, 4, 4)))
        for stage in self.grow:
            x = stage(x)
        images: Tensor = self.to_range(self.to_image(x))
        return images


class Discriminator(Network):
    """images (B, C, H, W) -> logits (B,).

    As published: no BatchNorm on the first and the last convolution, and no activation on the last, which the dense
    layer then follows directly.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = [layers.width(recipe.ndf, k) for k in range(4)]
        self.first = nn.Sequential(
            layers.down(recipe.channels, widths[0], recipe.kernel, bias=True, stride=recipe.first_stride),
            layers.activation(recipe.d_slope),
        )
        self.shrink = nn.ModuleList(layers.halving(recipe, i, o) for i, o in pairwise(widths[:3]))
        self.last = layers.down(widths[2], widths[3], recipe.kernel, bias=True)
        self.minibatch_std, channels = layers.minibatch_std(recipe, widths[3])
        side = recipe.resolution.height // recipe.first_stride // 8  # 1 px at least: checks.py
        self.to_logit = layers.Head(channels * side**2, 1)

    def forward(self, images: Tensor, masks: Masks = None) -> Tensor:
        x = self.first(images)
        for stage in self.shrink:
            x = stage(x)
        logits: Tensor = self.to_logit(self.minibatch_std(self.last(x)))
        return logits
