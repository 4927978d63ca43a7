"""Finds what is wrong with a set, any flipped bit, truncated tar, missing or foreign file; says which sample."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from facegan.cores import usual_threads
from facegan.files import sha256_file
from shards.errors import ShardError
from shards.format.columns import Shard, SideTable, Table, cut
from shards.format.index import NAME, ShardIndex, load_index
from shards.format.mapping import Bytes, map_file
from shards.format.png import BLOCK, NAME_BYTES, Geometry, encode_records, member_bytes
from shards.format.tar import members
from shards.read.files import Folder
from shards.read.members import MemberRows

PIECE = 16 << 20  # bytes hashed between two reports of progress
AT_ONCE = 256  # records re-encoded together when damage is looked for
Progress = Callable[[int], None]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Damage:
    """One finding: the file, the sample in it where it is known, and what is wrong."""

    file: str
    what: str
    sample: str | None = None

    def __str__(self) -> str:
        return f"{self.file}: {f'sample {self.sample}: ' if self.sample else ''}{self.what}"


def verify_set(folder: Path, progress: Progress | None = None, part: tuple[int, int] = (0, 1)) -> list[Damage]:
    """Everything that is wrong with the set in `folder`; an empty list where it is whole.

    Reads every byte once. Where a shard's SHA-256 is not the index's, the shard is taken apart: a stored record is
    encoded again from its own pixels and compared (its checksums then differ wherever a bit did), attributes are
    compared with the side table, encoded members with the CRC-32 of the member table.
    progress: called with the number of bytes checked since the last call.
    part: (i, n) checks the i-th of n equal parts of the shards, and of the tables beside them, from 0; the first
    also looks for foreign shards.
    """
    try:
        index = load_index(folder)
    except ShardError as error:
        return [Damage(NAME, str(error))]
    findings = [*(_strangers(folder, index) if part[0] == 0 else ()), *_side_files(folder, index, part)]
    numbers = range(len(index.shards))[cut(len(index.shards), *part)]
    with ThreadPoolExecutor(usual_threads(), thread_name_prefix="verify") as pool:
        checks = pool.map(lambda number: _check(folder, index, number, progress), numbers)
        return findings + [damage for check in checks for damage in check]


def _strangers(folder: Path, index: ShardIndex) -> Iterator[Damage]:
    names = set(index.shards.names)
    for path in sorted(folder.glob("*.tar")):
        if path.name not in names and not path.name.startswith("."):
            yield Damage(path.name, "a foreign shard: the index does not know it, nothing will be read from it")


def _side_files(folder: Path, index: ShardIndex, part: tuple[int, int]) -> Iterator[Damage]:
    files = index.side_files
    for file in files[cut(len(files), *part)]:
        path = folder / file.name
        if not path.exists():
            yield Damage(file.name, "missing")
        elif sha256_file(path) != file.sha256:
            yield Damage(file.name, "its SHA-256 is not the one in the index: one of the two was changed")


def _check(folder: Path, index: ShardIndex, number: int, progress: Progress | None) -> list[Damage]:
    shard = index.shards[number]
    path = folder / shard.name
    if not path.exists():
        return [Damage(shard.name, f"missing, with {shard.samples:,} samples of split {shard.split}")]
    if _hash(path, progress or (lambda count: None)) == shard.sha256:
        return []
    find = _in_stored if index.members == "stored-png" else _in_encoded
    damage = list(find(path, index, number))
    another = "another shard: each sample is sound, but they are not those of the index"
    if index.members != "stored-png":
        another = "damaged beside its samples (padding, other members), or another shard"
    return damage or [Damage(shard.name, another)]


def _hash(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def _in_stored(path: Path, index: ShardIndex, number: int) -> Iterator[Damage]:
    """The damaged records of a shard of ours."""
    shard, geometry = index.shards[number], index.geometry
    size = path.stat().st_size
    if size != shard.bytes:
        yield _wrong_size(path, shard, geometry)
    count = min(shard.samples, size // geometry.stride)
    rows = _table_rows(path.parent, index, number)
    data = map_file(path)
    for start in range(0, count, AT_ONCE):
        stop = min(start + AT_ONCE, count)
        records = data[start * geometry.stride : stop * geometry.stride].reshape(stop - start, geometry.stride)
        for place, record in enumerate(records, start):
            damage = _record_damage(record, geometry, rows[place] if rows else None)
            if damage:
                yield Damage(shard.name, damage, f"{key_of(record)} (record {place} of {shard.samples})")
    if size >= shard.bytes and data[shard.samples * geometry.stride : shard.bytes].any():
        yield Damage(shard.name, "damaged behind the last sample, in the closing blocks of the tar")


def _wrong_size(path: Path, shard: Shard, geometry: Geometry) -> Damage:
    """What a shard of another size lacks or has too much."""
    size = path.stat().st_size
    if size > shard.bytes:
        return Damage(shard.name, f"{size - shard.bytes:,} bytes longer than the index says")
    place, rest = divmod(size, geometry.stride)
    lack = f"cut short: {size:,} of {shard.bytes:,} bytes"
    if place >= shard.samples:
        return Damage(shard.name, f"{lack}; all samples are there, the closing blocks of the tar are not")
    lost = f"record {place} and all after it are lost ({shard.samples - place} of {shard.samples})"
    with path.open("rb") as stream:
        head = os.pread(stream.fileno(), min(rest, NAME_BYTES), place * geometry.stride)
    return Damage(shard.name, f"{lack}; {lost}", key_of(np.frombuffer(head, np.uint8)) if rest else None)


def _record_damage(record: Bytes, geometry: Geometry, row: dict[str, Any] | None) -> str | None:
    """What is wrong with a record; None where nothing is."""
    key, text = key_of(record), None
    if geometry.json:
        start = member_bytes(geometry.png) + BLOCK
        text = record[start : start + geometry.json].tobytes()
    try:
        fresh = encode_records(geometry, geometry.view(record).copy(), [key], None if text is None else [text])[0]
    except (ShardError, UnicodeEncodeError):
        return "its name in the tar header is damaged"
    differing = np.flatnonzero(fresh != record)
    if len(differing):
        return f"damaged: the record does not fit its own checksums ({_part_of(int(differing[0]), geometry)})"
    if row is not None and row.get("key") != key:
        return f"the side table has {row.get('key')} here"
    return None if text is None or row is None else _text_damage(text, row)


def _part_of(offset: int, geometry: Geometry) -> str:
    """In words, where in a record the first difference lies; the checksums come behind what they cover."""
    if offset < BLOCK:
        return "tar header"
    if offset < BLOCK + geometry.png:
        return "PNG"
    return "padding" if offset < member_bytes(geometry.png) else "attributes"


def _text_damage(text: bytes, row: dict[str, Any]) -> str | None:
    try:
        stated = json.loads(text)
    except ValueError:
        return "its attributes are no JSON"
    differs = [key for key, value in stated.items() if key not in row or row[key] != value]
    return f"its attributes differ from the side table's in {', '.join(differs)}" if differs else None


def key_of(record: Bytes) -> str:
    """The sample's key, from the name in a tar header."""
    name = record[:NAME_BYTES].tobytes().split(b"\0")[0]
    return name.split(b".")[0].decode("ascii", "backslashreplace")


