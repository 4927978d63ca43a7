"""Values from a JSON file as what they must be: nothing in it is trusted."""

import dataclasses
import json
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

from shards.errors import ShardError

MAX_INT = (1 << 63) - 1


def parse(kind: Any, value: Any, where: str) -> Any:
    """Build a value of type `kind` (dataclass, tuple, dict, optional, int, str) from JSON, checking all types."""
    if isinstance(kind, type) and isinstance(value, kind) and kind not in (int, str):
        return value  # was read and checked elsewhere
    if dataclasses.is_dataclass(kind):
        return parse_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else parse(arguments[0], value, where)
    if origin is tuple:
        expect(isinstance(value, list), where, "a list", value)
        return tuple(parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        expect(isinstance(value, dict), where, "an object", value)
        return {key: parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is int:
        expect(type(value) is int and 0 <= value <= MAX_INT, where, "an integer from 0", value)
    else:
        expect(isinstance(value, str), where, "a string", value)
    return value


def parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    expect(isinstance(value, dict), where, "an object", value)
    hints, required = _fields(kind)
    expect(required <= set(value) <= set(hints), where, f"the fields {sorted(hints)}", sorted(value))
    return kind(**{name: parse(hints[name], item, f"{where}.{name}") for name, item in value.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """The types of the fields by name, and the names of those without a default."""
    required = {field.name for field in dataclasses.fields(kind) if _is_required(field)}
    return typing.get_type_hints(kind), required


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def expect(holds: bool, where: str, expected: str, value: Any) -> None:
    if not holds:
        raise ShardError(f"{where}: expected {expected}, found {_short(value)}")


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def read_index(path: Path, limit: int) -> dict[str, Any]:
    """The object in an index.json of at most `limit` bytes; ShardError where there is none."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
    except FileNotFoundError:
        raise ShardError(
            f"{path}: there is no such file. A set of shards has one when it is whole: `facegan preprocess` "
            "writes it last, `facegan shards index` closes a set made in slices or describes foreign tars"
        ) from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > limit:
        raise ShardError(f"{path}: larger than {limit:,} bytes, which no index of ours is")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ShardError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
