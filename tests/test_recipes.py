"""The registry of recipes, their published numbers, and the combinations that are refused."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facegan import recipes
from facegan.errors import UsageError
from facegan.recipes import Range, Recipe, Size
from facegan.recipes.checks import FAMILIES, check, check_split

REFERENCES = ["wgan-gp-lfw", "mlp-64", "mlp-64-improved", "dcgan-28", "wgan-gp-64", "dcgan-128", "dcgan-64"]
OURS = ["wgan-gp-128", "wgan-64", "face-64", "face-128"]
NAMES = list(recipes.recipe_classes())


def altered(name: str, **values: Any) -> Recipe:
    return dataclasses.replace(recipes.load(name), **values)


def test_every_reference_and_our_own_recipes_are_there() -> None:
    assert set(NAMES) == {*REFERENCES, *OURS}


def test_our_own_recipes_are_marked_so() -> None:
    assert {name for name, kind in recipes.recipe_classes().items() if kind.reference == "ours"} == set(OURS)


def test_recipes_import_no_torch() -> None:
    code = "import sys; from facegan import recipes; from facegan.recipes import checks; recipes.recipe_classes(); "
    subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], check=True)


def test_an_unknown_recipe_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(UsageError, match=r"'dcgan-65' does not exist.*dcgan-64"):
        recipes.load("dcgan-65")


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_source_and_a_help_line(name: str) -> None:
    kind = recipes.recipe_classes()[name]
    assert kind.options()
    for option in kind.options():
        assert kind.source(option).strip() and kind.source(option) != "neutral default", option
        assert kind.help(option).strip(), option


@pytest.mark.parametrize("name", NAMES)
def test_every_number_that_shapes_the_run_is_declared_with_its_source(name: str) -> None:
    """What is left to the neutral default is a technique that is off."""
    kind = recipes.recipe_classes()[name]
    data = {"resolution", "crop", "value_range"}
    architecture = {"network", "latent_dim", "ngf", "ndf", "critic_norm", "g_slope", "d_slope", "init"}
    steps = {"loss", "fresh_latents", "g_optimizer", "d_optimizer", "g_lr", "d_lr", "beta1", "beta2", "batch_size"}
    assert data | architecture | steps <= set(kind.options())
    assert {"kimg", "epochs"} & set(kind.options())


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_passes_its_own_checks(name: str) -> None:
    warnings = check(recipes.load(name))
    assert bool(warnings) == (name == "wgan-gp-64")


@pytest.mark.parametrize("name", NAMES)
def test_values_survive_the_way_through_json(name: str) -> None:
    recipe = recipes.load(name)
    assert recipes.from_values(name, recipes.to_values(recipe)) == recipe


PUBLISHED: dict[str, dict[str, Any]] = {
    "wgan-gp-lfw": {
        "resolution": Size(62, 47),
        "crop": "70:195,78:172",
        "latent_dim": 128,
        "dropout": 0.45,
        "kernel": 5,
        "batch_size": 128,
        "kimg": 200 * 103 * 128 / 1000,
        "n_critic": 3,
        "fresh_reals": False,
        "g_lr": 1e-4,
        "d_lr": 1e-4,
        "beta1": 0.9,
        "beta2": 0.999,
        "lr_decay": 0.9,
        "lr_decay_steps": 3000,
        "gp_weight": 10.0,
        "diversity_weight": 0.1,
        "rotation": 20.0,
        "shear": 0.2,
        "zoom": 0.2,
        "flip": True,
        "instance_noise": 0.25,
        "instance_noise_decay": 0.9,
        "instance_noise_steps": 1033,
        "instance_noise_on": "real",
        "bn_momentum": 0.1,
        "d_slope": 0.3,
        "lr_schedule": "exponential",
    },
    "mlp-64": {
        "crop": "160",
        "latent_dim": 100,
        "batch_size": 64,
        "g_lr": 2e-4,
        "d_lr": 2e-4,
        "beta1": 0.5,
        "epochs": 100.0,
        "d_slope": 0.01,
        "dropout": 0.0,
        "fresh_latents": False,
        "n_critic": 1,
    },
    "mlp-64-improved": {
        "g_slope": 0.01,
        "d_slope": 0.01,
        "dropout": 0.1,
        "real_labels": Range(0.7, 1.2),
        "kimg": 16 * 1750 * 64 / 1000,
        "epochs": 0.0,
        "d_optimizer": "adam",
    },
    "dcgan-28": {
        "resolution": Size(28, 28),
        "crop": "108",
        "real_labels": Range(0.9, 0.9),
        "dropout": 0.0,
        "latent_dim": 100,
        "g_lr": 2e-4,
        "beta1": 0.5,
        "batch_size": 64,
        "epochs": 1.0,
        "d_slope": 0.01,
    },
    "wgan-gp-64": {
        "crop": "128",
        "latent_dim": 128,
        "value_range": "sigmoid",
        "dropout": 0.5,
        "critic_norm": "batch",
        "bn_momentum": 0.01,
        "d_slope": 0.3,
        "batch_size": 64,
        "kimg": 100 * 131_072 / 1000,
        "n_critic": 1,
        "gp_weight": 10.0,
        "g_lr": 2e-4,
        "d_lr": 2e-4,
        "beta1": 0.5,
        "beta2": 0.9,
    },
    "dcgan-128": {
        "resolution": Size(128, 128),
        "crop": "150",
        "latent_dim": 100,
        "kernel": 5,
        "first_stride": 2,
        "g_lr": 1e-4,
        "d_lr": 5e-4,
        "beta1": 0.5,
        "batch_size": 64,
        "real_labels": Range(0.9, 0.9),
        "split_updates": True,
        "fresh_latents": False,
        "epochs": 3.0,
        "bn_momentum": 0.1,
        "d_slope": 0.2,
    },
    "dcgan-64": {
        "crop": "150",
        "latent_dim": 100,
        "ngf": 64,
        "ndf": 64,
        "g_lr": 2e-4,
        "d_lr": 2e-4,
        "beta1": 0.5,
        "beta2": 0.999,
        "batch_size": 128,
        "real_labels": Range(1.0, 1.0),
        "kernel": 4,
    },
    "wgan-gp-128": {
        "critic_norm": "none",
        "n_critic": 5,
        "g_lr": 1e-4,
        "d_lr": 1e-4,
        "beta1": 0.0,
        "beta2": 0.9,
        "gp_weight": 10.0,
        "network": "dcgan_dense",
        "kernel": 5,
        "kimg": 200_000 * 5 * 64 / 1000,
        "epochs": 0.0,
    },
    "wgan-64": {
        "clip": 0.01,
        "g_optimizer": "rmsprop",
        "d_optimizer": "rmsprop",
        "d_lr": 5e-5,
        "n_critic": 5,
        "kimg": pytest.approx(25 * 3_033.042, rel=1e-4),
        "epochs": 0.0,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_numbers(name: str) -> None:
    recipe = recipes.load(name)
    assert {field: getattr(recipe, field) for field in PUBLISHED[name]} == PUBLISHED[name]


def test_the_r1_weight_grows_with_the_pixels_as_stylegans_rule_has_it() -> None:
    small, large = recipes.load("face-64"), recipes.load("face-128")
    assert small.r1_gamma / small.resolution.height**2 == large.r1_gamma / large.resolution.height**2
    assert small.batch_size == large.batch_size


def test_what_was_swept_is_what_our_recipes_take() -> None:
    recipe, page = recipes.load("face-64"), PAGE.with_name("sweeps.md").read_text()
    assert "| **gamma 12, batch 32, both rates 4e-4** |" in page
    assert (recipe.r1_gamma, recipe.penalty_every, recipe.batch_size) == (3.0, 8, 32)
    assert (recipe.g_lr, recipe.d_lr, recipe.ema_rampup) == (4e-4, 4e-4, 0.1)
    assert "| **gamma 3, both rates 4e-4, batch 32** |" in page
    assert (recipe.sharpen, recipe.lr_schedule, recipe.lr_cooldown, recipe.lr_final) == (0.5, "cooldown", 0.3, 0.1)
    assert "| **`--set sharpen=0.5 --set lr_schedule=cooldown`** (over three tenths, to a tenth)" in page
    assert recipe.moments_side == 8 and "| **`--set moments_side=8`** |" in page
    assert recipe.spectrum_kernel == 7 and "| **`--set spectrum_kernel=7`** |" in page
    large = recipes.load("face-128")
    assert (large.moments_side, large.spectrum_kernel) == (8, 7)
    assert "| **`--set moments_side=8 --set spectrum_kernel=7`** |" in page
    assert (large.sharpen, large.lr_schedule) == (0.0, "constant")


@pytest.mark.parametrize("name", ["face-64", "face-128"])
def test_the_average_is_as_long_as_stylegans(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.ema_kimg == recipe.batch_size * 10 / 32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mlp-64", "0.01 in the code"),
        ("mlp-64-improved", "0.4 in the text"),
        ("dcgan-128", "150 x 130"),
        ("dcgan-28", "does nothing"),
        ("wgan-gp-64", "against Gulrajani"),
        ("wgan-gp-lfw", "49 pictures"),
    ],
)
def test_disagreements_and_bugs_not_kept_are_said(name: str, said: str) -> None:
    assert any(said in note for note in recipes.recipe_classes()[name].notes)


def test_batchnorm_under_a_penalty_is_said_in_the_docstring_of_its_recipe() -> None:
    assert "against Gulrajani" in str(recipes.recipe_classes()["wgan-gp-64"].__doc__)


# The page on recipes

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"


def test_the_page_on_recipes_names_every_recipe() -> None:
    text = PAGE.read_text()
    assert [name for name in NAMES if f"`{name}`" not in text] == []


@pytest.fixture
def recipe_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example recipe of the page as one more file of facegan/recipes."""
    code = PAGE.read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "lsgan64.py").write_text(code)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    recipes.recipe_classes.cache_clear()
    yield
    recipes.recipe_classes.cache_clear()
    sys.modules.pop("facegan.recipes.lsgan64", None)


