"""Schedules at the points where their values are known."""

import dataclasses
from typing import Any

import pytest

from facegan import recipes
from facegan.recipes import Recipe
from facegan.train import schedules


def recipe(**values: Any) -> Recipe:
    return dataclasses.replace(recipes.load("dcgan-64"), **values)


def test_a_constant_rate_never_changes() -> None:
    assert {schedules.learning_rate_factor(recipe(), s, s / 9) for s in range(10)} == {1.0}


def test_the_lfw_rate_falls_by_a_tenth_in_3000_optimizer_steps_and_continuously() -> None:
    lfw = recipes.load("wgan-gp-lfw")
    factors = [schedules.learning_rate_factor(lfw, step, 0.5) for step in (0, 1500, 3000, 6000)]
    assert factors == pytest.approx([1.0, 0.9**0.5, 0.9, 0.81])


@pytest.mark.parametrize(("name", "half"), [("linear", 0.5), ("cosine", 0.5)])
def test_linear_and_cosine_rates_end_at_zero(name: str, half: float) -> None:
    factors = [schedules.learning_rate_factor(recipe(lr_schedule=name), 0, p) for p in (0.0, 0.5, 1.0, 1.5)]
    assert factors == pytest.approx([1.0, half, 0.0, 0.0])


def test_a_cosine_rate_falls_slowly_at_first() -> None:
    quarter = [schedules.learning_rate_factor(recipe(lr_schedule=n), 0, 0.25) for n in ("cosine", "linear")]
    assert quarter == pytest.approx([0.853553, 0.75], rel=1e-5)


def test_a_rate_that_cools_down_is_constant_before_the_last_share_of_the_run_and_ends_above_zero() -> None:
    cooling = recipe(lr_schedule="cooldown", lr_cooldown=0.4, lr_final=0.2)
    factors = [schedules.learning_rate_factor(cooling, 0, p) for p in (0.0, 0.6, 0.8, 0.9, 1.0, 1.5)]
    assert factors == pytest.approx([1.0, 1.0, 0.6, 0.4, 0.2, 0.2])
    assert schedules.learning_rate_factor(recipe(lr_schedule="cooldown", lr_cooldown=0.0), 0, 1.0) == 1.0


def test_gamma_goes_along_half_a_cosine_to_its_final_value() -> None:
    assert [schedules.gamma(2.0, 0.2, p) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([2.0, 1.1, 0.2, 0.2])


def test_gamma_without_a_final_value_is_constant_and_an_absent_penalty_stays_absent() -> None:
    assert [schedules.gamma(2.0, -1.0, p) for p in (0.0, 0.5, 1.0)] == [2.0, 2.0, 2.0]
    assert schedules.gamma(0.0, 0.2, 0.5) == 0.0


def test_the_lfw_noise_is_a_staircase_of_1033_batches() -> None:
    lfw = recipes.load("wgan-gp-lfw")
    found = [schedules.instance_noise_std(lfw, batch) for batch in (0, 1032, 1033, 2066)]
    assert found == pytest.approx([0.25, 0.25, 0.225, 0.2025])


def test_the_average_forgets_half_in_its_half_life() -> None:
    averaged = recipe(ema_kimg=10.0, ema_rampup=0.0, batch_size=100)
    assert schedules.ema_beta(averaged, 0) ** (10_000 / 100) == pytest.approx(0.5)


def test_the_half_life_counts_the_images_of_every_critic_step() -> None:
    updates = 10_000 / (100 * 5)  # of the generator, in 10,000 images read
    averaged = recipe(ema_kimg=10.0, ema_rampup=0.0, batch_size=100, n_critic=5)
    assert schedules.ema_beta(averaged, 0) ** updates == pytest.approx(0.5)
    shared = dataclasses.replace(averaged, fresh_reals=False)  # an update a batch
    assert schedules.ema_beta(shared, 0) ** (10_000 / 100) == pytest.approx(0.5)


def test_the_average_follows_closely_at_first() -> None:
    averaged = recipe(ema_kimg=10.0, ema_rampup=0.05, batch_size=100)
    assert schedules.ema_beta(averaged, 0) == 0.0
    assert schedules.ema_beta(averaged, 40_000) ** (2_000 / 100) == pytest.approx(0.5)
    assert schedules.ema_beta(averaged, 10**9) ** (10_000 / 100) == pytest.approx(0.5)


def test_no_average_copies_the_generator() -> None:
    assert schedules.ema_beta(recipe(ema_kimg=0.0), 10**6) == 0.0
