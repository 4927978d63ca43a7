"""What was made faster computes what it computed before: values, gradients, and gradients of gradients."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tiny import ADAPTIVE, MadeUpImages, tiny_recipe
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from facegan import recipes
from facegan.networks import build_discriminator, build_generator, convolution
from facegan.networks.convolution import Conv2d, ConvTranspose2d, inputs_only
from facegan.networks.layers import FirstMap, WholeMap, activation
from facegan.networks.resampling import UpConv2d
from facegan.recipes import Recipe
from facegan.run import machine
from facegan.run.settings import RunSettings
from facegan.train.cuda_graphs import Replayed, Run, _on_device, _wrong
from facegan.train.draws import RandomNumbers
from facegan.train.objective import discriminator_objective, scale_images
from facegan.train.schedules import schedule_values
from facegan.train.state import State
from facegan.train.step import Batch, Step
from facegan.train.tensors import map_tensors

PAIRS = {
    "first map": (FirstMap(5, 6, 4, bias=False), nn.ConvTranspose2d(5, 6, 4, bias=False), (3, 5, 1, 1)),
    "whole map": (WholeMap(6, 1, 4), nn.Conv2d(6, 1, 4), (3, 6, 4, 4)),
    "whole map without bias": (WholeMap(6, 1, 4, bias=False), nn.Conv2d(6, 1, 4, bias=False), (3, 6, 4, 4)),
    "kernel 4": (Conv2d(3, 5, 4, 2, 1), nn.Conv2d(3, 5, 4, 2, 1), (2, 3, 8, 6)),
    "kernel 5 of an odd map": (Conv2d(3, 5, 5, 2, 2), nn.Conv2d(3, 5, 5, 2, 2), (2, 3, 7, 10)),
    "kernel 3, stride 1": (Conv2d(3, 5, 3, 1, 1, bias=False), nn.Conv2d(3, 5, 3, 1, 1, bias=False), (2, 3, 5, 6)),
    "rows left over": (Conv2d(2, 3, 3, 3), nn.Conv2d(2, 3, 3, 3), (2, 2, 8, 10)),
    "transposed, kernel 4": (ConvTranspose2d(5, 3, 4, 2, 1), nn.ConvTranspose2d(5, 3, 4, 2, 1), (2, 5, 4, 3)),
    "transposed, kernel 5": (ConvTranspose2d(5, 3, 5, 2, 2, 1), nn.ConvTranspose2d(5, 3, 5, 2, 2, 1), (2, 5, 4, 3)),
    "doubled, kernel 3": (
        nn.Sequential(nn.Identity(), UpConv2d(5, 3, 3)),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(5, 3, 3, padding=1)),
        (2, 5, 4, 3),
    ),
    "doubled, kernel 5": (
        nn.Sequential(nn.Identity(), UpConv2d(2, 3, 5, bias=False)),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 3, 5, padding=2, bias=False)),
        (2, 2, 3, 4),
    ),
    "4 to 7": (
        ConvTranspose2d(2, 3, 5, 2, 2, bias=False),
        nn.ConvTranspose2d(2, 3, 5, 2, 2, bias=False),
        (2, 2, 4, 4),
    ),
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
def test_our_convolutions_are_pytorchs(name: str, layout: torch.memory_format) -> None:
    ours, plain, shape = PAIRS[name]
    ours, plain = ours.double(), plain.double().to(memory_format=layout)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for a, b in zip(derivatives(ours, x.to(memory_format=layout)), derivatives(plain, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in PAIRS if "map" not in name or "odd" in name])
def test_every_second_derivative_of_a_convolution_is_right(name: str) -> None:
    ours, _, shape = PAIRS[name]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = [parameter.detach().double().requires_grad_() for parameter in ours.parameters()]
    names = [key for key, _ in ours.named_parameters()]

    def run(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(ours.double(), dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *weights))
    assert torch.autograd.gradgradcheck(run, (x, *weights))


def test_leaky_relu_is_pytorchs_and_does_not_send_zeros_back_through_the_first_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []
    for kind in (convolution._Convolution, convolution._Transposed, convolution._WeightGradient):

        def counted(*args: object, kind: Any = kind, forward: Any = kind.forward) -> Tensor:
            ran.append(kind.__name__)
            return forward(*args)

        monkeypatch.setattr(kind, "forward", staticmethod(counted))
    ours = nn.Sequential(Conv2d(3, 4, 4, 2, 1), activation(0.2), Conv2d(4, 5, 4, 2, 1), activation(0.2))
    plain = nn.Sequential(*(nn.LeakyReLU(0.2) if isinstance(m, nn.LeakyReLU) else m for m in ours))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for a, b in zip(derivatives(ours.double(), x), derivatives(plain.double(), x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)

    x.requires_grad_()
    with inputs_only(ours):
        (slope,) = torch.autograd.grad(ours(x).sum(), x, create_graph=True)
    ran.clear()
    torch.autograd.grad(slope.square().sum(), [ours[0].weight, ours[2].weight])
    assert sorted(ran) == ["_Convolution", "_WeightGradient", "_WeightGradient"]


SMALL_MAPS = [
    (Conv2d(16, 512, 4, 2, 1), (6, 16, 8, 8)),
    (Conv2d(16, 512, 5, 2, 2), (6, 16, 15, 15)),
    (ConvTranspose2d(512, 16, 5, 2, 2, 1), (6, 512, 4, 4)),
]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of left sides of matrix products, in order."""
    made: list[torch.Size] = []
    product = torch.Tensor.__matmul__

    def counted(a: Tensor, b: Tensor) -> Tensor:
        made.append(a.shape)
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", counted)
    return made