@pytest.mark.usefixtures("recipe_of_the_page")
def test_a_recipe_is_added_by_one_file() -> None:
    recipe = recipes.load("lsgan-64")
    assert (recipe.loss, recipe.network, check(recipe)) == ("lsgan", "dcgan", [])
    assert recipe.source("loss").startswith("Mao et al. 2017")


# Impossible and doubtful combinations

IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("dcgan-64", {"gp_weight": 10.0}, "critic-norm layer"),
    ("dcgan-64", {"r1_gamma": 1.0}, "critic-norm layer"),
    ("dcgan-128", {"r2_gamma": 1.0, "split_updates": False}, "critic-norm layer"),
    ("dcgan-64", {"clip": 0.01, "gp_weight": 10.0, "critic_norm": "none"}, "set one of them to 0"),
    ("wgan-64", {"spectral_norm": True}, "set clip to 0"),
    ("dcgan-128", {"loss": "relativistic", "real_labels": Range(1.0, 1.0)}, "split_updates parts"),
    ("dcgan-128", {"r1_gamma": 1.0, "critic_norm": "none"}, "one update"),
    ("dcgan-64", {"diversity_weight": 0.1}, "--loss wasserstein"),
    ("dcgan-28", {"loss": "hinge"}, "no targets"),
    ("dcgan-64", {"gamma_final": 0.2}, "both are 0"),
    ("dcgan-64", {"loss": "wgan"}, "bce, minimax, wasserstein"),
    ("dcgan-64", {"d_optimizer": "lion"}, "adam, sgd, rmsprop"),
    ("dcgan-64", {"lr_schedule": "step"}, "constant, exponential"),
    ("dcgan-64", {"critic_norm": "group"}, "batch, layer"),
    ("dcgan-64", {"generator_norm": "layer"}, "batch, instance"),
    ("dcgan-64", {"upsample": "bilinear"}, "deconv, nearest"),
    ("dcgan-64", {"network": "resnet"}, "dcgan_dense"),
    ("dcgan-64", {"value_range": "linear"}, "tanh, sigmoid"),
    ("dcgan-64", {"instance_noise_on": "fake"}, "both, real"),
    ("dcgan-64", {"diffaugment": "colour"}, "color,translation,cutout"),
    ("dcgan-64", {"augment_target": 0.6}, "diffaugment, which is empty"),
    ("wgan-gp-128", {"augment_target": 0.6, "diffaugment": "color"}, "bce or minimax or hinge"),
    ("dcgan-128", {"augment_target": 0.6, "diffaugment": "color"}, "split_updates"),
    ("dcgan-64", {"augment_target": 1.0, "diffaugment": "color"}, r"in \[0, 1\)"),
    ("dcgan-64", {"augment_kimg": 0.0}, "more than 0"),
    ("dcgan-64", {"resolution": Size(62, 47)}, "power of two"),
    ("dcgan-64", {"resolution": Size(8, 8)}, "power of two"),
    ("dcgan-28", {"resolution": Size(64, 64)}, "expected 28"),
    ("dcgan-64", {"kernel": 7}, "expected 3 or 4 or 5"),
    ("dcgan-64", {"channels": 2}, "expected one of: 1, 3"),
    ("dcgan-64", {"dropout": 0.3}, "families that have one: .*mlp"),
    ("mlp-64", {"minibatch_std": True}, "families that have one: dcgan"),
    ("dcgan-28", {"minibatch_per_map": True}, "families that have one: dcgan, dcgan_dense"),
    ("dcgan-128", {"full_size_stage": True}, "families that have one: dcgan$"),
    ("dcgan-128", {"self_modulation": True}, "families that have one: dcgan$"),
    ("dcgan-128", {"generator_norm": "instance"}, "families that have one: dcgan$"),
    ("wgan-gp-lfw", {"critic_norm": "layer"}, "expected none"),
    ("wgan-gp-lfw", {"ngf": 3}, "at least 4"),
    ("mlp-64", {"upsample": "nearest"}, "expected deconv"),
    ("mlp-64", {"kernel": 5}, "expected 4"),
    ("dcgan-64", {"first_stride": 4}, "families that have one: dcgan_dense"),
    ("dcgan-128", {"first_stride": 4, "resolution": Size(16, 16)}, "expected 2 below 32 px"),
    ("dcgan-64", {"g_lr": 0.0}, "more than 0"),
    ("dcgan-64", {"d_lr": float("nan")}, "more than 0"),
    ("dcgan-64", {"g_lr": float("inf")}, "more than 0"),
    ("dcgan-64", {"batch_size": 0}, "at least 1"),
    ("dcgan-64", {"n_critic": 0}, "at least 1"),
    ("dcgan-64", {"latent_dim": -1}, "at least 1"),
    ("dcgan-64", {"beta1": 1.0}, r"in \[0, 1\)"),
    ("mlp-64-improved", {"dropout": 1.0}, r"in \[0, 1\)"),
    ("dcgan-64", {"bn_momentum": 0.0}, "more than 0 and at most 1"),
    ("wgan-gp-lfw", {"gp_weight": -1.0}, "0 or more"),
    ("wgan-gp-lfw", {"gp_weight": float("inf")}, "0 or more"),
    ("dcgan-64", {"kimg": 100.0}, "both are set"),
    ("dcgan-64", {"epochs": 0.0}, "both are 0"),
]


