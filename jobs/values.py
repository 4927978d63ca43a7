"""The value of every field of a run and where it came from: flag > environment > --config FILE > recipe."""

import dataclasses
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import click

from facegan.errors import UsageError
from facegan.recipes import Range, Recipe, Size, stored
from facegan.run.settings import RunSettings, current

SETTINGS = {field.name: field for field in dataclasses.fields(RunSettings)}


class Value(NamedTuple):
    """A field's value and its origin: a flag, a variable, a file or the recipe's source."""

    value: Any
    origin: str


class Written(click.ParamType[Any]):
    """Sizes (`64`, `62x47`) and ranges (`0.9`, `0.7,1.2`) on the command line."""

    def __init__(self, kind: type[Size] | type[Range]) -> None:
        self.kind = kind
        self.name = kind.__name__.lower()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return value if isinstance(value, self.kind) else self.kind.parse(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


def param_type(default: Any) -> click.ParamType[Any]:
    """The click type that reads values like `default`."""
    if isinstance(default, Size | Range):
        return Written(type(default))
    plain: tuple[click.ParamType[Any], ...] = (click.BOOL, click.INT, click.FLOAT, click.STRING)
    return dict(zip((bool, int, float, str), plain, strict=True))[type(default)]


def defaults(recipe: type[Recipe]) -> dict[str, Value]:
    """Every field of the recipe, then every run setting, as the recipe's file and the program have them."""
    values = {f.name: Value(f.default, recipe.source(f.name)) for f in dataclasses.fields(recipe)}
    return values | {name: Value(field.default, "default") for name, field in SETTINGS.items()}


def resolve(recipe: type[Recipe], *layers: Mapping[str, Value]) -> dict[str, Value]:
    """The fields of `recipe` with each layer's values over those before it.

    A layer that sets the length in one unit drops the other unit of the layers below; `lr` sets g_lr and d_lr.
    Raises UsageError for a name that is no field, text that is no value of the field's type, or a mixture
    that leaves nothing for --data.
    """
    values = defaults(recipe)
    for layer in layers:
        given = {name: _typed(recipe, values, name, value) for name, value in _spread(layer).items()}
        values |= _other_length(given) | given
    parse_mix(values["mix"].value)
    return values


def build(recipe: type[Recipe], values: Mapping[str, Value]) -> tuple[Recipe, RunSettings]:
    """The recipe and the run settings that `values` (of `resolve`) describe."""
    plain = {name: value.value for name, value in values.items()}
    settings = RunSettings(**{name: plain.pop(name) for name in SETTINGS})
    return recipe(**plain), settings


def read_config(path: Path, recipe: type[Recipe]) -> dict[str, Value]:
    """The values in a file of the form of a run's config.json; raises UsageError where it is of another form."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_a_run_s = "software" in content  # and then names every value that its version knew
        values = stored(content["values"]) if is_a_run_s else content["values"]
        name, fields = content["recipe"], {**values, **current(content.get("settings", {}))}
    except (ValueError, KeyError, TypeError) as error:
        example = {"recipe": recipe.name, "values": {"g_lr": 0.0002}, "settings": {"seed": 1}}
        raise UsageError(
            f"--config {path}: {error}; expected the form of a run's config.json, such as {json.dumps(example)}"
        ) from error
    if name != recipe.name:
        raise UsageError(f"--config {path}: a run of {name}, not {recipe.name}; try: facegan train {name} ...")
    return {field: Value(value, f"--config {path}") for field, value in fields.items()}


def parse_set(texts: tuple[str, ...]) -> dict[str, Value]:
    """`("gp_weight=5", ...)` as values; dashes are taken for underscores."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise UsageError(f"--set {name!r}: expected FIELD=VALUE, such as --set gp_weight=5")
    return {name.replace("-", "_"): Value(value, f"--set {name}={value}") for name, _, value in pairs}


def _spread(layer: Mapping[str, Value]) -> dict[str, Value]:
    spread = {name: value for name, value in layer.items() if name != "lr"}
    both = dict.fromkeys(("g_lr", "d_lr"), layer["lr"]) if "lr" in layer else {}
    return both | spread


def _other_length(given: Mapping[str, Value]) -> dict[str, Value]:
    for name, other in (("kimg", "epochs"), ("epochs", "kimg")):
        if name in given and other not in given and given[name].value:
            return {other: Value(0.0, f"0 because {name} is given")}
    return {}


def _typed(recipe: type[Recipe], values: Mapping[str, Value], name: str, given: Value) -> Value:
    if name not in values:
        raise UsageError(
            f"{given.origin}: {name!r} is no field of {recipe.name} and no setting of a run;"
            f" all of them: facegan train {recipe.name} --dry-run"
        )
    kind = param_type(values[name].value)
    try:
        text = given.value if isinstance(given.value, Size | Range) else str(given.value)
        return Value(kind.convert(text, None, None), given.origin)
    except click.BadParameter as error:
        raise UsageError(f"{given.origin}: {name}: {error.message}") from error


def parse_mix(text: str) -> dict[str, Fraction]:
    """`data/ffhq=1/4,data/own=0.1` as a share a set; UsageError where it is anything else, or nothing is left."""
    shares: dict[str, Fraction] = {}
    for part in filter(None, text.split(",")):
        path, _, number = part.strip().rpartition("=")
        try:
            share = Fraction(number)
        except (ValueError, ZeroDivisionError):
            share = Fraction(0)
        if not path or path in shares or share <= 0:
            raise UsageError(
                f"--mix {text}: {part!r}: expected SET=SHARE, each set once, like data/ffhq=1/4 or =0.25"
            )
        shares[path] = share
    if sum(shares.values()) >= 1:
        raise UsageError(f"--mix {text}: the shares add up to {sum(shares.values())}: nothing is left for --data")
    return shares
