"""Standing statistics: what BatchNorm would have measured had the weights always been what they are now.

An averaged generator has no running statistics of its own, and those of the live one do not fit its weights (Brock
et al. 2019, arXiv:1809.11096, appendix C, and StudioGAN measure them anew for the same reason).
"""

import torch
from torch import Tensor, nn

from facegan.networks.moments import MatchedMoments, Moments, small_images
from facegan.networks.spectrum import MatchedSpectrum, spectrum
from facegan.randomness import normal

LATENTS, BATCH = 2048, 256


@torch.no_grad()
def set_standing_statistics(generator: nn.Module, latent_dim: int, wanted: Moments | None = None) -> None:
    """Set the running statistics of a generator's BatchNorm layers by its images of 2,048 fixed latents.

    By the same images its `MatchedMoments` and `MatchedSpectrum`, where it has them, are matched to `wanted`; None
    leaves images as they come. A function of the weights, and of `wanted`, alone: the same wherever it is called.
    Leaves the generator in eval mode.
    """
    layers = [module for module in generator.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    matched = [module for module in generator.modules() if isinstance(module, MatchedMoments)]
    filters = [module for module in generator.modules() if isinstance(module, MatchedSpectrum)]
    small: list[Tensor] = []
    spectra: list[Tensor] = []
    momenta = [layer.momentum for layer in layers]
    if layers or (wanted is not None and (matched or filters)):
        device = next(generator.parameters()).device
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over the batches
        generator.train()
        for z in torch.split(normal(0, "standing", 0, LATENTS, (latent_dim,)), BATCH):
            images = generator(z.to(device))
            small += [small_images(images, each.side) for each in matched]
            spectra += [spectrum(images) for _ in filters]
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for each in matched:
        each.leave() if wanted is None else each.match(torch.cat(small), wanted)
    for filter_ in filters:
        filter_.leave() if wanted is None else filter_.match(torch.stack(spectra).mean(0), wanted.spectrum)
    generator.eval()