@pytest.mark.parametrize(("name", "values", "said"), IMPOSSIBLE)
def test_an_impossible_value_or_combination_is_refused_with_what_to_do(
    name: str, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check(altered(name, **values))


POSSIBLE: list[tuple[str, dict[str, Any]]] = [
    ("dcgan-64", {"gp_weight": 10.0, "critic_norm": "layer", "loss": "wasserstein"}),
    ("dcgan-64", {"r1_gamma": 1.0, "critic_norm": "none"}),
    ("dcgan-64", {"loss": "hinge", "spectral_norm": True, "critic_norm": "none"}),
    ("wgan-gp-64", {"critic_norm": "layer"}),
    ("dcgan-128", {"resolution": Size(32, 32)}),
    ("dcgan-128", {"resolution": Size(64, 64)}),
    ("dcgan-28", {"channels": 1, "crop": "none", "epochs": 2.0}),
    ("face-64", {"loss": "relativistic", "r1_gamma": 2.0, "r2_gamma": 2.0, "gamma_final": 0.2, "penalty_every": 1}),
    ("mlp-64", {"d_optimizer": "sgd", "instance_noise": 0.1}),
    ("wgan-gp-lfw", {"resolution": Size(64, 64)}),
]


@pytest.mark.parametrize(("name", "values"), POSSIBLE)
def test_a_sound_change_passes_without_a_warning(name: str, values: dict[str, Any]) -> None:
    assert check(altered(name, **values)) == []


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("wgan-gp-64", {}, "--critic-norm layer gives the correct one"),
        ("wgan-64", {"clip": 0.0}, "nothing bounds"),
        ("dcgan-64", {"loss": "minimax"}, "saturates"),
        ("dcgan-64", {"penalty_every": 16}, "never left out"),
        ("dcgan-64", {"lr_schedule": "exponential"}, "never changes"),
        ("dcgan-64", {"lr_schedule": "cooldown", "lr_cooldown": 0.0}, "never changes"),
    ],
)
def test_a_doubtful_combination_gives_a_warning(name: str, values: dict[str, Any], said: str) -> None:
    assert any(said in warning for warning in check(altered(name, **values)))


def test_every_network_family_is_used_by_a_recipe() -> None:
    assert {recipes.load(name).network for name in NAMES} == set(FAMILIES)


@pytest.mark.parametrize(
    ("name", "changes", "split", "way_out"),
    [
        ("face-64", {"batch_size": 8}, {"world": 4}, "--batch-size a multiple of 16"),
        ("face-64", {"batch_size": 64}, {"world": 1, "batch_per_rank": 6}, "--batch-per-rank a multiple of 4"),
        ("wgan-gp-64", {}, {"world": 2, "sync_bn": True}, "--critic-norm layer"),
    ],
)
def test_a_split_that_would_train_another_model_is_refused_with_the_way_out(name, changes, split, way_out):
    with pytest.raises(UsageError, match=way_out):
        check_split(recipes.from_values(name, changes), **split)


def test_every_recipe_splits_over_two_ranks():
    for name in recipes.recipe_classes():
        check_split(recipes.load(name), 2, 8, sync_bn=not recipes.load(name).gp_weight)
