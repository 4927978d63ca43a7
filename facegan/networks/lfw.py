"""Upsample-and-convolve generator and strided critic of rlronan/Tensorflow-GAN-Faces, for any image size.

Published for 62x47: sixteenths of the sides, rounded up, grow four times to 64x48, of which the centre is kept.
"""

from itertools import pairwise

from torch import Tensor, nn

from facegan.networks import layers
from facegan.networks.convolution import Conv2d
from facegan.networks.layers import Masks, Network
from facegan.recipes.base import Recipe


class Generator(Network):
    """z (B, latent_dim) -> images (B, C, H, W) in the recipe's value range; whole maps are dropped."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        height, width = recipe.resolution
        self.start = (4 * recipe.ngf, -(-height // 16), -(-width // 16))
        self.crop = _centre(self.start[1] * 16, height), _centre(self.start[2] * 16, width)
        widths = [self.start[0], *(recipe.ngf * times for times in (8, 4, 2, 1))]
        self.project = nn.Linear(recipe.latent_dim, self.start[0] * self.start[1] * self.start[2])
        self.activation = layers.activation(recipe.g_slope)
        self.grow = nn.ModuleList(self.stage(recipe, i, o) for i, o in pairwise(widths))
        refined = [recipe.ngf, recipe.ngf // 2, recipe.ngf // 4]
        self.refine = nn.ModuleList(
            nn.Sequential(_same(i, o, recipe.kernel), layers.activation(recipe.g_slope))
            for i, o in pairwise(refined)
        )
        self.to_image = _same(refined[-1], recipe.channels, recipe.kernel)
        self.to_range = layers.to_range(recipe)
        self.drop(recipe.dropout, [(width, 1, 1) for width in widths[1:]])

    @staticmethod
    def stage(recipe: Recipe, inputs: int, outputs: int) -> nn.Sequential:
        if recipe.upsample == "nearest":  # convolve the small map, then enlarge
            larger = [_same(inputs, outputs, recipe.kernel), nn.Upsample(scale_factor=2)]
        else:
            larger = [layers.up(inputs, outputs, recipe.kernel, "deconv", bias=False)]
        return nn.Sequential(*larger, layers.norm("batch", outputs, recipe), layers.activation(recipe.g_slope))

    def forward(self, z: Tensor, masks: Masks = None) -> Tensor:
        x = self.activation(self.project(z)).unflatten(1, self.start)
        for index, stage in enumerate(self.grow):
            x = layers.dropout(stage(x), masks, index)
        for layer in self.refine:
            x = layer(x)
        rows, columns = self.crop
        images: Tensor = self.to_range(self.to_image(x))
        return images[:, :, rows, columns]


def _same(inputs: int, outputs: int, kernel: int) -> Conv2d:
    return Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)


def _centre(length: int, kept: int) -> slice:
    first = (length - kept) // 2
    return slice(first, first + kept)


class Discriminator(Network):
    """images (B, C, H, W) -> critic values (B,); its dense layers have no activation between, as published."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = [recipe.channels, *(recipe.ndf * times for times in (8, 4, 2, 1))]
        self.shrink = nn.ModuleList(
            nn.Sequential(layers.down(i, o, recipe.kernel, bias=True), layers.activation(recipe.d_slope))
            for i, o in pairwise(widths)
        )
        height, width = (-(-side // 16) for side in recipe.resolution)
        dense = [recipe.ndf * height * width, 4 * recipe.ndf, 2 * recipe.ndf, 1]
        hidden = [nn.Linear(i, o) for i, o in pairwise(dense[:-1])]
        self.dense = nn.Sequential(*hidden, layers.Head(dense[-2], dense[-1]))

    def forward(self, images: Tensor, masks: Masks = None) -> Tensor:
        x = images
        for stage in self.shrink:
            x = stage(x)
        logits: Tensor = self.dense(x.flatten(1))
        return logits
