"""The index of a set: what lies in it, written last, so that a folder with an index is a whole set."""

import dataclasses
import hashlib
import json
import re
import typing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from facegan.files import write_text
from shards.errors import ShardError
from shards.format.checking import MAX_INT, expect, parse, read_index
from shards.format.columns import NAME as COLUMNS
from shards.format.columns import SHA256, Shard, Shards, SideTable, Table, read_columns
from shards.format.png import END, Geometry

FORMAT, VERSION, NAME = "facegan-shards", 2, "index.json"
ENCODED = ("jpeg", "webp")  # members of ours that are of unlike lengths
OLD = 1  # had an object a shard in index.json; such sets are still read
MAX_INDEX_BYTES = 256 << 20
PLAIN_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,255}")  # as `Shards.check_names` has it


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
class Encoding:
    """How the members of a set of ours were encoded, and the table of where each lies (`shards.format.members`)."""

    quality: int  # 1 to 100; 100 is lossless in WebP
    table: Table | None  # None where it comes in parts


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

    members: str  # "stored-png", "jpeg" or "webp" (ours), or "encoded" (anybody's WebDataset)
    height: int
    width: int
    channels: int
    splits: dict[str, Split]
    shards: Shards
    source: Source
    shard_size: int
    record: Record | None = None
    transform: Transform | None = None
    attributes: tuple[str, ...] = ()
    table: Table | None = None  # the side table of the samples; of anybody's WebDataset, where each member lies
    tables: tuple[SideTable, ...] = ()  # a large set's side table, in parts
    encoding: Encoding | None = None  # of JPEG and WebP
    member_tables: tuple[SideTable, ...] = ()  # where each member lies, of a large set, in parts
    labels: tuple[SideTable, ...] = ()  # what the side table says of attributes and identity, in columns
    rejects: Rejects | None = None
    software: dict[str, str] = dataclasses.field(default_factory=dict)
    version: int = VERSION  # of the form of the index, and with it of the order: see `window_shape`

    def __post_init__(self) -> None:
        object.__setattr__(self, "shards", Shards.of(self.shards))
        numbered = [name for name in self.shards.splits if name in self.splits]  # as the columns number them
        object.__setattr__(self, "splits", {name: self.splits[name] for name in [*numbered, *self.splits]})
        _check_geometry(self)
        _check_names(self)
        _check_counts(self)

    @property
    def geometry(self) -> Geometry:
        """Where the pixels lie in a shard's records."""
        return Geometry(self.height, self.width, self.channels, self.record.json if self.record else 0)

    @property
    def side_tables(self) -> tuple[Table, ...]:
        """What is known of each sample, in parts, in the order of the shards."""
        return self.tables or ((self.table,) if self.table and self.members != "encoded" else ())

    @property
    def member_parts(self) -> tuple[Table, ...]:
        """Where each sample's picture lies, in parts, in the order of the shards; none where a formula says it."""
        whole = self.encoding.table if self.encoding else self.table if self.members == "encoded" else None
        return self.member_tables or ((whole,) if whole else ())

    @property
    def side_files(self) -> "list[Table | Rejects]":
        """The files beside the shards, those of the index aside."""
        encoded = self.encoding and self.encoding.table
        files = (self.table, *self.tables, encoded, *self.member_tables, *self.labels, self.rejects)
        return [file for file in files if file]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over geometry and shards: the identity of the data, whatever software wrote it."""
        record = dataclasses.asdict(self.record) if self.record else None
        shape = [self.height, self.width, self.channels]
        head = canonical({"members": self.members, "record": record, "shape": shape})
        digest = hashlib.sha256(head[:-1].encode() + b',"shards":[')  # as one object, a shard at a time
        for number, shard in enumerate(self.shards):
            digest.update(b"," * (number > 0) + canonical([shard.name, shard.sha256]).encode())
        digest.update(b"]}")
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The content of `index.json`, with the SHA-256 of its own canonical form; without the shards' columns."""
        new = ("tables", "encoding", "member_tables", "labels")
        absent = [name for name in new if not getattr(self, name)]  # as before there were any
        left_out = ("shards", "version", *absent)
        fields = [field.name for field in dataclasses.fields(self) if field.name not in left_out]
        content = {name: _plain(getattr(self, name)) for name in fields}
        content = {"format": FORMAT, "version": self.version, **content}
        if self.version == OLD:
            content["shards"] = [dataclasses.asdict(shard) for shard in self.shards]
        else:
            content["fingerprint"] = self.fingerprint
        return content

    def write(self, folder: Path) -> None:
        """Write `folder/index.json`, whole or not at all, after the columns that it names."""
        content = self.to_json()
        if self.version != OLD:
            content["columns"] = dataclasses.asdict(self.shards.write(folder))
        content["sha256"] = canonical_sha256(content)
        write_text(folder / NAME, json.dumps(content, indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def canonical_sha256(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `content`: sorted keys, no spaces, ASCII; its "sha256" left out."""
    kept = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(canonical(kept).encode("ascii")).hexdigest()


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def load_index(folder: Path) -> ShardIndex:
    """Read and check `folder/index.json`.

    Raises ShardError where there is none, where it is damaged (its own SHA-256), of another format or version,
    or where any value is not what it must be: nothing in it is trusted.
    """
    path = folder / NAME
    content = read_summary(path)
    try:
        body = {key: value for key, value in content.items() if key not in ("format", "sha256")}
        fingerprint, columns = body.pop("fingerprint", None), columns_of(content)
        if columns is not None:
            body.pop("columns")
            expect(isinstance(body.get("splits"), dict), "splits", "an object", body.get("splits"))
            body["shards"] = read_columns(folder, columns, body["splits"])
        else:
            body["shards"] = Shards.of(parse(tuple[Shard, ...], body.get("shards"), "index.shards"))
        index = typing.cast(ShardIndex, parse(ShardIndex, body, "index"))
        if columns is not None:
            stated = SHA256.fullmatch(str(fingerprint)) is not None
            expect(stated, "fingerprint", "64 digits", fingerprint)
            index.__dict__["fingerprint"] = fingerprint  # known: it would take a second for 10^6 shards
    except (ShardError, RecursionError, UnicodeError) as error:
        raise ShardError(f"{path}: {error or 'nested too deeply'}") from None
    return index


def columns_of(summary: dict[str, Any]) -> Table | None:
    """Where the columns of the shards are that a summary names; None in a set of version 1."""
    if summary.get("version") == OLD:
        return None
    table = typing.cast(Table, parse(Table, summary.get("columns"), "columns"))
    _check_file(table)
    return table


def read_summary(path: Path) -> dict[str, Any]:
    """The content of an `index.json`: of our format, a version we know, and undamaged; otherwise ShardError."""
    content = read_index(path, MAX_INDEX_BYTES)
    stated = content.get("format"), content.get("version")
    if stated not in ((FORMAT, OLD), (FORMAT, VERSION)) or type(stated[1]) is not int:
        raise ShardError(f"{path}: format and version are {stated}, expected {(FORMAT, VERSION)}")
    try:
        computed = canonical_sha256(content)
    except (RecursionError, UnicodeError) as error:
        raise ShardError(f"{path}: {error or 'nested too deeply'}") from None
    if content.get("sha256") != computed:
        raise ShardError(
            f"{path}: the index is damaged: its SHA-256 is {computed}, it states {content.get('sha256')}"
        )
    return content


def _check_geometry(index: ShardIndex) -> None:
    known, ours = ("stored-png", *ENCODED, "encoded"), index.members in ENCODED
    expect(index.members in known, "members", " or ".join(known), index.members)
    expect((index.encoding is not None) == ours, "encoding", "one, with JPEG and WebP alone", index.encoding)
    if index.members != "stored-png":
        expect(index.record is None, "record", "null for encoded members", index.record)
        return
    if index.record is None:
        raise ShardError("record: expected the strides of a stored-PNG set, found null")
    expect(index.record.json <= 1 << 20, "record.json", "at most 1 MiB", index.record.json)
    geometry = index.geometry
    expected = Record(geometry.stride, geometry.pixels, geometry.row, geometry.json)
    expect(index.record == expected, "record", str(expected), index.record)
    wrong = np.flatnonzero(index.shards.bytes != index.shards.samples * geometry.stride + len(END))
    if len(wrong):
        shard = index.shards[int(wrong[0])]
        size = geometry.shard_bytes(shard.samples)
        expect(False, shard.name, f"{size} bytes for {shard.samples} samples", shard.bytes)


def _check_names(index: ShardIndex) -> None:
    for split in index.splits:
        expect(PLAIN_NAME.fullmatch(split) is not None, "name", "a plain file name", split)
    for file in index.side_files:
        _check_file(file)
    names = [NAME, COLUMNS, *(file.name for file in index.side_files)]
    expect(len(names) == len(set(names)), "names", "each file once", "one of them twice")
    index.shards.check_names(names)


def _check_file(file: Table | Rejects) -> None:
    expect(PLAIN_NAME.fullmatch(file.name) is not None, "name", "a plain file name", file.name)
    expect(SHA256.fullmatch(file.sha256) is not None, f"{file.name}: sha256", "64 digits", file.sha256)


def _check_counts(index: ShardIndex) -> None:
    expect(index.shard_size >= 1, "shard_size", "at least 1", index.shard_size)
    rows = index.shards.rows
    total = max(rows["samples"].sum(dtype=float), rows["bytes"].sum(dtype=float))
    expect(total < MAX_INT / 2, "shards", "fewer bytes and samples than 64 bits count", total)
    counted = index.shards.counts()
    unknown = sorted(set(counted) - set(index.splits))
    expect(not unknown, "split", f"one of {sorted(index.splits)}", unknown)
    encoded = index.encoding.table if index.encoding else index.table
    for parts, whole in ((index.tables, index.table), (index.member_tables, encoded), (index.labels, None)):
        expect(not (parts and whole), "table", "none beside its parts", whole)
        lines, samples = sum(table.samples for table in parts), int(rows["samples"].sum())
        expect(not parts or lines == samples, "tables", f"{samples} samples in all", lines)
    for name, split in index.splits.items():
        stated, expected = (split.samples, split.shards), counted.get(name, (0, 0))
        expect(stated == expected, f"splits.{name}", f"{expected} samples and shards", stated)
