"""What was made faster computes what it computed before: values, gradients, and gradients of gradients."""

import dataclasses

import pytest
import torch
from tiny import tiny_recipe
from torch import Tensor, nn

from facegan import machine
from facegan.config import RunSettings
from facegan.draws import Drawer, knobs
from facegan.networks import build_discriminator, build_generator
from facegan.networks.layers import FirstMap, WholeMap
from facegan.objective import discriminator_objective, scale_images

PAIRS = {
    "first map": (FirstMap(5, 6, 4, bias=False), nn.ConvTranspose2d(5, 6, 4, bias=False), (3, 5, 1, 1)),
    "whole map": (WholeMap(6, 1, 4), nn.Conv2d(6, 1, 4), (3, 6, 4, 4)),
    "whole map without bias": (WholeMap(6, 1, 4, bias=False), nn.Conv2d(6, 1, 4, bias=False), (3, 6, 4, 4)),
}


def derivatives(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, its gradients, and those of the squared slope as a gradient penalty takes them."""
    x = x.clone().requires_grad_()
    y = layer(x)
    first = torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()], create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), list(layer.parameters()), allow_unused=True)
    return [y, *first, *(grad for grad in second if grad is not None)]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_written_as_a_product_is_that_convolution(name: str, layout: torch.memory_format) -> None:
    ours, plain, shape = PAIRS[name]
    ours, plain = ours.double(), plain.double().to(memory_format=layout)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for a, b in zip(derivatives(ours, x.to(memory_format=layout)), derivatives(plain, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("wgan-gp-128", {}), ("mlp-64-improved", {"critic_norm": "none"}), ("dcgan-64", {"critic_norm": "layer"})],
)
def test_one_pass_over_real_and_fake_gives_the_gradients_of_two(name: str, changes: dict[str, object]) -> None:
    recipe = tiny_recipe(name, **changes)
    machine.start(RunSettings(threads=1, precision="fp32"))
    torch.manual_seed(0)
    generator, critic = build_generator(recipe).double(), build_discriminator(recipe).double()
    draws = Drawer(recipe, 0, generator, critic).step(0, 6).critic[0].map(Tensor.double)
    images = torch.randint(0, 256, (6, recipe.channels, *recipe.resolution), dtype=torch.uint8)
    real, fake = scale_images(images, recipe.value_range).double(), generator(draws.z).detach()
    recipe = dataclasses.replace(recipe, gp_weight=0.0)
    found = []
    for calls in (1, 2):
        split = dataclasses.replace(recipe, minibatch_std=calls == 2)  # asks for a pass each
        loss, terms = discriminator_objective(split, critic, real, fake, draws, knobs(recipe, 0, 1000))
        found.append([loss, *terms.values(), *torch.autograd.grad(loss, list(critic.parameters()))])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)
