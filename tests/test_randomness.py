"""Counter-based randomness: the numbers of a sample do not depend on who draws them, and are what they claim."""

import numpy as np
import pytest
import torch

from facegan import recipes
from facegan.networks import build_discriminator, build_generator
from facegan.randomness import keep_bits, keep_mask, mask_of_bits, normal, uniform
from facegan.train.draws import RandomNumbers


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(), (3,), (5, 7)])
def test_a_sample_has_the_same_numbers_in_any_batch(draw, shape):
    whole = draw(7, "z", 1000, 12, shape)
    parts = [draw(7, "z", 1000 + i, 1, shape) for i in range(12)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole[5:9], draw(7, "z", 1005, 4, shape))


def test_masks_of_a_sample_are_the_same_in_any_batch():
    whole = keep_mask(1, "mask", 64, 8, (4, 3, 3), 0.45)
    assert torch.equal(whole[6:], keep_mask(1, "mask", 70, 2, (4, 3, 3), 0.45))


def test_seed_use_and_position_each_change_the_numbers():
    base = uniform(0, "z", 0, 4, (8,))
    for other in (uniform(1, "z", 0, 4, (8,)), uniform(0, "y", 0, 4, (8,)), uniform(0, "z", 4, 4, (8,))):
        assert not torch.isin(other, base).any()


def test_normals_are_standard_normal():
    x = normal(3, "z", 0, 2000, (100,)).double()
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.1
    rows = np.corrcoef(x[:50].numpy())
    assert np.abs(rows - np.eye(50)).max() < 0.55


def test_uniforms_fill_the_unit_interval_evenly():
    u = uniform(3, "u", 0, 1000, (100,))
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, 20, 0, 1)
    assert ((counts - 5000).abs() < 350).all()


def test_masks_keep_the_mean_and_drop_the_asked_share():
    mask = keep_mask(0, "m", 0, 100, (1000,), 0.45)
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.55])
    assert abs((mask == 0).double().mean() - 0.45) < 0.005


def test_positions_far_out_are_reached_at_once():
    assert torch.isfinite(normal(0, "z", 10**15, 2, (100,))).all()


@pytest.mark.parametrize("dropout", [0.1, 0.45, 0.5])
def test_a_mask_takes_a_bit_a_number(dropout):
    bits = keep_bits(0, "m", 8, 50, 999, dropout)
    assert (bits.dtype, bits.shape) == (torch.uint8, (50, 125))
    mask = mask_of_bits(bits, (3, 37, 9), dropout)
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - dropout)])
    assert abs((mask == 0).double().mean() - dropout) < 0.01
    assert torch.equal(mask[5:], mask_of_bits(keep_bits(0, "m", 13, 45, 999, dropout), (3, 37, 9), dropout))
    assert mask.permute(0, 2, 3, 1).is_contiguous()


def test_nothing_is_drawn_that_nobody_reads():
    """A generator's step that is not due draws nothing, one that is due no view of the real images."""
    recipe = recipes.from_values("wgan-gp-64", {"n_critic": 2})
    numbers = RandomNumbers(recipe, 0, build_generator(recipe), build_discriminator(recipe))
    assert numbers.step(0, 2, with_generator=False).generator is None
    due = numbers.step(0, 2).generator
    assert due is not None and due.real.dropout is None and due.fake.dropout is not None
    shared = recipes.from_values("wgan-gp-64", {"fresh_latents": False})
    draws = RandomNumbers(shared, 0, build_generator(shared), build_discriminator(shared)).step(0, 2)
    assert draws.for_generator().z is draws.critic[0].z
