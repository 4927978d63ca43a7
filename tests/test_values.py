"""Every field's value and origin: flag > environment > --config FILE > recipe."""

import json
from pathlib import Path

import pytest

from facegan.errors import UsageError
from facegan.recipes import Range, Size, from_values, recipe_classes, to_values
from facegan.run.folder import make_config
from facegan.run.settings import RunSettings
from jobs.values import Value, build, defaults, parse_set, read_config, resolve

DCGAN = recipe_classes()["dcgan-64"]


@pytest.mark.parametrize("name", recipe_classes())
def test_without_layers_the_recipe_is_the_published_one(name: str) -> None:
    recipe, settings = build(recipe_classes()[name], resolve(recipe_classes()[name]))
    assert recipe == recipe_classes()[name]()
    assert settings == RunSettings()


def test_defaults_carry_the_recipe_s_source() -> None:
    assert defaults(DCGAN)["batch_size"] == Value(128, DCGAN.source("batch_size"))
    assert defaults(DCGAN)["seed"] == Value(0, "default")


def test_a_later_layer_wins_and_leaves_the_other_fields() -> None:
    values = resolve(DCGAN, {"ngf": Value(8, "low"), "ndf": Value(16, "low")}, {"ngf": Value(32, "high")})
    assert values["ngf"] == Value(32, "high")
    assert values["ndf"] == Value(16, "low")


def test_texts_become_values_of_the_field_s_type() -> None:
    texts = {
        "resolution": "62x47",
        "real_labels": "0.7,1.2",
        "flip": "true",
        "beta1": "0",
        "ngf": "8",
        "loss": "hinge",
    }
    values = resolve(DCGAN, {name: Value(text, "--set") for name, text in texts.items()})
    assert [values[name].value for name in texts] == [Size(62, 47), Range(0.7, 1.2), True, 0.0, 8, "hinge"]


@pytest.mark.parametrize(
    ("name", "text"), [("ngf", "1.5"), ("flip", "perhaps"), ("resolution", "64x"), ("g_lr", "x")]
)
def test_a_text_that_is_no_value_names_field_and_origin(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"--set {name}=.*{name}"):
        resolve(DCGAN, parse_set((f"{name}={text}",)))


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UsageError, match="no_such_field"):
        resolve(DCGAN, parse_set(("no_such_field=1",)))


def test_lr_sets_both_and_a_single_one_wins_over_it() -> None:
    values = resolve(DCGAN, {"lr": Value(1e-4, "--lr"), "d_lr": Value(5e-4, "--d-lr")})
    assert (values["g_lr"].value, values["d_lr"].value) == (1e-4, 5e-4)


def test_a_length_in_one_unit_replaces_the_other() -> None:
    values = resolve(DCGAN, {"kimg": Value(10.0, "--kimg")})
    assert (values["kimg"].value, values["epochs"].value) == (10.0, 0.0)
    values = resolve(DCGAN, {"kimg": Value(10.0, "FACEGAN_KIMG")}, {"epochs": Value(2.0, "--epochs")})
    assert (values["kimg"].value, values["epochs"].value) == (0.0, 2.0)


def test_a_run_s_config_gives_the_same_run(tmp_path: Path) -> None:
    recipe = from_values("dcgan-64", {"ngf": 8, "real_labels": "0.7,1.2", "kimg": 5.0, "epochs": 0.0})
    config = {
        "recipe": "dcgan-64",
        "values": to_values(recipe),
        "settings": {"seed": 3, "wandb": "off"},
        "data": {},
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    values = resolve(DCGAN, read_config(path, DCGAN))
    assert build(DCGAN, values) == (recipe, RunSettings(seed=3, wandb="off"))
    assert values["ngf"].origin == f"--config {path}"


def test_a_config_from_before_cuda_graphs_had_a_flag_gives_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"recipe": "dcgan-64", "values": {}, "settings": {"compile": "graph", "seed": 3}}))
    _, settings = build(DCGAN, resolve(DCGAN, read_config(path, DCGAN)))
    assert settings == RunSettings(seed=3, cuda_graphs="on")


def test_a_run_s_config_from_before_a_technique_gives_the_same_run(tmp_path: Path) -> None:
    face = recipe_classes()["face-64"]
    config = make_config(face(self_modulation=False), RunSettings(), {}, {})
    del config["values"]["self_modulation"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert build(face, resolve(face, read_config(path, face)))[0] == face(self_modulation=False)
    path.write_text(json.dumps({"recipe": "face-64", "values": {"g_lr": 1e-4}}))
    assert build(face, resolve(face, read_config(path, face)))[0] == face(g_lr=1e-4), "no run: else as published"


def test_a_config_of_another_recipe_or_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"recipe": "mlp-64", "values": {}}))
    with pytest.raises(UsageError, match="facegan train mlp-64"):
        read_config(path, DCGAN)
    for text in ("[]", "{}", "not json", '{"recipe": "dcgan-64", "values": 3}'):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"form of a run's config\.json"):
            read_config(path, DCGAN)


@pytest.mark.parametrize("text", ["ngf", "=3", ""])
def test_set_without_field_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="FIELD=VALUE"):
        parse_set((text,))


def test_a_value_may_hold_an_equals_sign_and_dashes_are_underscores() -> None:
    assert parse_set(("wandb-group=a=b",))["wandb_group"].value == "a=b"
