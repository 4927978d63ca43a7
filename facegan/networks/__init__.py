"""Generators and discriminators: one file per family, each with a `Generator` and a `Discriminator` of a recipe."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from facegan.networks.layers import Network, initialise, normalise_spectrum
from facegan.recipes.base import Recipe
from facegan.recipes.checks import check_network

__all__ = ["Network", "build_discriminator", "build_generator", "count", "layer_table"]


def build_generator(recipe: Recipe) -> Network:
    """The generator: `forward(z (B, latent_dim), masks=None) -> images (B, C, H, W)` in the recipe's value range.

    Weights come from torch's global generator: seed it before. Raises UsageError where the family cannot do what
    the recipe asks for.
    """
    return _build(recipe, "Generator")


def build_discriminator(recipe: Recipe) -> Network:
    """The discriminator or critic: `forward(images (B, C, H, W), masks=None) -> logits (B,)`, raw scores.

    Weights come from torch's global generator: seed it before. Raises UsageError where the family cannot do what
    the recipe asks for.
    """
    return _build(recipe, "Discriminator")


def _build(recipe: Recipe, role: str) -> Network:
    check_network(recipe)
    network: Network = getattr(importlib.import_module(f"{__name__}.{recipe.network}"), role)(recipe)
    initialise(network, recipe.init)
    if recipe.spectral_norm and role == "Discriminator":
        normalise_spectrum(network)
    return network


def count(module: nn.Module) -> tuple[int, int]:
    """Parameters as (total, trainable); total, as in Keras, includes BatchNorm's running means and variances."""
    trainable = sum(p.numel() for p in module.parameters())
    running = sum(b.numel() for name, b in module.named_buffers() if name.endswith(("running_mean", "running_var")))
    return trainable + running, trainable


def layer_table(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Layers of both networks in the order they run, nothing computed and no random number drawn.

    {"generator": {"layers": [(name, output shape of one sample, total parameters), ...], "total": ...,
    "trainable": ...}, "discriminator": {...}}
    """
    with torch.device("meta"):
        generator, discriminator = build_generator(recipe), build_discriminator(recipe)
        z = torch.empty(4, recipe.latent_dim)
        images = torch.empty(4, recipe.channels, *recipe.resolution)
    return {"generator": _table(generator, z), "discriminator": _table(discriminator, images)}


def _table(network: Network, inputs: Tensor) -> dict[str, Any]:
    rows: list[tuple[str, tuple[int, ...], int]] = []

    def record(name: str, module: nn.Module, output: Tensor) -> None:
        shape = tuple(output.shape[1:]) or (1,)  # one logit a sample
        rows.append((name, shape, count(module)[0]))

    for name, module in network.named_modules():
        if _is_layer(name, module):
            module.register_forward_hook(lambda m, _, output, name=name: record(name, m, output))
    network(inputs)
    total, trainable = count(network)
    return {"layers": rows, "total": total, "trainable": trainable}


def _is_layer(name: str, module: nn.Module) -> bool:
    """A module without parts of its own; what spectral norm hangs below a layer does not count as parts."""
    parts = [part for part, _ in module.named_children() if part != "parametrizations"]
    return not parts and "parametrizations" not in name and not isinstance(module, nn.Identity)
