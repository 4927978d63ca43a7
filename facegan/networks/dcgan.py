"""DCGAN without biases or dense layers: Radford et al. 2016 (arXiv:1511.06434) as pytorch/examples writes it.

Square resolutions 4 * 2^n. Published at 64 px with kernel 4; other sizes double the maps, at most eight times the
base width.
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
        n = layers.stages(recipe)
        widths = [layers.width(recipe.ngf, k) for k in reversed(range(n))]
        if recipe.full_size_stage:  # an image's last nonlinearity is else at half its size
            widths.append(-(-recipe.ngf // 2))
        first = layers.FirstMap(recipe.latent_dim, widths[0], 4, bias=False)
        self.project = layers.Stage(first, *self.after(recipe, widths[0]))  # 1x1 -> 4x4
        self.grow = nn.ModuleList(
            layers.Stage(layers.up(i, o, recipe.kernel, recipe.upsample, bias=False), *self.after(recipe, o))
            for i, o in pairwise(widths)
        )
        self.to_image = self.image_layer(recipe, widths[-1])
        self.to_range = layers.to_range(recipe)

    @staticmethod
    def image_layer(recipe: Recipe, inputs: int) -> nn.Module:
        if recipe.full_size_stage:
            kernel = layers.odd_kernel(recipe.kernel)
            return layers.down(inputs, recipe.channels, kernel, bias=False, stride=1)
        return layers.up(inputs, recipe.channels, recipe.kernel, recipe.upsample, bias=False)

    @staticmethod
    def after(recipe: Recipe, channels: int) -> list[nn.Module]:
        modulation = [layers.SelfModulation(recipe.latent_dim, channels)] if recipe.self_modulation else []
        return [
            layers.norm(recipe.generator_norm, channels, recipe),
            *modulation,
            layers.activation(recipe.g_slope),
        ]

    def forward(self, z: Tensor, masks: Masks = None) -> Tensor:
        x = self.project(z[:, :, None, None], z)
        for stage in self.grow:
            x = stage(x, z)
        images: Tensor = self.to_range(self.to_image(x))
        return images


class Discriminator(Network):
    """images (B, C, H, W) -> logits (B,); a critic where the loss is Wasserstein's.

    Convolutions have no bias, as published, unless `critic_norm` is none.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = [recipe.channels, *(layers.width(recipe.ndf, k) for k in range(layers.stages(recipe)))]
        self.shrink = nn.ModuleList(self.stage(recipe, i, o, k) for k, (i, o) in enumerate(pairwise(widths)))
        self.minibatch_std, channels = layers.minibatch_std(recipe, widths[-1])
        self.to_logit = layers.WholeMap(channels, 1, 4, bias=recipe.critic_norm == "none")

    @staticmethod
    def stage(recipe: Recipe, inputs: int, outputs: int, index: int) -> nn.Sequential:
        kind = recipe.critic_norm if index else "none"  # never on the image itself
        return nn.Sequential(
            layers.down(inputs, outputs, recipe.kernel, bias=recipe.critic_norm == "none"),
            layers.norm(kind, outputs, recipe),
            layers.activation(recipe.d_slope),
        )

    def forward(self, images: Tensor, masks: Masks = None) -> Tensor:
        x = images
        for stage in self.shrink:
            x = stage(x)
        logits: Tensor = self.to_logit(self.minibatch_std(x)).flatten()
        return logits
