"""Each loss against its closed form."""

import math

import pytest
import torch

from facegan.errors import UsageError
from facegan.recipes.checks import LOSSES
from facegan.train import losses

R = torch.tensor([1.5, -0.5, 2.0])
F = torch.tensor([-1.0, 0.25, 3.0])


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


REAL, FAKE = R.tolist(), F.tolist()
DISCRIMINATOR = {
    "bce": (mean([-log_sigmoid(r) for r in REAL]), mean([-log_sigmoid(-f) for f in FAKE])),
    "minimax": (mean([-log_sigmoid(r) for r in REAL]), mean([-log_sigmoid(-f) for f in FAKE])),
    "wasserstein": (-mean(REAL), mean(FAKE)),
    "lsgan": (mean([(r - 1) ** 2 / 2 for r in REAL]), mean([f**2 / 2 for f in FAKE])),
    "hinge": (mean([max(0, 1 - r) for r in REAL]), mean([max(0, 1 + f) for f in FAKE])),
    "relativistic": (mean([-log_sigmoid(r - f) for r, f in zip(REAL, FAKE, strict=True)]) / 2,) * 2,
}
GENERATOR = {
    "bce": mean([-log_sigmoid(f) for f in FAKE]),
    "minimax": mean([log_sigmoid(-f) for f in FAKE]),
    "wasserstein": -mean(FAKE),
    "lsgan": mean([(f - 1) ** 2 / 2 for f in FAKE]),
    "hinge": -mean(FAKE),
    "relativistic": mean([-log_sigmoid(f - r) for r, f in zip(REAL, FAKE, strict=True)]),
}


def test_every_named_loss_is_checked_here() -> None:
    assert set(DISCRIMINATOR) == set(GENERATOR) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_discriminator_loss_has_its_closed_form(name: str) -> None:
    found = losses.discriminator_loss(name, R, F)
    assert [float(term) for term in found] == pytest.approx(DISCRIMINATOR[name], rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_generator_loss_has_its_closed_form(name: str) -> None:
    assert float(losses.generator_loss(name, F, R)) == pytest.approx(GENERATOR[name], rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_generator_gains_where_its_images_score_higher(name: str) -> None:
    fake = F.clone().requires_grad_()
    (slope,) = torch.autograd.grad(losses.generator_loss(name, fake, R), fake)
    assert (slope[:2] < 0).all()


def test_smoothed_labels_move_the_best_logit_to_theirs() -> None:
    logits = torch.tensor([math.log(9.0)], requires_grad=True)  # sigmoid = 0.9
    loss, _ = losses.discriminator_loss("bce", logits, F, torch.tensor([0.9]))
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.item() == pytest.approx(0, abs=1e-6)
    assert loss.item() == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)), rel=1e-5)


def test_smoothing_is_one_sided() -> None:
    labels = torch.full_like(R, 0.9)
    assert losses.discriminator_loss("bce", R, F, labels)[1] == losses.discriminator_loss("bce", R, F)[1]


def test_each_sample_has_its_own_label_and_labels_may_exceed_one() -> None:
    labels = torch.tensor([0.7, 1.0, 1.2])
    loss, _ = losses.discriminator_loss("bce", R, F, labels)
    expected = mean(
        [-(y * log_sigmoid(r) + (1 - y) * log_sigmoid(-r)) for y, r in zip(labels.tolist(), REAL, strict=True)]
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_lsgan_labels_are_targets_of_the_square() -> None:
    loss, _ = losses.discriminator_loss("lsgan", R, F, torch.full_like(R, 0.9))
    assert float(loss) == pytest.approx(mean([(r - 0.9) ** 2 / 2 for r in REAL]), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_precision_logits_are_float32(name: str) -> None:
    real, fake = R.bfloat16(), F.bfloat16()
    terms = [*losses.discriminator_loss(name, real, fake), losses.generator_loss(name, fake, real)]
    assert {term.dtype for term in terms} == {torch.float32}


@pytest.mark.parametrize("name", ["bce", "minimax", "relativistic"])
def test_extreme_logits_stay_finite(name: str) -> None:
    real, fake = torch.tensor([-1e4, 1e4]), torch.tensor([1e4, -1e4])
    assert all(term.isfinite() for term in losses.discriminator_loss(name, real, fake))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "relativistic"])
def test_the_two_sides_can_be_taken_alone(name: str) -> None:
    both = losses.discriminator_loss(name, R, F)
    assert (losses.real_loss(name, R), losses.fake_loss(name, F)) == both


def test_relativistic_sides_cannot_be_taken_alone() -> None:
    for one_sided in (losses.real_loss, losses.fake_loss, losses.generator_loss):
        with pytest.raises(UsageError, match="pairs"):
            one_sided("relativistic", R)


def test_an_unknown_loss_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(UsageError, match=r"'wgan'.*wasserstein"):
        losses.discriminator_loss("wgan", R, F)
    with pytest.raises(UsageError, match=r"'wgan'.*wasserstein"):
        losses.generator_loss("wgan", F)
