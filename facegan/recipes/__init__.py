"""The named recipes: every module of this package that defines a `Recipe` subclass with a name is one."""

import dataclasses
import importlib
import pkgutil
from functools import cache
from typing import Any

from facegan.errors import UsageError
from facegan.recipes.base import Range, Recipe, Size, cite

__all__ = ["Range", "Recipe", "Size", "cite", "from_values", "load", "recipe_classes", "stored", "to_values"]


@cache
def recipe_classes() -> dict[str, type[Recipe]]:
    """Recipe classes by name, in the order of their files and lines."""
    classes: dict[str, type[Recipe]] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base"):
        for value in vars(importlib.import_module(f"{__name__}.{module}")).values():
            if isinstance(value, type) and issubclass(value, Recipe) and "name" in vars(value):
                classes[value.name] = value
    return classes


def load(name: str) -> Recipe:
    """The recipe called `name` with its published values; raises UsageError with the list of names."""
    classes = recipe_classes()
    if name not in classes:
        raise UsageError(f"recipe {name!r} does not exist; expected one of: {', '.join(classes)}")
    return classes[name]()


def to_values(recipe: Recipe) -> dict[str, Any]:
    """The fields as JSON values: sizes and ranges in their written form."""
    return {
        f.name: str(value) if isinstance(value := getattr(recipe, f.name), Size | Range) else value
        for f in dataclasses.fields(recipe)
    }


def from_values(name: str, values: dict[str, Any]) -> Recipe:
    """The recipe `name` with `values` (JSON or written form) over its defaults.

    Raises UsageError for an unknown field or a value of the wrong type.
    """
    recipe = load(name)
    changes = {field: _typed(recipe, field, value) for field, value in values.items()}
    return dataclasses.replace(recipe, **changes)


def stored(values: dict[str, Any]) -> dict[str, Any]:
    """The values that a run of any age keeps: a field that its version did not know yet is off, as it was then."""
    return to_values(Recipe()) | values


def _typed(recipe: Recipe, field: str, value: Any) -> Any:
    default = getattr(recipe, field, None)
    if field not in {f.name for f in dataclasses.fields(recipe)}:
        raise UsageError(f"recipe {recipe.name} has no field {field!r}; see: facegan recipes {recipe.name}")
    if isinstance(default, Size | Range):
        return type(default).parse(str(value))
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise UsageError(f"{field}={value!r}: expected {type(default).__name__}, such as {default!r}")
    return value