@pytest.mark.parametrize(("layer", "shape"), SMALL_MAPS)
def test_matrix_products_for_small_maps_are_the_convolution(
    layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, products: list[torch.Size]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = []
    for amx in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        with torch.autocast("cpu", torch.bfloat16):
            found.append([t.float() for t in derivatives(layer, x)])
        assert bool(products) is not amx
    exact = [t.float() for t in derivatives(layer, x)]
    for plain, ours, right in zip(*found, exact, strict=True):
        assert (ours - right).norm() < 1.5 * (plain - right).norm() + 1e-6 * right.norm()


@pytest.mark.parametrize(("layer", "shape"), SMALL_MAPS)
def test_weight_gradients_on_a_cpu_without_avx512_are_the_convolutions(
    layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, products: list[torch.Size]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = []
    for capability in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        found.append(derivatives(layer, x))
        assert bool(products) is (capability == "AVX2")
    for plain, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4 * float(plain.detach().abs().max()))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights of convolutions that gradients are computed for, once for each time."""
    weights: list[Tensor] = []
    forward = convolution._WeightGradient.forward

    def counted(ctx: object, x: Tensor, y: Tensor, weight: Tensor, geometry: tuple[int, int]) -> Tensor:
        weights.append(weight)
        return forward(ctx, x, y, weight, geometry)

    monkeypatch.setattr(convolution._WeightGradient, "forward", staticmethod(counted))
    return weights


def test_a_gradient_for_images_alone_computes_none_for_weights(computed: list[Tensor]) -> None:
    layers = nn.Sequential(Conv2d(3, 4, 4, 2, 1), nn.Tanh(), Conv2d(4, 5, 4, 2, 1))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with inputs_only(layers):
        (slope,) = torch.autograd.grad(layers(x).sum(), x, create_graph=True)
    assert not computed
    torch.autograd.grad(slope.square().sum(), [layers[0].weight, layers[2].weight])
    assert sorted({tuple(weight.shape) for weight in computed}) == [(4, 3, 4, 4), (5, 4, 4, 4)]


def test_the_generators_step_computes_no_gradient_for_the_discriminator(computed: list[Tensor]) -> None:
    """What a step computes for weights: two passes of the discriminator, one of the generator, no third."""
    recipe = tiny_recipe("dcgan-64")
    here = machine.start(RunSettings(threads=1, precision="fp32"))
    state = State(recipe, 0, here)
    draws = RandomNumbers(recipe, 0, state.generator, state.discriminator).step(0, recipe.batch_size)
    Step(recipe, state, here)(Batch(0, next(MadeUpImages(recipe)), draws, schedule_values(recipe, 0, 1000)))
    places = [weight.data_ptr() for weight in computed]
    for network, passes in ((state.discriminator, 2), (state.generator, 1)):
        for layer in network.modules():
            if isinstance(layer, Conv2d | ConvTranspose2d):
                assert places.count(layer.weight.data_ptr()) == passes
    assert all(parameter.requires_grad for parameter in state.generator.parameters())


def widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize(
    ("name", "changes"),
    [("wgan-gp-128", {}), ("mlp-64-improved", {"critic_norm": "none"}), ("dcgan-64", {"critic_norm": "layer"})],
)
def test_one_pass_over_real_and_fake_gives_the_gradients_of_two(name: str, changes: dict[str, object]) -> None:
    recipe = tiny_recipe(name, **changes)
    machine.start(RunSettings(threads=1, precision="fp32"))
    torch.manual_seed(0)
    generator, critic = build_generator(recipe).double(), build_discriminator(recipe).double()
    draws = map_tensors(RandomNumbers(recipe, 0, generator, critic).step(0, 6).critic[0], widened)
    images = torch.randint(0, 256, (6, recipe.channels, *recipe.resolution), dtype=torch.uint8)
    real, fake = scale_images(images, recipe.value_range).double(), generator(draws.z).detach()
    recipe = dataclasses.replace(recipe, gp_weight=0.0)
    found = []
    for calls in (1, 2):
        split = dataclasses.replace(recipe, minibatch_std=calls == 2)  # asks for a pass each
        loss, terms = discriminator_objective(split, critic, real, fake, draws, schedule_values(recipe, 0, 1000))
        found.append([loss, *terms.values(), *torch.autograd.grad(loss, list(critic.parameters()))])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-9)


class OnMeta(machine.Machine):
    """A machine whose device only knows shapes: what asks for a value there, as a copy to the host does, fails."""

    device = torch.device("meta")
    world = 1

    def autocast(self) -> nullcontext[None]:
        return nullcontext()


class Devices(TorchDispatchMode):
    """Notes which operators saw a tensor on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.on_host: list[str] = []

    def __torch_dispatch__(self, func: object, types: object, args: object = (), kwargs: object = None) -> object:
        # On CUDA these fetch a value, which shapes alone do not show.
        assert str(func) not in ("aten._local_scalar_dense.default", "aten.masked_fill_.Tensor")
        result = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, result))
        if any(isinstance(leaf, Tensor) and leaf.device.type == "cpu" for leaf in leaves):
            self.on_host.append(str(func))
        return result


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in recipes.recipe_classes()), ("face-64", ADAPTIVE), ("face-64", {"sharpen": 1.0})],
)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_neither_waits_for_its_device_nor_feeds_it_from_the_host(
    name: str, changes: dict[str, object], recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(kind: str, module: nn.Module, *_: object) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), foreach=False)  # PyTorch's fused ones do not know this device

    recipe = tiny_recipe(name, ema_kimg=0.01, **changes)
    monkeypatch.setattr("facegan.train.state._optimizer", plain)
    monkeypatch.setattr("torch.nn.utils.clip_grad._device_has_foreach_support", lambda device: True)
    here = OnMeta(None, "fp32", False, 1, None)
    state = State(recipe, 0, here)
    monkeypatch.setattr(state, "set_learning_rates", lambda *rates: None)
    step, stream, size = Step(recipe, state, here), MadeUpImages(recipe), recipe.batch_size
    numbers = RandomNumbers(recipe, 0, build_generator(recipe), build_discriminator(recipe))
    with Devices() as devices:
        for at in range(0, 2 * recipe.n_critic * size, size):
            batch = Batch(at, next(stream), numbers.step(at, size), schedule_values(recipe, at, 10**4))
            batch = map_tensors(_on_device(batch), lambda t: t.to("meta"))
            if not recorded:
                batch = dataclasses.replace(batch, device_nimg=None, values=schedule_values(recipe, at, 10**4))
            devices.on_host.clear()
            step(batch)
            assert not devices.on_host


