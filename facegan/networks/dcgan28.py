"""Networks for 28 px of chrispmaag/gan_face_generation: its discriminator, and as generator the mirror of it."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from facegan.networks import layers
from facegan.networks.convolution import ConvTranspose2d
from facegan.networks.layers import Masks, Network
from facegan.recipes.base import Recipe

SIDES = (28, 14, 7, 4)


class Generator(Network):
    """z (B, latent_dim) -> images (B, C, 28, 28) in the recipe's value range.

    The reference publishes none; this is its discriminator turned round.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = [recipe.ngf * times for times in (4, 2, 1)]
        self.project = nn.Linear(recipe.latent_dim, widths[0] * SIDES[3] ** 2)
        self.after_project = nn.Sequential(*self.after(recipe, widths[0]))
        # 4 -> 7 is not a doubling: one row and one column less than 14 / 2 + 1
        self.to_7 = ConvTranspose2d(widths[0], widths[1], recipe.kernel, 2, padding=recipe.kernel // 2)
        self.after_7 = nn.Sequential(*self.after(recipe, widths[1]))
        self.to_14 = layers.up(widths[1], widths[2], recipe.kernel, "deconv", bias=True)
        self.after_14 = nn.Sequential(*self.after(recipe, widths[2]))
        self.to_image = layers.up(widths[2], recipe.channels, recipe.kernel, "deconv", bias=True)
        self.to_range = layers.to_range(recipe)

    @staticmethod
    def after(recipe: Recipe, channels: int) -> list[nn.Module]:
        return [layers.norm("batch", channels, recipe), layers.activation(recipe.g_slope)]

    def forward(self, z: Tensor, masks: Masks = None) -> Tensor:
        x = self.after_project(self.project(z).unflatten(1, (-1, SIDES[3], SIDES[3])))
        x = self.after_14(self.to_14(self.after_7(self.to_7(x))))
        images: Tensor = self.to_range(self.to_image(x))
        return images


class BatchStatisticsNorm(nn.BatchNorm2d):
    """BatchNorm that uses the batch's own statistics in eval mode too, as the reference calls its own.

    The running statistics are kept as the published parameter count has them, and never used.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class Discriminator(Network):
    """images (B, C, 28, 28) -> logits (B,). The reference returns the probability too: the logit's sigmoid."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        widths = [recipe.channels, *(recipe.ndf * times for times in (1, 2, 4))]
        self.convolutions = nn.ModuleList(layers.down(i, o, recipe.kernel, bias=True) for i, o in pairwise(widths))
        self.norms = nn.ModuleList([nn.Identity(), *(self.norm(recipe, width) for width in widths[2:])])
        self.activation = layers.activation(recipe.d_slope)
        self.to_logit = layers.Head(widths[-1] * SIDES[3] ** 2, 1)
        self.drop(recipe.dropout, [(widths[2], SIDES[2], SIDES[2]), (widths[3], SIDES[3], SIDES[3])])

    @staticmethod
    def norm(recipe: Recipe, channels: int) -> nn.Module:
        if recipe.critic_norm == "batch":
            return BatchStatisticsNorm(channels, eps=recipe.bn_eps, momentum=recipe.bn_momentum)
        return layers.norm(recipe.critic_norm, channels, recipe)

    def forward(self, images: Tensor, masks: Masks = None) -> Tensor:
        x = images
        for index, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(convolution(x))
            if index:  # the first layer has no dropout
                x = layers.dropout(x, masks, index - 1)
            x = self.activation(x)
        logits: Tensor = self.to_logit(x)
        return logits
