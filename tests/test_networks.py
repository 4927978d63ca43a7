"""Networks against the published layer tables, and the promises every family makes to the trainer."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from facegan import networks, recipes
from facegan.errors import UsageError
from facegan.networks import layers
from facegan.recipes import Recipe, Size

NAMES = list(recipes.recipe_classes())


def altered(name: str, **values: Any) -> Recipe:
    return dataclasses.replace(recipes.load(name), **values)


def rows(recipe: Recipe, network: str) -> list[tuple[tuple[int, ...], int]]:
    """(shape, parameters) of the layers that have parameters."""
    table = networks.layer_table(recipe)[network]["layers"]
    return [(shape, parameters) for _, shape, parameters in table if parameters]


# Published tables: (generator total, trainable), (discriminator total, trainable).
COUNTS = {
    "wgan-gp-lfw": ((2_111_064, 2_110_104), (1_152_481, 1_152_481)),
    "mlp-64": ((14_327_552, 14_327_552), (3_278_081, 3_278_081)),
    "mlp-64-improved": ((14_327_552, 14_327_552), (3_278_081, 3_278_081)),
    "wgan-gp-64": ((1_623_491, 1_614_851), (4_361_409, 4_359_425)),
    "dcgan-128": ((11_693_443, 11_690_499), (4_340_865, 4_340_097)),
    "dcgan-64": ((3_578_624, 3_576_704), (2_767_360, 2_765_568)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_published(name: str) -> None:
    recipe = recipes.load(name)
    found = networks.count(networks.build_generator(recipe)), networks.count(networks.build_discriminator(recipe))
    assert found == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "network", "values", "expected"),
    [
        ("dcgan-28", "discriminator", {"channels": 3}, (1_034_881, 1_034_113)),
        ("dcgan-28", "discriminator", {"channels": 1}, (1_031_681, 1_030_913)),
        ("dcgan-128", "generator", {"kernel": 3}, (4_743_555, 4_740_611)),
        ("dcgan-128", "discriminator", {"first_stride": 4}, (4_316_289, 4_315_521)),
        ("wgan-gp-128", "generator", {}, (11_693_443, 11_690_499)),
        ("wgan-64", "discriminator", {}, (2_767_360, 2_765_568)),
    ],
)
def test_parameters_of_published_variants(
    name: str, network: str, values: dict[str, Any], expected: tuple[int, int]
) -> None:
    table = networks.layer_table(altered(name, **values))[network]
    assert (table["total"], table["trainable"]) == expected


LAYERS = {
    ("wgan-gp-lfw", "generator"): [
        ((1536,), 198_144),
        *[((256, 4, 3), 819_200), ((256, 8, 6), 1_024)],
        *[((128, 8, 6), 819_200), ((128, 16, 12), 512)],
        *[((64, 16, 12), 204_800), ((64, 32, 24), 256)],
        *[((32, 32, 24), 51_200), ((32, 64, 48), 128)],
        *[((16, 64, 48), 12_800), ((8, 64, 48), 3_200), ((3, 64, 48), 600)],
    ],
    ("wgan-gp-lfw", "discriminator"): [
        *[((256, 31, 24), 19_456), ((128, 16, 12), 819_328), ((64, 8, 6), 204_864), ((32, 4, 3), 51_232)],
        *[((128,), 49_280), ((64,), 8_256), ((1,), 65)],
    ],
    ("mlp-64", "generator"): [
        *[((256,), 25_856), ((512,), 131_584), ((1024,), 525_312), ((1024,), 1_049_600), ((12288,), 12_595_200)],
    ],
    ("mlp-64", "discriminator"): [((256,), 3_145_984), ((512,), 131_584), ((1,), 513)],
    ("dcgan-28", "discriminator"): [
        ((64, 14, 14), 4_864),
        *[((128, 7, 7), 204_928), ((128, 7, 7), 512)],
        *[((256, 4, 4), 819_456), ((256, 4, 4), 1_024)],
        ((1,), 4_097),
    ],
    ("wgan-gp-64", "generator"): [
        *[((4096,), 528_384), ((4096,), 16_384)],
        *[((128, 8, 8), 819_328), ((128, 8, 8), 512)],
        *[((64, 16, 16), 204_864), ((64, 16, 16), 256)],
        *[((32, 32, 32), 51_232), ((32, 32, 32), 128)],
        ((3, 64, 64), 2_403),
    ],
    ("wgan-gp-64", "discriminator"): [
        *[((32, 32, 32), 2_432), ((32, 32, 32), 128)],
        *[((64, 16, 16), 51_264), ((64, 16, 16), 256)],
        *[((128, 8, 8), 204_928), ((128, 8, 8), 512)],
        *[((256, 4, 4), 819_456), ((256, 4, 4), 1_024)],
        *[((512, 2, 2), 3_277_312), ((512, 2, 2), 2_048)],
        ((1,), 2_049),
    ],
    ("dcgan-128", "generator"): [
        *[((8192,), 827_392), ((512, 4, 4), 2_048)],
        *[((512, 8, 8), 6_554_112), ((512, 8, 8), 2_048)],
        *[((256, 16, 16), 3_277_056), ((256, 16, 16), 1_024)],
        *[((128, 32, 32), 819_328), ((128, 32, 32), 512)],
        *[((64, 64, 64), 204_864), ((64, 64, 64), 256)],
        ((3, 128, 128), 4_803),
    ],
    ("dcgan-128", "discriminator"): [
        ((64, 64, 64), 4_864),
        *[((128, 32, 32), 204_928), ((128, 32, 32), 512)],
        *[((256, 16, 16), 819_456), ((256, 16, 16), 1_024)],
        ((512, 8, 8), 3_277_312),
        ((1,), 32_769),
    ],
    ("dcgan-64", "generator"): [
        *[((512, 4, 4), 819_200), ((512, 4, 4), 2_048)],
        *[((256, 8, 8), 2_097_152), ((256, 8, 8), 1_024)],
        *[((128, 16, 16), 524_288), ((128, 16, 16), 512)],
        *[((64, 32, 32), 131_072), ((64, 32, 32), 256)],
        ((3, 64, 64), 3_072),
    ],
    ("dcgan-64", "discriminator"): [
        ((64, 32, 32), 3_072),
        *[((128, 16, 16), 131_072), ((128, 16, 16), 512)],
        *[((256, 8, 8), 524_288), ((256, 8, 8), 1_024)],
        *[((512, 4, 4), 2_097_152), ((512, 4, 4), 2_048)],
        ((1, 1, 1), 8_192),
    ],
}


@pytest.mark.parametrize(("name", "network"), LAYERS)
def test_every_layer_has_the_published_shape_and_parameters(name: str, network: str) -> None:
    assert rows(recipes.load(name), network) == LAYERS[name, network]


def kinds_in_order(network: nn.Module) -> list[str]:
    """Names of the layers' classes in the order they run."""
    ran: list[str] = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, *_: ran.append(type(m).__name__))
    with torch.no_grad():
        network(torch.zeros(2, 3, 128, 128) if hasattr(network, "to_logit") else torch.zeros(2, 100))
    return ran


