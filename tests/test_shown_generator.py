"""What is drawn, stored and measured: the averaged generator with BatchNorm statistics of its own weights."""

import copy

import pytest
import torch
from tiny import tiny_job, tiny_recipe
from torch import nn

from facegan import sampling
from facegan.networks import build_generator, standing
from facegan.run import machine
from facegan.run.settings import RunSettings
from facegan.run.snapshot import load_snapshot
from facegan.train.loop import train
from facegan.train.state import State


def state_of(name: str, **changes: object) -> State:
    return State(tiny_recipe(name, **changes), 0, machine.start(RunSettings(threads=1, precision="fp32")))


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dcgan-64", {}),
        ("dcgan-128", {}),
        ("wgan-gp-64", {"resolution": "16", "ngf": 4}),
        ("wgan-gp-lfw", {"resolution": "16", "ngf": 4}),
        ("dcgan-28", {"ngf": 4}),
    ],
)
def test_the_inputs_of_every_batchnorm_have_the_statistics_that_it_takes_out(
    name: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the shown generator in eval mode, whatever the live one's running statistics are."""
    monkeypatch.setattr(standing, "LATENTS", 2048)
    state = state_of(name, ema_kimg=0.01, bn_eps=1e-8, **changes)
    for layer in batch_norms(state.average):
        layer.running_mean.fill_(3.0)
        layer.running_var.fill_(7.0)
    shown, outputs = state.shown_generator(), []
    for layer in batch_norms(shown):
        layer.register_forward_hook(lambda m, _, y: outputs.append((m, y.transpose(0, 1).flatten(1).clone())))
    with torch.no_grad():
        shown(torch.randn(4096, state.latent_dim, generator=torch.Generator().manual_seed(1)))
    assert outputs
    for layer, y in outputs:
        torch.testing.assert_close(y.mean(1), layer.bias, atol=0.2, rtol=0)
        torch.testing.assert_close(y.std(1), layer.weight.abs(), atol=0.2, rtol=0.2)


def test_the_shown_generator_is_a_function_of_the_weights_alone() -> None:
    first, second = state_of("dcgan-64"), state_of("dcgan-64")
    for layer in batch_norms(second.average):
        layer.running_mean.add_(1.0)  # as the statistics of another rank
    pairs = zip(
        first.shown_generator().state_dict().items(), second.shown_generator().state_dict().items(), strict=True
    )
    for (name, a), (_, b) in pairs:
        assert torch.equal(a, b), name


def test_showing_changes_nothing_that_is_trained_or_saved() -> None:
    state = state_of("dcgan-64")
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    drawn = torch.get_rng_state()
    state.shown_generator()
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.tensors().items())
    assert torch.equal(drawn, torch.get_rng_state()) and state.generator.training


def test_a_generator_without_batchnorm_is_shown_as_it_is() -> None:
    state = state_of("mlp-64")
    for a, b in zip(state.generator.parameters(), state.shown_generator().parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_snapshot_holds_what_the_grid_shows(tmp_path) -> None:
    job = tiny_job(tiny_recipe("dcgan-64", ema_kimg=0.01), tmp_path)
    train(job)
    snapshot = load_snapshot(tmp_path)
    plain = build_generator(job.recipe)
    plain.load_state_dict(snapshot.generator.state_dict())
    again = copy.deepcopy(plain)
    standing.set_standing_statistics(again, job.recipe.latent_dim)
    for (name, a), (_, b) in zip(plain.state_dict().items(), again.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    z = sampling.latents(job.settings.seed, job.settings.samples, job.recipe.latent_dim)
    grid = sampling.grid(sampling.generate(snapshot.generator, z))
    sampling.save_png(grid, tmp_path / "again.png")
    last = max(tmp_path.glob("samples/fake-nimg-*.png"))
    assert (tmp_path / "again.png").read_bytes() == last.read_bytes()
