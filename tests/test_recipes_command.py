"""`facegan recipes`: the table, one recipe in full, JSON with the parameter counts."""

import json

import pytest
from click.testing import CliRunner

from facegan.recipes import recipe_classes
from jobs.cli import main


def show(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["recipes", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_table_has_a_line_for_every_recipe() -> None:
    header, *lines = show().splitlines()
    assert header.split()[:4] == ["recipe", "size", "crop", "network"]
    assert [line.split()[0] for line in lines] == list(recipe_classes())
    row = next(line for line in lines if line.startswith("wgan-gp-lfw "))
    assert "62x47" in row
    assert "wasserstein+GP" in row


def test_the_table_s_json_holds_every_value() -> None:
    content = json.loads(show("--json"))
    assert [recipe["name"] for recipe in content] == list(recipe_classes())
    assert content[list(recipe_classes()).index("dcgan-64")]["values"]["batch_size"] == 128


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [
        ("dcgan-64", (3_578_624, 3_576_704), (2_767_360, 2_765_568)),
        ("dcgan-128", (11_693_443, 11_690_499), (4_340_865, 4_340_097)),
        ("wgan-gp-lfw", (2_111_064, 2_110_104), (1_152_481, 1_152_481)),
    ],
)
def test_one_recipe_s_json_counts_the_parameters(
    name: str, generator: tuple[int, int], discriminator: tuple[int, int]
) -> None:
    content = json.loads(show(name, "--json"))
    for role, (total, trainable) in {"generator": generator, "discriminator": discriminator}.items():
        assert (content[role]["total"], content[role]["trainable"]) == (total, trainable)
        assert sum(layer["parameters"] for layer in content[role]["layers"]) == total
    assert content["values"]["batch_size"]["source"]


@pytest.mark.parametrize("name", recipe_classes())
def test_every_recipe_is_shown_with_notes_layers_and_sources(name: str) -> None:
    text, recipe = show(name), recipe_classes()[name]
    assert all(note in text for note in recipe.notes)
    assert recipe.source("batch_size") in text
    assert "Generator layer" in text
    assert "Discriminator layer" in text