def test_noe_and_thapa_activate_before_batchnorm_in_the_generator_and_after_it_in_the_discriminator() -> None:
    recipe = recipes.load("dcgan-128")
    up, down = ["ConvTranspose2d", "LeakyReLU", "BatchNorm2d"], ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    generator = kinds_in_order(networks.build_generator(recipe))
    assert generator == ["Linear", "BatchNorm2d", *(up * 4), "ConvTranspose2d", "Tanh"]
    discriminator = [k for k in kinds_in_order(networks.build_discriminator(recipe)) if k != "Identity"]
    assert discriminator == ["Conv2d", "LeakyReLU", *(down * 2), "Conv2d", "Head"]


def test_the_dense_layers_of_the_lfw_critic_are_linear_on_purpose() -> None:
    critic = networks.build_discriminator(recipes.load("wgan-gp-lfw"))
    a, b = torch.randn(2, 1, 384)
    dense = nn.Sequential(*critic.dense)
    torch.testing.assert_close(dense(a + b) + dense(torch.zeros(1, 384)), dense(a) + dense(b))


def test_a_layer_table_draws_no_random_numbers() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    networks.layer_table(altered("dcgan-64", spectral_norm=True))
    assert torch.equal(torch.rand(1), expected)


def masks(network: networks.Network, batch: int, value: float = 1.0) -> list[torch.Tensor] | None:
    return [torch.full((batch, *shape), value) for shape in network.mask_shapes] or None


