"""What is added to a loss, or done to a critic, to keep it smooth or its generator diverse."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facegan.networks.convolution import inputs_only
from facegan.networks.layers import Masks

Critic = Callable[..., Tensor]  # critic(images (B, C, H, W), masks) -> logits (B,)


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, eps: Tensor, masks: Masks = None) -> Tensor:
    """E[(|gradient of the critic| - 1)^2] between real and generated images; the caller weighs it by lambda.

    Gulrajani et al. 2017 (arXiv:1704.00028), algorithm 1. real, fake: (B, C, H, W); eps: (B,) uniform in [0, 1),
    the share of the real image. Norm over C, H, W in float32, with 1e-12 under the root so that a zero gradient
    stays differentiable. The fakes' graph is cut: the penalty trains the critic alone.
    """
    share = eps.float()[:, None, None, None]
    mixed = share * real.detach().float() + (1 - share) * fake.detach().float()
    norm = (_squared_slope(critic, mixed, masks) + 1e-12).sqrt()
    return (norm - 1).square().mean()


def zero_centred_penalty(critic: Critic, images: Tensor, masks: Masks = None) -> Tensor:
    """E[|gradient of the critic|^2] at `images` (B, C, H, W): R1 on real images, R2 on generated ones.

    Mescheder et al. 2018 (arXiv:1801.04406), equation 9; weigh it by gamma / 2, and by n where it is taken every
    n-th batch (lazy regularisation, Karras et al. 2020, arXiv:1912.04958, appendix B).
    """
    return _squared_slope(critic, images.detach().float(), masks).mean()


def _squared_slope(critic: Critic, images: Tensor, masks: Masks) -> Tensor:
    images = images.requires_grad_()
    logits = critic(images, masks).float().sum()
    with inputs_only(critic):
        (slope,) = torch.autograd.grad(logits, images, create_graph=True)
    return slope.float().square().sum(dim=(1, 2, 3))  # (B,)


@torch.no_grad()
def clip_weights(module: nn.Module, bound: float) -> None:
    """Clamp every parameter to [-bound, bound] in place (Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1)."""
    for parameter in module.parameters():
        parameter.clamp_(-bound, bound)


def diversity_penalty(images: Tensor, f: Tensor, weight: float = 0.1) -> Tensor:
    """What rlronan/Tensorflow-GAN-Faces adds to a generator whose images look alike.

    images: G(z) in eval mode, (B, C, H, W) in [-1, 1]; f = -mean(critic(fake)), the generator's Wasserstein loss.
    With a the mean distance to the batch's mean image, distance = (1 + (1 - a))^2 - 1; the penalty is
    weight * distance * |f| * (1 - sigmoid(f)): large where the critic is fooled (f low) and the images are alike.
    """
    images, f = images.float(), f.float()
    a = (images - images.mean(dim=0, keepdim=True)).abs().mean()
    distance = (2 - a).square() - 1
    return weight * distance * f.abs() * torch.sigmoid(-f)