def trained(recipe: Recipe, record: Callable[[Run], Run] | None) -> tuple[State, int]:
    """A recipe's state after several steps, and how many recordings were made; None takes the step as it is."""
    plain = machine.start(RunSettings(threads=1, precision="fp32"))
    here = dataclasses.replace(plain, cuda_graphs=record is not None)
    state = State(recipe, 0, here)
    numbers = RandomNumbers(recipe, 0, state.generator, state.discriminator)
    step = Step(recipe, state, here)
    run = Replayed(step, step.kind, record, state.weights, state.statistics) if record else step
    stream, size = MadeUpImages(recipe), recipe.batch_size
    for at in range(0, 14 * size, size):
        run(Batch(at, next(stream), numbers.step(at, size), schedule_values(recipe, at, 14 * size)))
    return state, len(run.recordings) if isinstance(run, Replayed) else 0


def run_again(run: Run) -> Run:
    """Stands for the recording of a CUDA graph: reruns the step, which must find all its inputs in place."""
    return run


def refuse(run: Run) -> Run:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("name", "changes", "kinds"),
    [
        ("dcgan-64", {"lr_schedule": "linear", "instance_noise": 0.1}, 1),
        ("wgan-gp-128", {"n_critic": 3}, 2),
        ("wgan-gp-lfw", {"batch_size": 4}, 1),
        ("face-64", {"penalty_every": 2, "sharpen": 1.0, "lr_schedule": "cooldown", "lr_cooldown": 0.8}, 2),
        ("mlp-64-improved", {}, 1),
        ("face-64", {"penalty_every": 1, **ADAPTIVE}, 1),
    ],
)
def test_a_recorded_step_reads_only_its_static_inputs(name: str, changes: dict[str, object], kinds: int) -> None:
    recipe = tiny_recipe(name, ema_kimg=0.01, **changes)
    (refused, none), (replayed, some) = trained(recipe, refuse), trained(recipe, run_again)
    assert (none, some) == (0, kinds)
    for (key, a), (_, b) in zip(refused.tensors().items(), replayed.tensors().items(), strict=True):
        assert torch.equal(a, b), key