@pytest.mark.parametrize("name", NAMES)
def test_forward_keeps_the_contract_of_shapes_and_ranges(name: str) -> None:
    recipe = recipes.load(name)
    torch.manual_seed(0)
    generator, discriminator = networks.build_generator(recipe), networks.build_discriminator(recipe)
    images = generator(torch.randn(2, recipe.latent_dim), masks(generator, 2))
    low = 0.0 if recipe.value_range == "sigmoid" else -1.0
    assert images.shape == (2, recipe.channels, *recipe.resolution)
    assert low <= images.min() < images.max() <= 1
    assert discriminator(images, masks(discriminator, 2)).shape == (2,)


@pytest.mark.parametrize("name", NAMES)
def test_forward_draws_no_random_numbers(name: str) -> None:
    recipe = recipes.load(name)
    generator, discriminator = networks.build_generator(recipe), networks.build_discriminator(recipe)
    before = torch.get_rng_state()
    discriminator(generator(torch.ones(2, recipe.latent_dim)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_builds_the_same_weights(name: str) -> None:
    recipe = recipes.load(name)
    torch.manual_seed(3)
    first = networks.build_generator(recipe).state_dict()
    torch.manual_seed(3)
    second = networks.build_generator(recipe).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_lfw_generator_keeps_rows_1_to_62_and_columns_0_to_46() -> None:
    assert networks.build_generator(recipes.load("wgan-gp-lfw")).crop == (slice(1, 63), slice(0, 47))


@pytest.mark.parametrize(
    ("name", "network", "shapes", "dropout"),
    [
        ("wgan-gp-lfw", "build_generator", [(256, 1, 1), (128, 1, 1), (64, 1, 1), (32, 1, 1)], 0.45),
        ("mlp-64-improved", "build_discriminator", [(256,), (512,)], 0.1),
        (
            "wgan-gp-64",
            "build_discriminator",
            [(32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)],
            0.5,
        ),
    ],
)
def test_dropout_is_declared_and_taken_from_outside(
    name: str, network: str, shapes: list[tuple[int, ...]], dropout: float
) -> None:
    recipe = recipes.load(name)
    built = getattr(networks, network)(recipe).eval()
    assert (built.mask_shapes, built.dropout) == (shapes, dropout)
    x = torch.randn(2, recipe.latent_dim) if "generator" in network else torch.randn(2, 3, *recipe.resolution)
    torch.testing.assert_close(built(x, masks(built, 2)), built(x))
    for index in range(len(shapes)):  # every single mask has an effect
        some = masks(built, 2)
        assert some is not None
        some[index].zero_()
        assert not torch.allclose(built(x, some), built(x))


def test_networks_without_dropout_ask_for_no_masks() -> None:
    for name in ("dcgan-64", "dcgan-128", "mlp-64", "dcgan-28", "face-64"):
        assert networks.build_discriminator(recipes.load(name)).mask_shapes == []


def test_dropout_of_the_28_px_reference_can_be_switched_on() -> None:
    built = networks.build_discriminator(altered("dcgan-28", dropout=0.5))
    assert (built.mask_shapes, built.dropout) == ([(128, 7, 7), (256, 4, 4)], 0.5)
    assert not torch.allclose(
        built(torch.ones(2, 3, 28, 28)), built(torch.ones(2, 3, 28, 28), masks(built, 2, 2.0))
    )


# Initialisation and BatchNorm


def weights(network: nn.Module) -> list[torch.Tensor]:
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return [m.weight.detach() for m in network.modules() if isinstance(m, kinds) and m.weight.numel() > 20_000]


def biases(network: nn.Module) -> list[torch.Tensor]:
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    return [m.bias for m in network.modules() if isinstance(m, kinds) and m.bias is not None]


@pytest.mark.parametrize("name", ["dcgan-64", "dcgan-128"])
def test_dcgan_weights_are_normal_with_deviation_one_fiftieth(name: str) -> None:
    torch.manual_seed(0)
    for build in (networks.build_generator, networks.build_discriminator):
        network = build(recipes.load(name))
        for weight in weights(network):
            assert abs(weight.mean()) < 1e-3
            assert weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert all((bias == 0).all() for bias in biases(network))


@pytest.mark.parametrize("name", ["wgan-gp-lfw", "wgan-gp-64", "dcgan-28"])
def test_keras_weights_are_glorot_uniform_with_zero_bias(name: str) -> None:
    torch.manual_seed(0)
    for build in (networks.build_generator, networks.build_discriminator):
        network = build(recipes.load(name))
        for weight in weights(network):
            area = math.prod(weight.shape[2:])
            bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * area))
            assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert all((bias == 0).all() for bias in biases(network))


