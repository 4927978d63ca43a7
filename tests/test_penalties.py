"""Penalties against critics whose slope is known."""

from typing import Any

import pytest
import torch
from tiny import tiny_recipe
from torch import Tensor, nn

from facegan import networks, recipes
from facegan.train import augment, penalties
from facegan.train.draws import Draws, ViewDraws
from facegan.train.objective import discriminator_objective
from facegan.train.schedules import schedule_values

SHAPE = (5, 3, 4, 6)


class LinearCritic(nn.Module):
    """critic(x) = <w, x>: its gradient is w everywhere."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        w = torch.randn(SHAPE[1:])
        self.w = nn.Parameter(w * norm / w.norm())

    def forward(self, images: Tensor, masks: Any = None) -> Tensor:
        return (images * self.w).sum(dim=(1, 2, 3))


@pytest.mark.parametrize("norm", [0.25, 1.0, 3.0])
def test_gradient_penalty_of_a_linear_critic_is_its_norm_less_one_squared(norm: float) -> None:
    torch.manual_seed(0)
    penalty = penalties.gradient_penalty(LinearCritic(norm), torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(5))
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-5)


def test_gradient_penalty_trains_a_linear_critic_towards_norm_one() -> None:
    torch.manual_seed(0)
    critic = LinearCritic(3.0)
    penalties.gradient_penalty(critic, torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(5)).backward()
    expected = 2 * (3 - 1) * critic.w.detach() / 3  # d/dw (|w| - 1)^2
    torch.testing.assert_close(critic.w.grad, expected)


def test_gradient_penalty_of_a_constant_critic_is_one_with_a_finite_gradient() -> None:
    critic = LinearCritic(1.0)
    critic.w.data.zero_()
    penalty = penalties.gradient_penalty(critic, torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(5))
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-4)
    assert critic.w.grad is not None and critic.w.grad.isfinite().all()


def test_the_penalty_is_taken_eps_of_the_way_from_fake_to_real() -> None:
    seen = []

    def critic(images: Tensor, masks: Any) -> Tensor:
        seen.append(images.detach())
        return images.sum(dim=(1, 2, 3))

    real, fake, eps = torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    penalties.gradient_penalty(critic, real, fake, eps)
    torch.testing.assert_close(seen[0][0], fake[0])
    torch.testing.assert_close(seen[0][1], 0.25 * real[1] + 0.75 * fake[1])
    torch.testing.assert_close(seen[0][4], real[4])


def test_penalties_hand_their_masks_to_the_critic() -> None:
    seen = []

    def critic(images: Tensor, masks: Any) -> Tensor:
        seen.append(masks)
        return images.sum(dim=(1, 2, 3))

    masks = [torch.ones(5, 2)]
    penalties.gradient_penalty(critic, torch.randn(SHAPE), torch.randn(SHAPE), torch.rand(5), masks)
    penalties.zero_centred_penalty(critic, torch.randn(SHAPE), masks)
    assert seen == [masks, masks]


def test_no_gradient_reaches_the_generator_through_a_penalty() -> None:
    def curved(images: Tensor, masks: Any) -> Tensor:
        return (w * images**2).sum(dim=(1, 2, 3))

    fake, w = torch.randn(SHAPE, requires_grad=True), torch.ones((), requires_grad=True)
    penalty = penalties.gradient_penalty(curved, torch.randn(SHAPE), fake, torch.rand(5))
    (penalty + penalties.zero_centred_penalty(curved, fake)).backward()
    assert fake.grad is None and w.grad is not None


def test_the_images_of_the_caller_do_not_start_to_require_gradients() -> None:
    real, fake = torch.randn(SHAPE), torch.randn(SHAPE)
    penalties.gradient_penalty(LinearCritic(2.0), real, fake, torch.rand(5))
    penalties.zero_centred_penalty(LinearCritic(2.0), real)
    assert not real.requires_grad and not fake.requires_grad


@pytest.mark.parametrize("norm", [0.0, 0.5, 2.0])
def test_zero_centred_penalty_of_a_linear_critic_is_its_norm_squared(norm: float) -> None:
    critic = LinearCritic(norm)
    penalty = penalties.zero_centred_penalty(critic, torch.randn(SHAPE))
    assert penalty.item() == pytest.approx(norm**2, rel=1e-5)
    (slope,) = torch.autograd.grad(penalty, critic.w)
    torch.testing.assert_close(slope, 2 * critic.w.detach())


def test_zero_centred_penalty_of_a_quadratic_critic_is_the_mean_square_of_its_slope() -> None:
    images = torch.randn(SHAPE)
    penalty = penalties.zero_centred_penalty(lambda x, _: (x**2).sum(dim=(1, 2, 3)) / 2, images)
    torch.testing.assert_close(penalty.detach(), images.square().sum(dim=(1, 2, 3)).mean())


@pytest.mark.parametrize("name", ["wgan-gp-lfw", "wgan-gp-64", "wgan-gp-128", "face-64"])
def test_double_backward_works_in_float32_and_under_bfloat16_autocast(name: str) -> None:
    recipe = recipes.load(name)
    real, fake = torch.rand(2, 4, 3, *recipe.resolution)  # a group of minibatch_std is whole in every training
    found = {}
    for bfloat16 in (False, True):
        torch.manual_seed(0)
        critic = networks.build_discriminator(recipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            penalty = penalties.gradient_penalty(critic, real, fake, torch.tensor([0.3, 0.6, 0.1, 0.8]))
            penalty = penalty + penalties.zero_centred_penalty(critic, real)
        assert penalty.dtype == torch.float32
        penalty.backward()
        found[bfloat16] = torch.cat([p.grad.flatten() for p in critic.parameters() if p.grad is not None])
    cosine = torch.nn.functional.cosine_similarity(found[False], found[True], dim=0)
    assert found[True].isfinite().all() and cosine > 0.98


def test_clipping_brings_every_parameter_into_the_bound_and_leaves_smaller_ones() -> None:
    module = nn.Linear(2, 2)
    module.weight.data = torch.tensor([[0.5, -0.5], [0.005, -0.005]])
    module.bias.data = torch.tensor([1.0, 0.0])
    penalties.clip_weights(module, 0.01)
    torch.testing.assert_close(module.weight.data, torch.tensor([[0.01, -0.01], [0.005, -0.005]]))
    torch.testing.assert_close(module.bias.data, torch.tensor([0.01, 0.0]))


# rlronan/Tensorflow-GAN-Faces: f, mean distance a of the images to their mean, penalty
VECTORS = [(-10.0, 0.3, 1.889914), (10.0, 0.3, 8.5802e-5), (-30.0, 0.25, 6.187500), (0.5, 0.3, 0.0356776)]


@pytest.mark.parametrize(("f", "a", "expected"), VECTORS)
def test_diversity_penalty_gives_the_published_values(f: float, a: float, expected: float) -> None:
    images = torch.stack([torch.full((3, 4, 4), a), torch.full((3, 4, 4), -a)])  # mean image 0, mean distance a
    assert penalties.diversity_penalty(images, torch.tensor(f), 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_diversity_penalty_pushes_images_apart() -> None:
    images = (0.1 * torch.randn(4, 3, 4, 4)).requires_grad_()
    f = torch.tensor(-5.0)
    (slope,) = torch.autograd.grad(penalties.diversity_penalty(images, f, 0.1), images)
    further = images.detach() - 10 * slope
    assert penalties.diversity_penalty(further, f, 0.1) < penalties.diversity_penalty(images, f, 0.1)


def test_r1_is_the_slope_at_the_sharpened_images_that_the_discriminator_sees() -> None:
    recipe = tiny_recipe("face-64", sharpen=2.0)
    critic, real, fake = LinearCritic(3.0), torch.randn(SHAPE), torch.randn(SHAPE)
    draws, values = Draws(torch.randn(5, recipe.latent_dim), None, ViewDraws()), schedule_values(recipe, 0, 1000)
    _, terms = discriminator_objective(recipe, critic, real, fake, draws, values)
    assert terms["loss/r1"].item() == pytest.approx(9, rel=1e-5)  # at the pixels themselves it would be more
    for name, images in (("scores/real", real), ("scores/fake", fake)):
        torch.testing.assert_close(terms[name], critic(augment.sharpen(images, 2.0)).mean().detach())
