"""Standing statistics: what BatchNorm would have measured had the weights always been what they are now.

An averaged generator has no running statistics of its own, and those of the live one do not fit its weights (Brock
et al. 2019, arXiv:1809.11096, appendix C, and StudioGAN measure them anew for the same reason).
"""

import torch
from torch import Tensor, nn

from facegan.networks.covariance import MatchedCovariance, small_images
from facegan.randomness import normal

LATENTS, BATCH = 2048, 256


@torch.no_grad()
def set_standing_statistics(generator: nn.Module, latent_dim: int, covariance: Tensor | None = None) -> None:
    """Set the running statistics of a generator's BatchNorm layers by its images of 2,048 fixed latents.

    By the same images, its `MatchedCovariance` is set to `covariance` (d, d), where it has one; None leaves images
    as they come. A function of the weights, and of `covariance`, alone: the same wherever it is called. Leaves the
    generator in eval mode.
    """
    layers = [module for module in generator.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    last = [module for module in generator.modules() if isinstance(module, MatchedCovariance)]
    small: list[Tensor] = []
    momenta = [layer.momentum for layer in layers]
    if layers or (last and covariance is not None):
        device = next(generator.parameters()).device
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over the batches
        generator.train()
        for z in torch.split(normal(0, "standing", 0, LATENTS, (latent_dim,)), BATCH):
            images = generator(z.to(device))
            small += [small_images(images, layer.side) for layer in last]
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for layer in last:
        layer.leave() if covariance is None else layer.match(torch.cat(small), covariance)
    generator.eval()