def test_batchnorm_scales_start_as_published() -> None:
    torch.manual_seed(0)
    radford = [m.weight for m in networks.build_generator(recipes.load("dcgan-64")).modules() if is_norm(m)]
    assert torch.cat(radford).std().item() == pytest.approx(0.02, rel=0.1)
    noe = [m.weight for m in networks.build_generator(recipes.load("dcgan-128")).modules() if is_norm(m)]
    assert (torch.cat(noe) == 1).all()


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("name", "momentum", "eps"),
    [("wgan-gp-lfw", 0.1, 1e-3), ("wgan-gp-64", 0.01, 1e-3), ("dcgan-128", 0.1, 1e-3), ("dcgan-64", 0.1, 1e-5)],
)
def test_batchnorm_has_the_published_momentum_and_epsilon(name: str, momentum: float, eps: float) -> None:
    for build in (networks.build_generator, networks.build_discriminator):
        found = {(m.momentum, m.eps) for m in build(recipes.load(name)).modules() if is_norm(m)}
        assert found <= {(momentum, eps)}
    assert any(is_norm(m) for m in networks.build_generator(recipes.load(name)).modules())


def test_the_28_px_discriminator_normalises_with_the_batch_in_eval_mode_too() -> None:
    torch.manual_seed(0)
    network = networks.build_discriminator(recipes.load("dcgan-28"))
    images = torch.randn(8, 3, 28, 28)
    trained = network.train()(images)
    torch.testing.assert_close(network.eval()(images), trained)
    assert not torch.allclose(network(images[:4]), trained[:4])


@pytest.mark.parametrize(
    ("name", "slopes"),
    [("wgan-gp-lfw", {0.3}), ("mlp-64", {0.01}), ("wgan-gp-64", {0.3}), ("dcgan-128", {0.2}), ("dcgan-64", {0.2})],
)
def test_leaky_slopes_are_those_of_the_recipe(name: str, slopes: set[float]) -> None:
    network = networks.build_discriminator(recipes.load(name))
    assert {m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)} == slopes


def test_improved_mlp_has_a_leaky_generator_and_the_base_has_not() -> None:
    kinds = {
        name: {type(m).__name__ for m in networks.build_generator(recipes.load(name)).modules()}
        for name in ("mlp-64", "mlp-64-improved")
    }
    assert "ReLU" in kinds["mlp-64"] and "LeakyReLU" not in kinds["mlp-64"]
    assert "LeakyReLU" in kinds["mlp-64-improved"] and "ReLU" not in kinds["mlp-64-improved"]


# Options that several families share


@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize("how", ["deconv", "nearest"])
def test_upsampling_doubles_the_size_exactly(kernel: int, how: str) -> None:
    assert layers.up(2, 3, kernel, how, bias=True)(torch.zeros(1, 2, 4, 3)).shape == (1, 3, 8, 6)


@pytest.mark.parametrize("name", ["dcgan-64", "dcgan-128", "wgan-gp-64"])
@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_convolutional_families_work_at_every_power_of_two(name: str, side: int) -> None:
    recipe = altered(name, resolution=Size(side, side), ngf=4, ndf=4)
    generator, discriminator = networks.build_generator(recipe), networks.build_discriminator(recipe)
    images = generator(torch.randn(2, recipe.latent_dim))
    assert images.shape == (2, 3, side, side)
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize("size", [Size(62, 47), Size(64, 64), Size(17, 100)])
def test_the_lfw_family_makes_any_size(size: Size) -> None:
    recipe = altered("wgan-gp-lfw", resolution=size, ngf=4, ndf=4)
    images = networks.build_generator(recipe)(torch.randn(2, recipe.latent_dim))
    assert images.shape == (2, 3, *size)
    assert networks.build_discriminator(recipe)(images).shape == (2,)


