"""Counter-based randomness: the numbers of a sample do not depend on who draws them, and are what they claim."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import tiny_recipe
from torch.utils._python_dispatch import TorchDispatchMode

from facegan import randomness, recipes
from facegan.networks import build_discriminator, build_generator
from facegan.philox import philox
from facegan.randomness import keep_bits, keep_mask, mask_of_bits, normal, uniform
from facegan.train import draws
from facegan.train.draws import RandomNumbers
from facegan.train.tensors import tensors_of

CPU = torch.device("cpu")


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


@pytest.mark.parametrize("dropout", [0.1, 0.45, 0.99])
def test_a_mask_packed_on_the_host_has_the_bits_of_one_packed_by_shifts(dropout):
    words = np.random.default_rng(1).integers(0, 1 << 16, (5, 1000), np.uint16)
    words[0, :3] = (0, round(dropout * 65536), 65535)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomness, "_words", lambda *_: torch.from_numpy(words.view(np.int16)))
        packed = keep_bits(0, "m", 8, 5, 999, dropout)
    kept = (words >= round(dropout * 65536)).reshape(5, 125, 8)
    assert np.array_equal(packed.numpy(), (kept << np.arange(8)).sum(-1))


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


@pytest.mark.parametrize(
    ("key", "counter", "count"),
    [(0, 1, 5), (2**128 - 1, 2**64 - 3, 8), (12**34, 7**20, 1000), (5, 2**63 - 2, 5), (1 << 64, 2**128 - 1, 1)],
)
def test_philox_on_a_device_has_numpys_bits(key: int, counter: int, count: int) -> None:
    """Carries into the counter's second word and products of 128 bits included."""
    wanted = np.random.Philox(key=key, counter=counter - 1).random_raw(4 * count).view(np.int64)
    assert np.array_equal(philox(key, counter, count, CPU).numpy().ravel(), wanted)


class OnDevice:
    """Stands for NumPy's generator: what `device` draws, on the CPU."""

    def __init__(self, key: int, counter: int) -> None:
        self.key, self.counter = key, counter

    def random_raw(self, count: int) -> NDArray[np.uint64]:
        return philox(self.key, self.counter + 1, count // 4, CPU).numpy().view(np.uint64).ravel()


@pytest.mark.parametrize("name", recipes.recipe_classes())
def test_a_step_drawn_by_the_devices_generator_is_the_hosts_to_the_bit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(name, diffaugment="color", real_labels="0.7,1.2", flip=True, instance_noise=0.1)
    with torch.device("meta"):
        numbers = RandomNumbers(recipe, 3, build_generator(recipe), build_discriminator(recipe))
    host = tensors_of(numbers.step(10**12, 6))
    monkeypatch.setattr(np.random, "Philox", OnDevice)
    assert host and all(map(torch.equal, host, tensors_of(numbers.step(10**12, 6))))


class Operators(TorchDispatchMode):
    """Notes the names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func).split(".")[1])
        return func(*args, **(kwargs or {}))


def test_only_operators_whose_bits_every_device_agrees_on_make_the_numbers() -> None:
    """No library's logarithm or cosine, whose last bit is its own, and none that may fuse a product into a sum."""
    integers = {"bitwise_and", "bitwise_or", "bitwise_xor", "__rshift__", "__lshift__", "remainder", "arange"}
    moved = {
        "view",
        "slice",
        "split",
        "cat",
        "stack",
        "_to_copy",
        "full_like",
        "zeros_like",
        "where",
        "clone",
        "neg",
    }
    moved |= {"lift_fresh", "detach", "_unsafe_view", "select", "unsqueeze", "permute", "alias", "_reshape_alias"}
    exact = {"add", "sub", "mul", "div", "sqrt", "add_", "mul_", "rsub", "sum"}  # the sum is of bits
    compared = {"gt", "lt", "ge", "eq", "logical_or"}
    with Operators() as used:
        uniform(0, "u", 5, 3, (7,))
        normal(0, "z", 5, 3, (7, 5))
        keep_bits(0, "m", 5, 3, 77, 0.5), keep_bits(0, "m", 5, 3, 77, 0.1)
        philox(5, 6, 7, CPU)
    assert used.names <= integers | moved | exact | compared, used.names - (integers | moved | exact | compared)


def test_normals_are_box_and_mullers_in_double_precision() -> None:
    n, count = 64, 501
    raw = uniform(9, "z", 3, n, (count + 1,)).double().numpy()
    first, second = np.split(raw, 2, axis=1)
    radius, angle = np.sqrt(-2 * np.log(first + 2**-24)), 2 * np.pi * second
    wanted = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]
    assert np.array_equal(normal(9, "z", 3, n, (count,)).numpy(), wanted.astype(np.float32))


def test_only_what_is_large_is_drawn_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents are there sooner from the host; noise and masks of a batch are not."""
    asked: list[torch.device] = []

    def bits(key: int, counter: int, count: int, device: torch.device) -> torch.Tensor:
        asked.append(device)
        return torch.empty(count, 4, dtype=torch.int64, device=device)

    monkeypatch.setattr("facegan.randomness.philox", bits)
    monkeypatch.setattr(draws, "LARGE", 1 << 12)
    recipe = tiny_recipe("wgan-gp-64", instance_noise=0.1, resolution="16", ngf=4, ndf=8)
    networks = build_generator(recipe), build_discriminator(recipe)
    made = RandomNumbers(recipe, 3, *networks, torch.device("meta")).step(0, 6)
    assert made.critic[0].z.device == CPU and asked
    assert made.critic[0].real.noise is not None and made.critic[0].real.noise.is_meta