def _table_rows(folder: Path, index: ShardIndex, number: int) -> Rows | None:
    """The side table's rows of one shard; None where there is no table, or it is damaged itself."""
    first, count = int(index.shards.samples[:number].sum()), index.shards[number].samples
    for table in index.side_tables:
        samples = table.samples if isinstance(table, SideTable) else first + count
        if first < samples:
            return _lines_of(folder / table.name, table, index.attributes, first, count)
        first -= samples
    return None


def _lines_of(path: Path, table: Table, names: tuple[str, ...], first: int, count: int) -> Rows | None:
    if not path.exists() or sha256_file(path) != table.sha256:
        return None
    with path.open("rb") as lines:
        rows = [json.loads(line) for line in islice(lines, first, first + count)]
    for row in rows:
        if isinstance(row.get("attributes"), list):  # a sample's own member has them by name
            row["attributes"] = dict(zip(names, row["attributes"], strict=False))
    return rows if len(rows) == count else None


def _in_encoded(path: Path, index: ShardIndex, number: int) -> Iterator[Damage]:
    """The damaged members of a tar of encoded pictures, by the CRC-32 that each had, and of our own attributes."""
    shard, data = index.shards[number], map_file(path)
    texts: dict[str, bytes] = {}
    try:
        for member in members(path):
            if index.encoding and member.name.endswith(".json"):
                text = data[member.offset : member.offset + member.size]
                texts[member.name.removesuffix(".json")] = text.tobytes()
    except ShardError as error:
        yield Damage(shard.name, str(error).removeprefix(f"{path}: "))
    by_key = {row["key"]: row for row in _table_rows(path.parent, index, number) or []}
    first = int(index.shards.samples[:number].sum())
    try:
        rows = MemberRows(index, Folder(path.parent)).rows(first, shard.samples)
    except ShardError:  # the table is a finding of its own
        yield Damage(shard.name, "damaged; which of its samples are cannot be told without the member table")
        return
    for row in rows:
        key, picture = bytes(row["key"]).decode("utf-8", "replace"), data[row["offset"] :][: row["size"]]
        if len(picture) != row["size"] or zlib.crc32(picture.data) != row["crc"]:
            yield Damage(shard.name, "damaged: its bytes are not those that were indexed", key)
        elif key in by_key and key in texts and (damage := _text_damage(texts[key], by_key[key])):
            yield Damage(shard.name, damage, key)