def test_a_transposed_convolution_can_replace_the_lfw_upsampling() -> None:
    recipe = altered("wgan-gp-lfw", upsample="deconv")
    kinds = [type(m).__name__ for m in networks.build_generator(recipe).modules()]
    assert kinds.count("ConvTranspose2d") == 4 and "Upsample" not in kinds
    assert networks.build_generator(recipe)(torch.randn(2, 128)).shape == (2, 3, 62, 47)


@pytest.mark.parametrize("norm", ["layer", "instance", "none"])
def test_a_critic_without_batchnorm_scores_each_image_alone(norm: str) -> None:
    torch.manual_seed(0)
    critic = networks.build_discriminator(altered("wgan-gp-64", critic_norm=norm))
    images = torch.rand(4, 3, 64, 64)
    torch.testing.assert_close(critic(images)[:2], critic(images[:2]))


def test_layer_norm_is_over_channels_rows_and_columns() -> None:
    norm = layers.norm("layer", 6, recipes.load("dcgan-64"))
    normalised = norm(torch.randn(3, 6, 4, 4) * 5 + 2)
    torch.testing.assert_close(normalised.mean(dim=(1, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var(dim=(1, 2, 3), unbiased=False), torch.ones(3), atol=1e-3, rtol=0)


def test_modulation_scales_and_shifts_a_channel_by_what_is_linear_in_z() -> None:
    layer, x, z = layers.SelfModulation(3, 5), torch.randn(4, 5, 2, 2), torch.randn(4, 3)
    weight, bias = layer.of_z.weight, layer.of_z.bias
    for sample, channel in [(0, 0), (3, 4), (2, 1)]:
        scale = 1 + weight[channel] @ z[sample] + bias[channel]
        shift = weight[5 + channel] @ z[sample] + bias[5 + channel]
        expected = x[sample, channel] * scale + shift
        torch.testing.assert_close(layer(x, z)[sample, channel], expected)


@pytest.mark.parametrize("upsample", ["nearest", "deconv"])
def test_a_stage_at_full_size_is_what_makes_the_image(upsample: str) -> None:
    changes = {"full_size_stage": True, "upsample": upsample, "ngf": 5, "kernel": 4}
    generator = networks.build_generator(altered("face-64", **changes))
    sizes = []
    for stage in generator.grow:
        stage.register_forward_hook(lambda _, __, y: sizes.append(tuple(y.shape[1:])))
    images = generator(torch.randn(8, 128))
    assert sizes == [(20, 8, 8), (10, 16, 16), (5, 32, 32), (3, 64, 64)]
    assert images.shape == (8, 3, 64, 64)
    last = generator.to_image
    assert (last.kernel_size, last.stride, last.in_channels) == ((3, 3), (1, 1), 3)


UNFITTED: dict[str, object] = {"moments_side": 0, "spectrum_kernel": 0}  # nothing but the weights


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_under_instance_norm_no_image_depends_on_the_others_of_its_batch(kind: str) -> None:
    generator = networks.build_generator(altered("face-64", generator_norm=kind, ngf=4, **UNFITTED)).train()
    z, others = torch.randn(4, 128), torch.randn(4, 128)
    alone, among = generator(z), generator(torch.cat([z, others]))[:4]
    assert torch.allclose(alone, among, atol=1e-6) is (kind == "instance")
    assert any(True for _ in generator.buffers()) is (kind == "batch")


def test_a_modulation_of_zeros_changes_no_image() -> None:
    plain, modulated = (networks.build_generator(altered("face-64", self_modulation=on)) for on in (False, True))
    missing, _ = modulated.load_state_dict(plain.state_dict(), strict=False)
    assert len(missing) == 10 and all("of_z" in name for name in missing)
    for module in modulated.modules():
        if isinstance(module, layers.SelfModulation):
            nn.init.zeros_(module.of_z.weight)
    z = torch.randn(8, 128)
    assert torch.equal(plain(z), modulated(z))


def test_minibatch_deviation_is_that_of_groups_of_four_neighbours() -> None:
    x = torch.randn(8, 2, 3, 3)
    appended = layers.MinibatchStd()(x)
    assert appended.shape == (8, 3, 3, 3)
    assert torch.equal(appended[:, :2], x)
    for group in (slice(0, 4), slice(4, 8)):
        expected = x[group].std(dim=0, unbiased=False).mean()
        torch.testing.assert_close(appended[group, 2], expected.expand(4, 3, 3))


def test_minibatch_deviation_per_map_is_a_number_of_each_map() -> None:
    x = torch.randn(8, 2, 3, 3)
    appended = layers.MinibatchStd(per_map=True)(x)
    assert appended.shape == (8, 4, 3, 3)
    assert torch.equal(appended[:, :2], x)
    for group in (slice(0, 4), slice(4, 8)):
        expected = x[group].std(dim=0, unbiased=False).mean(dim=(1, 2))
        torch.testing.assert_close(appended[group, 2:], expected[None, :, None, None].expand(4, 2, 3, 3))
    torch.testing.assert_close(appended[:, 2:].mean(dim=1), layers.MinibatchStd()(x)[:, 2])


@pytest.mark.parametrize("name", ["face-64", "dcgan-128"])  # of the two families that have it
def test_the_logit_weighs_the_deviation_of_each_map(name: str) -> None:
    changes = {"minibatch_std": True, "minibatch_per_map": True, "critic_norm": "none"}
    critic = networks.build_discriminator(altered(name, **changes))
    seen = []
    critic.to_logit.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    critic(torch.rand(4, 3, *recipes.load(name).resolution) * 2 - 1)
    maps, deviations = seen[0].chunk(2, dim=1)
    assert maps.shape[1] == 512
    torch.testing.assert_close(deviations[0, :, 0, 0], maps.std(dim=0, unbiased=False).mean(dim=(1, 2)))
    assert critic.to_logit.weight.numel() == seen[0][0].numel()  # nothing is left out


def test_minibatch_deviation_of_equal_images_is_almost_zero_and_has_a_finite_gradient() -> None:
    x = torch.ones(4, 2, 3, 3, requires_grad=True)
    layers.MinibatchStd()(x)[:, 2].sum().backward()
    assert layers.MinibatchStd()(x)[:, 2].max() < 1e-3
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("batch", [2, 3, 6, 63])
def test_minibatch_deviation_of_a_group_that_ends_early_is_still_that_of_four(batch: int) -> None:
    x = torch.randn(batch, 2, 4, 4)
    appended = layers.MinibatchStd()(x)
    assert appended.shape == (batch, 3, 4, 4)
    assert appended[:, 2].min() > 0.3  # a group of one has 0
    last = torch.cat([x, x, x])[batch // 4 * 4 :][:4]
    torch.testing.assert_close(appended[-1, 2, 0, 0], last.std(dim=0, unbiased=False).mean())


@pytest.mark.parametrize("name", recipes.recipe_classes())
def test_logits_are_float32_in_any_precision(name: str) -> None:
    recipe = recipes.load(name)
    critic = networks.build_discriminator(recipe)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = critic(torch.rand(4, recipe.channels, *recipe.resolution))
    assert logits.dtype == torch.float32 and logits.shape == (4,)
    assert not torch.equal(logits, logits.bfloat16().float())


def test_spectral_norm_brings_the_largest_singular_value_to_one() -> None:
    torch.manual_seed(0)
    critic = networks.build_discriminator(altered("dcgan-64", spectral_norm=True, critic_norm="none", ndf=4))
    for _ in range(50):  # power iterations
        critic(torch.randn(2, 3, 64, 64))
    for weight in [m.weight for m in critic.modules() if isinstance(m, nn.Conv2d)]:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, rel=0.02)


def test_spectral_norm_state_travels_with_the_state_dict() -> None:
    recipe = altered("mlp-64", spectral_norm=True)
    first, second = networks.build_discriminator(recipe), networks.build_discriminator(recipe)
    first(torch.randn(2, 3, 64, 64))
    second.load_state_dict(first.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        assert torch.equal(first(images), second(images))


def test_spectral_norm_changes_no_parameter_count_and_keeps_its_layers_in_the_table() -> None:
    plain, normed = (networks.layer_table(altered("dcgan-64", spectral_norm=on)) for on in (False, True))
    assert plain == normed


def test_a_size_the_family_cannot_make_is_refused_with_the_ones_it_can() -> None:
    with pytest.raises(UsageError, match="power of two"):
        networks.build_generator(altered("dcgan-64", resolution=Size(62, 47)))
    with pytest.raises(UsageError, match="expected 28"):
        networks.build_generator(altered("dcgan-28", resolution=Size(64, 64)))