def do_nothing(run: Run) -> Run:
    return lambda: None


def forget_the_statistics(run: Run) -> Run:
    """A recording without BatchNorm's running averages."""

    def still(x: Tensor, mean: Tensor, variance: Tensor, w: Tensor, b: Tensor, training: bool, *_: float) -> Tensor:
        return plain(x, mean, variance, w, b, training, 0.0)

    plain = nn.functional.batch_norm

    def without() -> None:
        with patch.object(nn.functional, "batch_norm", still):
            run()

    return without


def do_it_twice(run: Run) -> Run:
    def twice() -> None:
        run()
        run()

    return twice


def test_a_share_of_a_step() -> None:
    before, right = torch.zeros(4), torch.ones(4)
    shares = [_wrong(before, right, found) for found in (right, before, 1.5 * right, right / 0, right * torch.nan)]
    assert shares == [0.0, 1.0, 0.5, 1.0, 1.0]
    assert _wrong(right, right, right) == -1 and _wrong(right, right, before) == 1


@pytest.mark.parametrize("record", [do_nothing, do_it_twice, forget_the_statistics])
@pytest.mark.parametrize("name", ["dcgan-64", "wgan-64"])
def test_a_recording_that_differs_from_the_step_is_not_used(
    name: str, record: Callable[[Run], Run], caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(name, ema_kimg=0.01)
    (refused, _), (found, recordings) = trained(recipe, refuse), trained(recipe, record)
    assert recordings == 0 and "is not the step" in caplog.text
    for (key, a), (_, b) in zip(refused.tensors().items(), found.tensors().items(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", ["dcgan-64", "wgan-gp-128"])
def test_schedule_values_on_the_device_change_nothing_but_rounding(name: str) -> None:
    recipe = tiny_recipe(name, ema_kimg=0.01, lr_schedule="linear", instance_noise=0.1)
    (plain, _), (replayed, _) = trained(recipe, None), trained(recipe, run_again)
    for (key, a), (_, b) in zip(plain.tensors().items(), replayed.tensors().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_a_step_that_cannot_be_recorded_runs_on_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[int] = []
    step = Replayed(lambda batch: taken.append(batch.nimg), lambda batch: 0, refuse, lambda: [torch.zeros(1)], list)
    recipe = tiny_recipe("mlp-64")
    networks = build_generator(recipe), build_discriminator(recipe)
    draws = RandomNumbers(recipe, 0, *networks).step(0, 6)
    for at in range(6):
        step(Batch(at, next(MadeUpImages(recipe)), draws, schedule_values(recipe, at, 100)))
    assert taken == list(range(6))
    assert caplog.text.count("operation not permitted") == 1


@pytest.mark.parametrize("asked", [1, 2])
def test_a_recording_that_fails_on_another_rank_is_used_by_none(
    asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The ranks agree twice: before the messages between them are replayed, and on whether the replay was right."""
    recipe, answers = tiny_recipe("mlp-64"), []

    def anywhere(here: bool) -> bool:
        answers.append(here)
        return len(answers) == asked

    here = machine.start(RunSettings(threads=1, precision="fp32"))
    state = State(recipe, 0, here)
    step = Step(recipe, state, here)
    run = Replayed(step, step.kind, run_again, state.weights, state.statistics, anywhere)
    numbers, stream = RandomNumbers(recipe, 0, state.generator, state.discriminator), MadeUpImages(recipe)
    for at in range(0, 36, 6):
        run(Batch(at, next(stream), numbers.step(at, 6), schedule_values(recipe, at, 36)))
    assert answers == [False] * asked and not run.recordings and "another rank" in caplog.text
