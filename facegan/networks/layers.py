"""The few layers and rules that several network families share."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from facegan.errors import UsageError
from facegan.networks.convolution import Conv2d, ConvTranspose2d, without_autocast
from facegan.networks.moments import MatchedMoments
from facegan.networks.resampling import UpConv2d
from facegan.networks.spectrum import MatchedSpectrum
from facegan.recipes.base import Recipe
from facegan.recipes.checks import MINIBATCH_GROUP

Masks = Sequence[Tensor] | None  # dropout masks of one forward pass, each (B, *mask_shape), values 0 or 1/(1-p)


class Network(nn.Module):
    """A generator or a discriminator; dropout masks come from outside, so that forward draws no random numbers.

    mask_shapes: shape per sample of every mask `forward(x, masks)` takes, in order; empty without dropout.
    dropout: the probability with which an entry of those masks is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mask_shapes: list[tuple[int, ...]] = []
        self.dropout = 0.0

    def drop(self, probability: float, shapes: list[tuple[int, ...]]) -> None:
        """Declare dropout of `probability` with one mask a shape; probability 0 declares none."""
        if probability > 0:
            self.mask_shapes, self.dropout = shapes, probability


def dropout(x: Tensor, masks: Masks, index: int) -> Tensor:
    """`x` times its `index`-th dropout mask; `x` itself where there are no masks."""
    return x if masks is None or not masks else x * masks[index].to(x.dtype)


def stages(recipe: Recipe) -> int:
    """How many times 4 px double to reach the recipe's resolution."""
    return int(math.log2(recipe.resolution.height // 4))


def width(base: int, halvings: int) -> int:
    """Channels of a DCGAN map `halvings` below full size: doubled each time, at most eight times `base`."""
    return base * min(1 << halvings, 8)


def norm(kind: str, channels: int, recipe: Recipe) -> nn.Module:
    """Normalisation of a (B, channels, H, W) map: batch, layer (over C, H, W), instance or none."""
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=recipe.bn_eps, momentum=recipe.bn_momentum)
    if kind == "layer":  # per-channel scale and shift, as Gulrajani et al. 2017's code
        return nn.GroupNorm(1, channels, eps=recipe.bn_eps)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, eps=recipe.bn_eps, affine=True)
    if kind == "none":
        return nn.Identity()
    raise UsageError(f"critic_norm={kind!r}: expected batch, layer, instance or none")


def activation(slope: float) -> nn.Module:
    """ReLU for slope 0, LeakyReLU otherwise; in place, as no layer before it needs its output again."""
    return LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def to_range(recipe: Recipe) -> nn.Module:
    """The generator's end: Tanh for images in [-1, 1], Sigmoid for [0, 1]; behind it what is fitted to pictures."""
    low, last = (0.0, nn.Sigmoid()) if recipe.value_range == "sigmoid" else (-1.0, nn.Tanh())
    fitted: list[nn.Module] = []
    if recipe.moments_side:
        fitted.append(MatchedMoments(recipe.channels, recipe.moments_side, recipe.resolution.height, low, 1.0))
    if recipe.spectrum_kernel:
        fitted.append(MatchedSpectrum(recipe.channels, recipe.spectrum_kernel, low, 1.0))
    return nn.Sequential(last, *fitted) if fitted else last


def down(inputs: int, outputs: int, kernel: int, *, bias: bool, stride: int = 2) -> nn.Conv2d:
    """A convolution whose output is the input's size over `stride`, rounded up ("same" padding)."""
    return Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=bias)


def halving(recipe: Recipe, inputs: int, outputs: int) -> nn.Sequential:
    """A discriminator's stage: half the size, normalised, activated."""
    return nn.Sequential(
        down(inputs, outputs, recipe.kernel, bias=True),
        norm(recipe.critic_norm, outputs, recipe),
        activation(recipe.d_slope),
    )


def odd_kernel(kernel: int) -> int:
    """A kernel that keeps a map's size: an even one is taken one smaller."""
    return kernel - 1 + kernel % 2


def up(inputs: int, outputs: int, kernel: int, how: str, *, bias: bool) -> nn.Module:
    """Twice the size: a transposed convolution ("deconv"), or nearest neighbour then convolution ("nearest").

    The second leaves no checkerboard (Odena et al. 2016, doi:10.23915/distill.00003); it needs an odd
    kernel. It is computed as one transposed convolution.
    """
    if how == "deconv":
        padding, odd = (kernel - 1) // 2, kernel % 2
        return ConvTranspose2d(inputs, outputs, kernel, 2, padding, odd, bias=bias)
    layer = UpConv2d(inputs, outputs, odd_kernel(kernel), bias=bias)
    return nn.Sequential(OrderedDict({"1": layer}))  # where checkpoints have it, behind the doubling "0"


class SelfModulation(nn.Module):
    """Every channel of a map, scaled by 1 + s(z) and shifted by t(z), both linear in z.

    After Chen et al. 2019 (arXiv:1810.01365, equation 3), where a hidden layer is between and the scale has no 1:
    what holds for the whole image, such as its tint, need not come through the 4x4 map.
    """

    def __init__(self, latent_dim: int, channels: int) -> None:
        super().__init__()
        self.of_z = nn.Linear(latent_dim, 2 * channels)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:  # (B, C, H, W), (B, latent_dim) -> (B, C, H, W)
        scale, shift = self.of_z(z).to(x.dtype)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)


