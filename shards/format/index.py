"""The index of a set: what lies in it, written last, so that a folder with an index is a whole set."""

import dataclasses
import hashlib
import json
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.files import write_text
from shards.errors import ShardError
from shards.format.png import Geometry

FORMAT, VERSION, NAME = "facegan-shards", 1, "index.json"
MAX_INDEX_BYTES = 256 << 20
MAX_INT = (1 << 63) - 1
PLAIN_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,255}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """Strides of a stored-PNG shard, in bytes; `json` is the length of the attribute member or 0."""

    stride: int
    pixels: int
    row: int
    json: int = 0


@dataclass(frozen=True)
class Transform:
    """How the pictures became the set's images: crop ("150", "none", ...), then resize with `filter`."""

    crop: str
    filter: str


@dataclass(frozen=True)
class Source:
    """Where the pictures came from: `samples` were listed, `fingerprint` covers their names and bytes."""

    name: str
    kind: str
    samples: int
    fingerprint: str


@dataclass(frozen=True)
class Split:
    """Counts of one split."""

    samples: int
    shards: int


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Table:
    """The side table: one JSON line a sample, in the order of the shards."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Rejects:
    """The pictures that could not be used: one JSON line each in the file `name`."""

    name: str
    count: int
    by_reason: dict[str, int]
    sha256: str


@dataclass(frozen=True)
class ShardIndex:
    """What a set holds. Every value has been checked; names are plain file names inside the set's folder."""

    members: str  # "stored-png" (ours) or "encoded" (anybody's WebDataset)
    height: int
    width: int
    channels: int
    splits: dict[str, Split]
    shards: tuple[Shard, ...]
    source: Source
    shard_size: int
    record: Record | None = None
    transform: Transform | None = None
    attributes: tuple[str, ...] = ()
    table: Table | None = None
    rejects: Rejects | None = None
    software: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_geometry(self)
        _check_names(self)
        _check_counts(self)

    @property
    def geometry(self) -> Geometry:
        """Where the pixels lie in a shard's records."""
        return Geometry(self.height, self.width, self.channels, self.record.json if self.record else 0)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over geometry and shards: the identity of the data, whatever software wrote it."""
        record = dataclasses.asdict(self.record) if self.record else None
        shards = [[shard.name, shard.sha256] for shard in self.shards]
        shape = [self.height, self.width, self.channels]
        return canonical_sha256({"members": self.members, "shape": shape, "record": record, "shards": shards})

    def to_json(self) -> dict[str, Any]:
        """The content of `index.json`, with the SHA-256 of its own canonical form."""
        content = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}
        return {**content, "sha256": canonical_sha256(content)}

    def write(self, folder: Path) -> None:
        """Write `folder/index.json`, whole or not at all."""
        write_text(folder / NAME, json.dumps(self.to_json(), indent=1) + "\n")


def canonical_sha256(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `content`: sorted keys, no spaces, ASCII; its "sha256" left out."""
    kept = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def load_index(folder: Path) -> ShardIndex:
    """Read and check `folder/index.json`.

    Raises ShardError where there is none, where it is damaged (its own SHA-256), of another format or version,
    or where any value is not what it must be: nothing in it is trusted.
    """
    path = folder / NAME
    content = _read(path)
    found = content.get("format"), content.get("version")
    if found != (FORMAT, VERSION):
        raise ShardError(f"{path}: format and version are {found}, expected {(FORMAT, VERSION)}")
    try:
        stated, computed = content.get("sha256"), canonical_sha256(content)
        if stated != computed:
            raise ShardError(f"the index is damaged: its SHA-256 is {computed}, it states {stated}")
        body = {key: value for key, value in content.items() if key not in ("format", "version", "sha256")}
        return typing.cast(ShardIndex, _parse(ShardIndex, body, "index"))
    except (ShardError, RecursionError, UnicodeError) as error:
        raise ShardError(f"{path}: {error or 'nested too deeply'}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_INDEX_BYTES + 1)
    except FileNotFoundError:
        raise ShardError(
            f"{path}: there is no such file. A set of shards has one when it is whole: `facegan preprocess` "
            "writes it last, `facegan shards index` closes a set made in slices or describes foreign tars"
        ) from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_INDEX_BYTES:
        raise ShardError(f"{path}: larger than {MAX_INDEX_BYTES:,} bytes, which no index of ours is")
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ShardError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _parse(kind: Any, value: Any, where: str) -> Any:
    """Build a value of type `kind` (dataclass, tuple, dict, optional, int, str) from JSON, checking all types."""
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(typing.cast("type[Any]", kind), value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _parse(arguments[0], value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list", value)
        return tuple(_parse(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        return {key: _parse(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is int:
        _expect(type(value) is int and 0 <= value <= MAX_INT, where, "an integer from 0", value)
    else:
        _expect(isinstance(value, str), where, "a string", value)
    return value


def _parse_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    hints = typing.get_type_hints(kind)
    required = {field.name for field in dataclasses.fields(kind) if _is_required(field)}
    _expect(required <= set(value) <= set(hints), where, f"the fields {sorted(hints)}", sorted(value))
    return kind(**{name: _parse(hints[name], item, f"{where}.{name}") for name, item in value.items()})


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _expect(holds: bool, where: str, expected: str, found: Any) -> None:
    if not holds:
        raise ShardError(f"{where}: expected {expected}, found {_short(found)}")


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."


def _check_geometry(index: ShardIndex) -> None:
    _expect(index.members in ("stored-png", "encoded"), "members", "stored-png or encoded", index.members)
    if index.members == "encoded":
        _expect(index.record is None, "record", "null for encoded members", index.record)
        return
    if index.record is None:
        raise ShardError("record: expected the strides of a stored-PNG set, found null")
    _expect(index.record.json <= 1 << 20, "record.json", "at most 1 MiB", index.record.json)
    geometry = index.geometry
    expected = Record(geometry.stride, geometry.pixels, geometry.row, geometry.json)
    _expect(index.record == expected, "record", str(expected), index.record)
    for shard in index.shards:
        size = geometry.shard_bytes(shard.samples)
        _expect(shard.bytes == size, shard.name, f"{size} bytes for {shard.samples} samples", shard.bytes)


def _check_names(index: ShardIndex) -> None:
    tables = [table for table in (index.table, index.rejects) if table]
    files = [*index.shards, *tables]
    for name in [file.name for file in files] + list(index.splits):
        _expect(PLAIN_NAME.fullmatch(name) is not None, "name", "a plain file name", name)
    for file in files:
        _expect(SHA256.fullmatch(file.sha256) is not None, f"{file.name}: sha256", "64 digits", file.sha256)
    names = [file.name for file in files] + [NAME]
    _expect(len(names) == len(set(names)), "names", "each file once", "one of them twice")


def _check_counts(index: ShardIndex) -> None:
    _expect(index.shard_size >= 1, "shard_size", "at least 1", index.shard_size)
    counted = {name: [0, 0] for name in index.splits}
    for shard in index.shards:
        _expect(shard.split in counted, f"{shard.name}: split", f"one of {sorted(counted)}", shard.split)
        counted[shard.split][0] += shard.samples
        counted[shard.split][1] += 1
    for name, split in index.splits.items():
        found = [split.samples, split.shards]
        _expect(found == counted[name], f"splits.{name}", f"{counted[name]} samples and shards", found)
