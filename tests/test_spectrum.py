"""Fine detail and fine colours of what is stored, matched to the training pictures' spectrum."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import MadeUpImages, tiny_job, tiny_recipe
from torch import Tensor

from facegan.errors import UsageError
from facegan.networks.moments import Moments
from facegan.networks.spectrum import LEAST, MOST, WHOLLY, MatchedSpectrum, even_kernel, spectrum
from facegan.recipes import load
from facegan.recipes.checks import check, check_network
from facegan.run.checkpoint import newest_checkpoint, write_checkpoint
from facegan.run.snapshot import load_snapshot
from facegan.train.loop import train
from facegan.train.moments import training_moments
from facegan.train.state import State

FINE = [(u, v) for u in range(8) for v in range(8) if max(u, v) >= WHOLLY]  # frequencies that may change in full


def noise(n: int = 400, scale: float = 0.2, seed: int = 0) -> Tensor:
    """White images (n, 3, 16, 16), the three colours partly alike."""
    each = torch.randn(n, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    return scale * (each[:, :3] + each[:, 3:])


def filter_(kernel: int = 7) -> MatchedSpectrum:
    return MatchedSpectrum(3, kernel, -1.0, 1.0).eval()


def wave(u: int, v: int) -> Tensor:
    """One image (1, 1, 8, 8) that is the frequency (u, v) of a block alone, of mean square 1."""
    at = (torch.arange(8) + 0.5) * math.pi / 8
    image = torch.outer(torch.cos(u * at), torch.cos(v * at))
    return (image / image.square().mean().sqrt())[None, None]


@pytest.mark.parametrize(("u", "v"), [(0, 0), (0, 3), (5, 2), (7, 7)])
def test_a_wave_is_in_its_frequency_alone(u: int, v: int) -> None:
    energies = spectrum(wave(u, v)).squeeze()
    assert energies[u, v] == pytest.approx(64, rel=1e-5)
    energies[u, v] = 0
    assert energies.abs().max() < 1e-9


def test_all_frequencies_together_have_the_energy_of_the_images_and_mirroring_changes_none() -> None:
    images = noise(6)
    energies = spectrum(images)
    whole = torch.einsum("nchw,ndhw->cd", images.double(), images.double()) / (6 * 16 * 16)
    torch.testing.assert_close(energies.sum((0, 1)) / 64, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(spectrum(images.flip(3)), energies, atol=1e-6, rtol=0)


def test_images_have_the_wanted_spectrum_afterwards() -> None:
    """Less fine colour, more fine brightness: within a tenth in every frequency that may change in full."""
    images, layer = noise(), filter_()
    found = spectrum(images)
    gray = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    gain = 1.2 * gray + 0.7 * (torch.eye(3, dtype=torch.float64) - gray)
    layer.match(found, gain @ found @ gain)
    after = spectrum(layer(images))
    for u, v in FINE:
        torch.testing.assert_close(after[u, v], gain @ found[u, v] @ gain, rtol=0.1, atol=0.004)
    torch.testing.assert_close(after[0, 0], found[0, 0], rtol=0.1, atol=0)


def test_light_stays_up_to_the_border_and_the_range_is_kept() -> None:
    images, layer = noise(scale=0.5).clamp(-1, 1), filter_()
    layer.match(spectrum(images), 9 * spectrum(images))
    assert layer(images).abs().max() == 1
    flat = torch.tensor([0.2, -0.5, 0.7])[None, :, None, None].expand(1, 3, 16, 16)
    torch.testing.assert_close(layer(flat), flat, rtol=0, atol=0.001)


@pytest.mark.parametrize(("times", "bound"), [(100.0, MOST), (0.0, LEAST)])
def test_frequencies_get_larger_and_smaller_by_the_bounds_where_all_are_wrong(times: float, bound: float) -> None:
    images, layer = noise(scale=0.05), filter_()
    layer.match(spectrum(images), times * spectrum(images))
    gained = (spectrum(layer(images)).diagonal(dim1=2, dim2=3) / spectrum(images).diagonal(dim1=2, dim2=3)).sqrt()
    fine = torch.stack([gained[u, v] for u, v in FINE])
    assert fine.mean().item() == pytest.approx(bound, rel=0.15)


def test_an_even_kernel_adds_what_is_asked_where_it_can() -> None:
    changes = torch.zeros(8, 8, 1, 1, dtype=torch.float64)
    changes[:] = 0.5
    kernel = even_kernel(changes, 3)
    assert kernel.shape == (1, 1, 7, 7)
    assert torch.equal(kernel, kernel.flip(2)) and torch.equal(kernel, kernel.flip(3))
    response = torch.fft.fft2(kernel[0, 0], (16, 16)).abs()
    assert response[8, 8].item() == pytest.approx(0.5, abs=0.05)
    assert response[0, 0].item() == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("border", [1, 2, 3])
def test_no_frequency_is_turned_round_or_doubled_whatever_is_asked(border: int) -> None:
    """A short kernel that has to change by turns swings further than it is asked."""
    signs = torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(3)).sign().double()
    farthest = [
        torch.fft.fft2(even_kernel(changes, border), (64, 64)).abs().max().item()
        for changes in (9 * signs, -9 * signs.abs(), 0.1 * signs.abs())
    ]
    assert farthest[0] == pytest.approx(1, abs=0.03) and farthest[1] == pytest.approx(1, abs=0.03)
    assert farthest[2] < 0.15


def test_what_is_not_finite_or_not_known_is_left_alone_and_what_is_flat_is_no_error() -> None:
    layer, wanted = filter_(), spectrum(noise(8))
    layer.match(torch.full_like(wanted, torch.nan), wanted)
    assert not layer.weight.any()
    layer.match(wanted, Moments(torch.zeros(3), torch.eye(3)).spectrum)
    assert not layer.weight.any()
    flat = torch.full((4, 3, 16, 16), 0.25)  # a generator that has collapsed
    layer.match(spectrum(flat), wanted)
    torch.testing.assert_close(layer(flat), flat, rtol=0, atol=0.001)


def test_in_training_and_until_it_is_matched_no_image_changes() -> None:
    images, layer = noise(50).clamp(-1, 1), filter_()
    assert torch.equal(layer(images), images)
    layer.match(spectrum(images), 0.5 * spectrum(images))
    assert not torch.equal(layer(images), images)
    assert torch.equal(layer.train()(images), images)


@pytest.mark.parametrize("side", [0, 4])
def test_the_spectrum_of_a_set_is_that_of_its_pictures(side: int) -> None:
    recipe = tiny_recipe("face-64", moments_side=side, spectrum_kernel=7)
    stream, machine = MadeUpImages(recipe, samples=96), tiny_job(recipe, "x").machine
    found = training_moments(recipe, stream, machine)
    assert found is not None
    torch.testing.assert_close(found.spectrum, spectrum(stream.images / 127.5 - 1), atol=1e-5, rtol=0)


def test_a_run_stores_a_generator_with_the_spectrum_of_its_pictures(tmp_path) -> None:
    for name, kernel in (("matched", 7), ("plain", 0)):
        train(tiny_job(tiny_recipe("face-64", moments_side=0, spectrum_kernel=kernel), tmp_path / name))
    matched, plain = (load_snapshot(tmp_path / name).generator for name in ("matched", "plain"))
    assert all(torch.equal(matched.state_dict()[name], w) for name, w in plain.named_parameters())
    z = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    wanted = spectrum(MadeUpImages(tiny_recipe("face-64")).images / 127.5 - 1)
    apart = [(spectrum(g(z)).log() - wanted.log()).diagonal(dim1=2, dim2=3) for g in (matched, plain)]
    nearer = [torch.stack([gap[u, v] for u, v in FINE]).abs().mean().item() for gap in apart]
    assert nearer[0] < nearer[1] - 0.1


def test_a_checkpoint_from_before_there_were_spectra_goes_on(tmp_path) -> None:
    job = tiny_job(tiny_recipe("face-64", moments_side=4, spectrum_kernel=0), tmp_path)
    state = State(job.recipe, 0, job.machine)
    state.moments = Moments(torch.zeros(48, dtype=torch.float64), torch.eye(48, dtype=torch.float64))
    tensors = {name: value for name, value in state.tensors().items() if name != "moments/spectrum"}
    write_checkpoint(tmp_path / "old", 0, tensors, {})
    old = newest_checkpoint(tmp_path / "old", pytest.fail)
    assert old is not None
    again = State(job.recipe, 0, job.machine)
    again.load(old.tensors)
    write_checkpoint(tmp_path / "new", 0, again.tensors(), {})  # with a spectrum that is not known
    new = newest_checkpoint(tmp_path / "new", pytest.fail)
    assert new is not None
    again.load(new.tensors)
    assert again.moments is not None and torch.equal(again.moments.covariance, state.moments.covariance)
    again.shown_generator()


def test_a_kernel_that_cannot_be_is_refused() -> None:
    for name, words in (("face-64", "expected one of: 0, 3, 5, 7"), ("mlp-64", "that have one: dcgan")):
        with pytest.raises(UsageError, match=words):
            check_network(tiny_recipe(name, spectrum_kernel=4 if name == "face-64" else 5))


def test_layers_that_change_the_same_frequencies_are_warned_of() -> None:
    both = tiny_recipe("face-64", resolution="32", moments_side=8)
    assert any("--set moments_side=4 does not" in line for line in check(both))
    for recipe in (replace(both, moments_side=4), replace(both, spectrum_kernel=0), load("face-64")):
        assert not any("moments_side" in line for line in check(recipe))
