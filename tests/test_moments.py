"""Light and tints of what is stored, matched to the training pictures: the map, the layer, a run's way through."""

from dataclasses import replace

import pytest
import torch
from tiny import MadeUpImages, tiny_job, tiny_recipe
from torch import Tensor
from torch.nn import functional as F

from facegan.errors import UsageError
from facegan.networks import build_generator
from facegan.networks.moments import (
    FARTHEST,
    MOST,
    MatchedMoments,
    Moments,
    linear_transport,
    moments,
    small_images,
)
from facegan.recipes.checks import check_network
from facegan.run.snapshot import load_snapshot
from facegan.train.finetune import begin_from
from facegan.train.loop import train
from facegan.train.moments import training_moments
from facegan.train.state import State


def seeded(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def spread(low: float, high: float, d: int = 12) -> Tensor:
    """A symmetric matrix (d, d) whose eigenvalues reach from `low` to `high`."""
    vectors, _ = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=seeded(1)))
    return (vectors * torch.linspace(low, high, d, dtype=torch.float64)) @ vectors.T


def matched_layer(side: int = 4) -> MatchedMoments:
    return MatchedMoments(3, side, 16, -1.0, 1.0).eval()


def waves(n: int, scale: float, seed: int) -> Tensor:
    """Smooth images (n, 3, 16, 16) of that deviation."""
    coarse = scale * torch.randn(n, 3, 2, 2, generator=seeded(seed))
    return F.interpolate(coarse, size=(16, 16), mode="bilinear")


def test_the_map_takes_one_covariance_to_the_other() -> None:
    change = spread(1 / MOST + 0.01, MOST - 0.01)
    found = torch.cov(torch.randn(12, 400, dtype=torch.float64, generator=seeded()))
    transport = linear_transport(found, change @ found @ change)
    torch.testing.assert_close(transport, change, atol=1e-6, rtol=0)  # it is unique: symmetric and positive


def test_no_direction_is_stretched_or_shrunk_by_more_than_a_quarter() -> None:
    values = torch.linalg.eigvalsh(linear_transport(torch.eye(12, dtype=torch.float64), spread(0.01, 9.0)))
    assert values.min() == pytest.approx(1 / MOST) and values.max() == pytest.approx(MOST)


def test_what_hardly_varies_is_left_alone_where_it_is_right() -> None:
    """Real spectra span six orders of magnitude; the product of two of them twelve."""
    spectrum = 10.0 ** torch.linspace(0, -6, 12, dtype=torch.float64)
    vectors, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=seeded(1)))
    covariance = (vectors * spectrum) @ vectors.T
    torch.testing.assert_close(
        linear_transport(covariance, covariance), torch.eye(12, dtype=torch.float64), atol=1e-3, rtol=0
    )


def test_images_that_are_not_finite_are_left_to_whoever_reports_them() -> None:
    layer, images = matched_layer(), waves(8, 0.3, 6)
    wanted = moments(small_images(images, layer.side))
    images[3] = torch.nan
    layer.match(small_images(images, layer.side), wanted)
    assert not layer.change.any()


def test_one_image_again_and_again_is_not_made_faces_of() -> None:
    """A generator that has collapsed, or was never trained, is moved by no more than the bounds."""
    images, layer = torch.full((64, 3, 16, 16), -0.5), matched_layer()
    layer.match(small_images(images, layer.side), moments(small_images(waves(64, 0.3, 5), layer.side)))
    assert 0 < (layer(images) - images).abs().max() <= 2 * FARTHEST + 1e-6


@pytest.mark.parametrize("scale", [0.9, 1.15])
def test_light_varies_as_wanted_afterwards(scale: float) -> None:
    images, layer = waves(4000, 0.1, 2), matched_layer()
    small = small_images(images, layer.side)
    found = moments(small)
    layer.match(small, Moments(found.mean + 0.03, scale**2 * found.covariance))
    after = small_images(layer(images), layer.side)
    torch.testing.assert_close(after.std(0), scale * small.std(0), rtol=0.02, atol=0)
    torch.testing.assert_close(after.mean(0), small.mean(0) + 0.03, rtol=0, atol=0.005)