class Stage(nn.Sequential):
    """A generator's layers between two sizes; a `SelfModulation` among them sees z too."""

    def forward(self, x: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, z) if isinstance(layer, SelfModulation) else layer(x)
        return x


class FirstMap(nn.ConvTranspose2d):
    """z (B, latent_dim, 1, 1) -> (B, C, k, k): a transposed convolution of one pixel, which is a matrix product."""

    def forward(self, z: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight = self.weight.permute(0, 2, 3, 1)  # (latent_dim, k, k, C), as channels_last lies in memory
        return (z.flatten(1) @ weight.flatten(1)).view(-1, *weight.shape[1:]).permute(0, 3, 1, 2)


class Head(nn.Linear):
    """The last dense layer of a discriminator: (B, C, H, W) or (B, features) -> logits (B,), float32."""

    def forward(self, x: Tensor) -> Tensor:
        return _logits(x.flatten(1), self.weight, self.bias).flatten()


class WholeMap(nn.Conv2d):
    """(B, C, k, k) -> (B, 1, 1, 1), float32: a convolution as large as its input, which is a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight  # once: under spectral norm each look is a power iteration
        flat, row = (t.permute(0, 2, 3, 1).flatten(1) for t in (x, weight))
        return _logits(flat, row, self.bias)[:, :, None, None]


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear map without autocast: the logit is where rounding would matter most."""
    with without_autocast(x):
        return F.linear(x.to(weight.dtype), weight, bias)


class LeakyReLU(nn.LeakyReLU):
    """`nn.LeakyReLU` in place, whose second derivative for its input is none instead of a map of zeros.

    Those zeros would go back through the whole first pass when a gradient penalty is differentiated.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _leaky_relu(x, self.negative_slope)


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        y = F.leaky_relu_(x, slope)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        (y,) = ctx.saved_tensors  # of the same sign as x
        return torch.ops.aten.leaky_relu_backward(dy, y.detach(), ctx.slope, True), None


_leaky_relu: Callable[..., Tensor] = _LeakyReLU.apply


class MinibatchStd(nn.Module):
    """Append the standard deviation over groups of four neighbouring samples, averaged to a number: one channel.

    Karras et al. 2018 (arXiv:1710.10196, section 3). per_map: a number for each of the C maps, and so C channels
    (`mbstd_num_channels` of NVlabs/stylegan2-ada-pytorch). Groups are contiguous, so a batch split over ranks keeps
    its groups (`facegan.recipes.checks.check_split`); one that ends early is filled up with the first samples.
    """

    def __init__(self, *, per_map: bool = False) -> None:
        super().__init__()
        self.per_map = per_map

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C + 1 or 2 C, H, W)
        batch, _, height, width = x.shape
        rows = x.float().permute(0, 2, 3, 1)  # a view of channels_last
        if batch % MINIBATCH_GROUP:
            rows = rows[torch.arange(batch + -batch % MINIBATCH_GROUP, device=x.device) % batch]
        grouped = rows.reshape(-1, MINIBATCH_GROUP, x[0].numel())
        centred = grouped - grouped.mean(dim=1, keepdim=True)
        deviation = (centred.square().mean(dim=1) + 1e-8).sqrt()  # (groups, H * W * C)
        kept = deviation.view(len(deviation), height * width, -1) if self.per_map else deviation[:, :, None]
        numbers = kept.mean(dim=1).repeat_interleave(MINIBATCH_GROUP, dim=0)[:batch].to(x.dtype)
        return torch.cat([x, numbers[:, :, None, None].expand(-1, -1, height, width)], dim=1)


def minibatch_std(recipe: Recipe, channels: int) -> tuple[nn.Module, int]:
    """What the recipe appends to the last (B, channels, H, W) map of its discriminator, and the channels then."""
    if not recipe.minibatch_std:
        return nn.Identity(), channels
    per_map = recipe.minibatch_per_map
    return MinibatchStd(per_map=per_map), channels + (channels if per_map else 1)


def initialise(network: nn.Module, init: str) -> None:
    """Set the weights; the caller seeds torch before building.

    dcgan: N(0, 0.02), BatchNorm scales N(1, 0.02) (Radford et al. 2016, pytorch/examples). normal: N(0, 0.02),
    scales 1. glorot: Glorot uniform (Keras's default). Biases 0 in all three.
    torch: PyTorch's own defaults. Raises UsageError for another name.
    """
    if init not in ("dcgan", "normal", "glorot", "torch"):
        raise UsageError(f"init={init!r}: expected dcgan, normal, glorot or torch")
    if init == "torch":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            _initialise_weight(module.weight, init)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and init == "dcgan":
            nn.init.normal_(module.weight, 1.0, 0.02)


def _initialise_weight(weight: Tensor, init: str) -> None:
    if init == "glorot":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.normal_(weight, 0.0, 0.02)


def normalise_spectrum(network: nn.Module) -> None:
    """Give every convolution and dense layer spectral norm 1 (Miyato et al. 2018, arXiv:1802.05957).

    Call after `initialise`. The power iteration's vectors are buffers, so a checkpoint carries them; each forward
    pass in training mode advances them by one.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            parametrizations.spectral_norm(module)
