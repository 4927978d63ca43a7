"""What is done to images before the discriminator sees them: pure functions of the images and of uniform numbers.

`u` is (B, K) uniform in [0, 1), one row a sample, drawn outside; K is a constant below.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from facegan.networks.convolution import without_autocast
from facegan.recipes.checks import POLICIES, policy_names

FLIP_DRAWS = 1
GEOMETRIC_DRAWS = 5  # turn, shear, zoom of the rows, zoom of the columns, flip
DIFFAUGMENT_DRAWS = 7  # brightness, saturation, contrast, shift of rows and columns, cutout's row and column
CHANCE_DRAWS = len(POLICIES)  # behind those, where each part of the policy is left out by chance
LARGEST_SHIFT = 1 / 8  # of a side, Zhao et al. 2020's code
CUTOUT = 1 / 2  # of a side, Zhao et al. 2020's code


def flip(images: Tensor, u: Tensor) -> Tensor:
    """Mirror those images (B, C, H, W) whose `u` (B, 1) is 1/2 or more."""
    return _mirror(images, u[:, 0])


def _mirror(images: Tensor, u: Tensor) -> Tensor:
    return torch.where(u[:, None, None, None] < 0.5, images, images.flip(3))


def geometric(
    images: Tensor, u: Tensor, *, rotation: float = 0.0, shear: float = 0.0, zoom: float = 0.0, flip: bool = False
) -> Tensor:
    """Turn, shear, zoom and mirror each image (B, C, H, W) about its centre; the border's pixels fill what is new.

    u: (B, GEOMETRIC_DRAWS). rotation: up to +-degrees; shear: up to +-tangent, along the rows; zoom: each axis by
    1 - zoom to 1 + zoom. u = 1/2 everywhere but in the flip leaves an image where it is. Bilinear, as Keras's
    ImageDataGenerator, which the LFW reference uses; nearest fill.
    """
    if rotation or shear or zoom:
        grid = F.affine_grid(
            _inverse_map(images, u, rotation, shear, zoom), list(images.shape), align_corners=False
        )
        images = F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
    return _mirror(images, u[:, 4]) if flip else images


def _inverse_map(images: Tensor, u: Tensor, rotation: float, shear: float, zoom: float) -> Tensor:
    """(B, 2, 3): from output to input coordinates in [-1, 1], made in pixels so that a turn keeps angles."""
    turn, slant, rows, columns = (2 * u[:, :4] - 1).unbind(dim=1)
    angle, tangent = turn * math.radians(rotation), slant * shear
    rows, columns = 1 + rows * zoom, 1 + columns * zoom
    cos, sin, side = angle.cos(), angle.sin(), images.shape[3] / images.shape[2]
    x_row = torch.stack([cos / columns, (cos * tangent - sin) / rows / side, torch.zeros_like(cos)], dim=1)
    y_row = torch.stack([sin / columns * side, (sin * tangent + cos) / rows, torch.zeros_like(cos)], dim=1)
    return torch.stack([x_row, y_row], dim=1)


def diffaugment(images: Tensor, u: Tensor, policy: str, chance: float | Tensor | None = None) -> Tensor:
    """DiffAugment (Zhao et al. 2020, arXiv:2006.10738): the same policy on real and generated images.

    images: (B, C, H, W); u: (B, DIFFAUGMENT_DRAWS), with `chance` (B, DIFFAUGMENT_DRAWS + CHANCE_DRAWS); policy:
    some of color, translation and cutout with commas between, applied in this order; empty does nothing. chance:
    the probability of each part for each image by itself (Karras et al. 2020, arXiv:2006.06676, section 3); None
    applies all. Raises UsageError for another name.
    """
    wanted = policy_names(policy)
    parts = {"color": (_color, u[:, 0:3]), "translation": (_translation, u[:, 3:5]), "cutout": (_cutout, u[:, 5:7])}
    for k, (name, (change, draws)) in enumerate(parts.items()):
        if name in wanted:
            changed = change(images, draws)
            if chance is not None:
                changed = torch.where(u[:, DIFFAUGMENT_DRAWS + k, None, None, None] < chance, changed, images)
            images = changed
    return images


def adapted(chance: Tensor, sign: Tensor, target: float, step: float) -> Tensor:
    """The probability after one update: a `step` up where the discriminator is too sure of real images, else down.

    sign: the mean of the sign of its logits on real images as it saw them, r_t of Karras et al. 2020
    (arXiv:2006.06676, equation 1), who hold it at 0.6 and look every fourth batch.
    """
    return (chance + step * (sign - target).sign()).clamp(0, 1)


def _color(images: Tensor, u: Tensor) -> Tensor:
    brightness, saturation, contrast = u.to(images.dtype)[:, :, None, None, None].unbind(dim=1)
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _translation(images: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, zeros coming in."""
    for axis, share in ((2, u[:, 0]), (3, u[:, 1])):
        side = images.shape[axis]
        reach = int(side * LARGEST_SHIFT + 0.5)
        shift = (share * (2 * reach + 1)).floor().long() - reach  # (B,)
        source = torch.arange(side, device=images.device) - shift[:, None]  # (B, side)
        inside = (source >= 0) & (source < side)
        view = [-1, 1, 1, 1]
        view[axis] = side
        index = source.clamp(0, side - 1).view(view).expand_as(images)
        images = images.gather(axis, index) * inside.view(view).to(images.dtype)
    return images


def _cutout(images: Tensor, u: Tensor) -> Tensor:
    """A square of half the side set to 0, its centre anywhere in the image."""
    keep = torch.zeros(len(images), 1, 1, 1, dtype=torch.bool, device=images.device)
    for axis, share in ((2, u[:, 0]), (3, u[:, 1])):
        side = images.shape[axis]
        hole = int(side * CUTOUT + 0.5)
        start = (share * (side + 1 - hole % 2)).floor() - hole // 2  # (B,)
        offset = torch.arange(side, device=images.device) - start[:, None]
        view = [-1, 1, 1, 1]
        view[axis] = side
        keep = keep | ((offset < 0) | (offset >= hole)).view(view)
    return images * keep.to(images.dtype)


def sharpen(images: Tensor, amount: float) -> Tensor:
    """`images` (B, C, H, W) and `amount` times their difference from the mean of each 3x3; float32, edges repeated.

    Ours: a discriminator hardly learns from what has little power, and in photographs that is fine detail (Schwarz
    et al. 2021, arXiv:2111.02447); R1, which weighs the slope of every pixel alike, holds it back there most. This
    multiplies the finest detail by up to 1 + 4/3 amount and leaves flat light as it is. 0 leaves all as it is.
    """
    if not amount:
        return images
    kernel = torch.full((3, 3), -amount / 9, device=images.device)
    kernel[1, 1] += 1 + amount
    each = torch.eye(images.shape[1], device=images.device)[:, :, None, None] * kernel  # no channel sees another
    with without_autocast(images):
        return F.conv2d(F.pad(images.float(), (1, 1, 1, 1), "replicate"), each)


def instance_noise(images: Tensor, normals: Tensor, std: float | Tensor) -> Tensor:
    """`images` with noise N(0, std) added (Sonderby et al. 2017, arXiv:1610.04490); normals: as images, N(0, 1)."""
    return images + std * normals