def test_what_is_no_light_stays_and_the_range_is_kept() -> None:
    images, layer = waves(500, 0.3, 3).clamp(-1, 1), matched_layer()
    mean, covariance, _ = moments(small_images(images, layer.side))
    layer.match(small_images(images, layer.side), Moments(mean, 1.4 * covariance))
    checks = 0.01 * (-1.0) ** (torch.arange(16)[:, None] + torch.arange(16))
    assert layer(images).abs().max() <= 1
    dim = 0.5 * images
    torch.testing.assert_close(layer(dim + checks) - layer(dim), checks.expand_as(dim), atol=1e-6, rtol=0)


def test_in_training_and_until_it_is_matched_no_image_changes() -> None:
    images, layer = waves(50, 0.3, 4).clamp(-1, 1), matched_layer()
    assert torch.equal(layer(images), images)
    mean, covariance, _ = moments(small_images(images, layer.side))
    layer.match(small_images(images, layer.side), Moments(mean, 0.8 * covariance))
    assert not torch.equal(layer(images), images)
    assert torch.equal(layer.train()(images), images)


@pytest.mark.parametrize("flip", [False, True])
def test_the_moments_of_a_set_are_those_of_its_pictures(flip: bool) -> None:
    recipe = tiny_recipe("face-64", flip=flip, moments_side=4)
    stream, machine = MadeUpImages(recipe, samples=96), tiny_job(recipe, "x").machine
    images = stream.images.double() / 127.5 - 1
    images = torch.cat([images, images.flip(3)]) if flip else images
    small = images.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).flatten(1)
    stream.seek(5)
    found = training_moments(recipe, stream, machine)
    torch.testing.assert_close(found.covariance, torch.cov(small.T, correction=0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.mean, small.mean(0), atol=1e-6, rtol=0)
    assert training_moments(replace(recipe, moments_side=0, spectrum_kernel=0), stream, machine) is None


def test_a_run_stores_a_generator_whose_light_varies_as_in_its_pictures(tmp_path) -> None:
    matched, plain = tmp_path / "matched", tmp_path / "plain"
    train(tiny_job(tiny_recipe("face-64", moments_side=4), matched))
    train(tiny_job(tiny_recipe("face-64", moments_side=0), plain))
    matched, plain = load_snapshot(matched).generator, load_snapshot(plain).generator
    assert matched.to_range[1].change.abs().max() > 0.01
    assert all(torch.equal(matched.state_dict()[name], w) for name, w in plain.named_parameters())
    z = torch.randn(8, 128, generator=seeded())
    assert 0.01 < (matched(z) - plain(z)).abs().max() < 0.5


def test_a_run_that_goes_on_keeps_the_moments_that_it_began_with(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe("face-64", moments_side=4)
    train(tiny_job(replace(recipe, kimg=0.032, lr_schedule="constant"), tmp_path))
    first = load_snapshot(tmp_path).generator.to_range[1].change
    monkeypatch.setattr("facegan.train.loop.training_moments", lambda *_: pytest.fail("read again"))
    train(tiny_job(replace(recipe, kimg=0.064, lr_schedule="constant"), tmp_path))
    assert not torch.equal(load_snapshot(tmp_path).generator.to_range[1].change, first)


@pytest.mark.parametrize("side", [0, 2, 4])
def test_what_begins_from_a_matched_generator_trains_on_images_as_they_come(tmp_path, side: int) -> None:
    """Also where one of the two matches other images, or none."""
    train(tiny_job(tiny_recipe("face-64", moments_side=4), tmp_path))
    job = tiny_job(tiny_recipe("face-64", moments_side=side), tmp_path)
    state = State(job.recipe, 1, job.machine)
    begin_from(state, tmp_path)
    for network in (state.generator, state.average):
        assert not any(b.any() for name, b in network.named_buffers() if name.startswith("to_range"))
    given = load_snapshot(tmp_path).generator.to_image.weight
    assert torch.equal(state.generator.to_image.weight, given)


def test_ranks_do_not_send_each_other_what_no_step_changes() -> None:
    sent = {
        side: sum(b.numel() for b in State(recipe, 0, tiny_job(recipe, "x").machine).buffers())
        for side in (0, 4)
        for recipe in [tiny_recipe("face-64", moments_side=side)]
    }
    assert sent[0] == sent[4] > 0


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [("face-64", 3, "expected one of: 0, 2, 4, 8"), ("mlp-64", 4, "that have one: dcgan")],
)
def test_a_side_that_cannot_be_is_refused(name: str, side: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_network(tiny_recipe(name, moments_side=side))
    unmatched = tiny_recipe("face-64", moments_side=0, spectrum_kernel=0)
    assert isinstance(build_generator(unmatched).to_range, torch.nn.Tanh)
