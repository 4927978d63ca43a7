"""The shards of a set as columns: 10^6 of them are 60 MB in a file that is mapped, not read."""

import builtins
import io
import math
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from facegan.files import sha256_file, whole_file
from shards.errors import ShardError
from shards.format.mapping import Bytes, map_file

NAME = "index.npy"
BAD_HEADER = (ValueError, SyntaxError, TypeError, KeyError, tokenize.TokenError, MemoryError, OverflowError)
HEADER = 1 << 14  # bytes that the head of the file fits in
BLOCK = 1 << 16  # names looked at together
FORBIDDEN = np.isin(np.arange(256), [*range(1, 0x20), 0x7F, ord("/"), ord("\\")])  # bytes of a file's name
SHA256 = re.compile(r"[0-9a-f]{64}")
Ints = NDArray[np.int64]


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
    """A file beside the shards: the side table, a member table, the columns of the shards."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SideTable(Table):
    """A table of some shards that follow each other: a line of JSON, or a row, for each of so many samples."""

    samples: int

    @property
    def as_whole(self) -> Table:
        """The same file as the table of a set that has no other part."""
        return Table(self.name, self.bytes, self.sha256)


def row_type(name_bytes: int) -> np.dtype[np.void]:
    """A shard's row: its name (UTF-8), the number of its split among the set's, samples, bytes, SHA-256."""
    return np.dtype(
        [("name", f"S{name_bytes}"), ("split", "<u4"), ("samples", "<i8"), ("bytes", "<i8"), ("sha256", "u1", 32)]
    )


class Shards(Sequence[Shard]):
    """Shards in the set's order: a sequence of `Shard`, kept as one array of rows.

    rows: (n,) of `row_type`; splits: the names that its column `split` numbers.
    """

    def __init__(self, rows: NDArray[np.void], splits: tuple[str, ...]) -> None:
        self.rows, self.splits = rows, splits

    @classmethod
    def of(cls, shards: "Iterable[Shard]") -> "Shards":
        """The columns of these shards."""
        if isinstance(shards, Shards):
            return shards
        shards = list(shards)
        splits = tuple(dict.fromkeys(shard.split for shard in shards))
        names = [_encoded(shard.name) for shard in shards]
        rows = np.zeros(len(shards), row_type(max([1, *map(len, names)])))
        rows["name"], rows["split"] = names, [splits.index(shard.split) for shard in shards]
        rows["samples"], rows["bytes"] = [shard.samples for shard in shards], [shard.bytes for shard in shards]
        for shard in shards:
            if SHA256.fullmatch(shard.sha256) is None:
                raise ShardError(f"{shard.name}: sha256: expected 64 digits, found {shard.sha256!r}")
        digests = builtins.bytes.fromhex("".join(shard.sha256 for shard in shards))
        rows["sha256"] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        return cls(rows, splits)

    @classmethod
    def joined(cls, several: "Sequence[Shards]") -> "Shards":
        """The shards of all of them, one after the other."""
        splits = tuple(dict.fromkeys(split for shards in several for split in shards.splits))
        kind = row_type(max([1, *(shards.rows.dtype["name"].itemsize for shards in several)]))
        joined = [np.zeros(0, kind)]
        for shards in several:
            rows = shards.rows.astype(kind)
            if len(rows):
                rows["split"] = np.array([splits.index(split) for split in shards.splits])[rows["split"]]
            joined.append(rows)
        return cls(np.concatenate(joined), splits)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> "Shards": ...
    def __getitem__(self, at: int | slice) -> "Shard | Shards":
        if isinstance(at, slice):
            return Shards(self.rows[at], self.splits)
        name, split, samples, size, sha256 = self.rows[at].tolist()
        return Shard(_decoded(name), self.splits[split], samples, size, builtins.bytes(sha256).hex())

    def __iter__(self) -> Iterator[Shard]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shards) and len(self) == len(other) and all(map(Shard.__eq__, self, other))

    def __hash__(self) -> int:
        return id(self)

    @property
    def samples(self) -> Ints:
        """Samples of each shard: (n,)."""
        return self.rows["samples"]

    @property
    def bytes(self) -> Ints:
        """Bytes of each shard: (n,)."""
        return self.rows["bytes"]

    @property
    def names(self) -> list[str]:
        """The name of each shard."""
        return [_decoded(name) for name in self.rows["name"].tolist()]

    def find(self, name: str) -> int | None:
        """Which shard has that name, None where none has; the first call sorts hashes, 16 bytes a shard."""
        raw, width = _encoded(name), self.rows.dtype["name"].itemsize
        if not 0 < len(raw) <= width:
            return None
        hashes, order = self._by_hash
        wanted = _hashes(np.array([raw], f"S{width}").view(np.uint8).reshape(1, width))[0]
        alike = order[slice(*(int(np.searchsorted(hashes, wanted, side=side)) for side in ("left", "right")))]
        return next((at for at in alike.tolist() if self.rows["name"][at] == raw), None)

    @cached_property
    def _by_hash(self) -> tuple[NDArray[np.uint64], Ints]:
        """The hashes of the names, ascending, and whose each is."""
        order = np.argsort(hashes := self._hashes())
        return hashes[order], order

    def _raw_names(self) -> Iterator[tuple[int, Bytes]]:
        """The names as bytes (n, width), a block at a time, and where it begins; of a million no copy is made."""
        for start in range(0, len(self), BLOCK):
            names = np.ascontiguousarray(self.rows["name"][start : start + BLOCK])
            yield start, names.view(np.uint8).reshape(len(names), -1)

    def _hashes(self) -> NDArray[np.uint64]:
        """A hash of each name."""
        return np.concatenate([np.empty(0, np.uint64), *(_hashes(raw) for _, raw in self._raw_names())])

    def check_names(self, others: Sequence[str]) -> None:
        """ShardError where a name is no plain file name (a path, a hidden file), or a file is named twice.

        others: the set's other files. They are compared by hashes first.
        """
        for start, raw in self._raw_names():
            wrong = np.flatnonzero(_are_bad(raw))
            if len(wrong):
                raise ShardError(f"name: expected a plain file name, found {self[start + int(wrong[0])].name!r}")
        hashes = np.sort(self._hashes())
        if self._has_any(others, hashes) or (
            (hashes[1:] == hashes[:-1]).any() and len(set(self.rows["name"].tolist())) < len(self)
        ):
            raise ShardError("names: expected each file once, found one of them twice")

    def _has_any(self, others: Sequence[str], hashes: NDArray[np.uint64]) -> bool:
        """Whether one of these names is a shard's; `hashes` are those of the shards' names, sorted."""
        width = self.rows.dtype["name"].itemsize
        names = [name for each in others if len(name := _encoded(each)) <= width]
        if not names or not len(self):
            return False
        wanted = _hashes(np.array(names, f"S{width}").view(np.uint8).reshape(-1, width))
        near = hashes[np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)] == wanted
        return any((self.rows["name"] == names[place]).any() for place in np.flatnonzero(near))

    def numbers(self, split: str) -> Ints:
        """Which of the shards belong to a split: (m,), ascending."""
        wanted = self.splits.index(split) if split in self.splits else len(self.splits)
        return np.flatnonzero(self.rows["split"] == wanted)

    def of_split(self, split: str) -> "Shards":
        """The shards of one split; no copy where they follow each other, as they do in our sets."""
        numbers = self.numbers(split)
        if len(numbers) and numbers[-1] - numbers[0] + 1 == len(numbers):
            return self[int(numbers[0]) : int(numbers[-1]) + 1]
        return Shards(self.rows[numbers], self.splits)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Samples and shards of each split that has any."""
        by_split = {split: self.rows["samples"][self.numbers(split)] for split in self.splits}
        return {split: (int(samples.sum()), len(samples)) for split, samples in by_split.items() if len(samples)}

    def write(self, folder: Path) -> Table:
        """Write the columns into `folder`, whole or not at all."""
        with whole_file(folder / NAME) as part, part.open("wb") as stream:
            np.save(stream, self.rows, allow_pickle=False)
        return Table(NAME, (folder / NAME).stat().st_size, sha256_file(folder / NAME))


def read_columns(folder: Path, table: Table, splits: Mapping[str, Any]) -> Shards:
    """The shards as `Shards.write` left them; ShardError where a byte is not what `table` says."""
    path = folder / table.name
    if not path.exists() or path.stat().st_size != table.bytes or sha256_file(path) != table.sha256:
        raise ShardError(f"{path}: the columns of the index are missing or damaged: close the set again")
    try:
        rows = _rows(map_file(path))
    except (*BAD_HEADER, EOFError) as error:
        raise ShardError(f"{path}: no columns of an index ({error})") from None
    if len(rows) and (rows["split"].max() >= len(splits) or min(rows["samples"].min(), rows["bytes"].min()) < 0):
        raise ShardError(f"{path}: expected counts from 0 and splits below {len(splits)}")
    return Shards(rows, tuple(splits))


def _rows(data: Bytes) -> NDArray[np.void]:
    """The rows of a mapped .npy file, which `np.load` would keep a descriptor for; ValueError for anything else."""
    rows, _, end = array_at(data, 0)
    width = rows.dtype.fields["name"][0].itemsize if rows.dtype.fields and "name" in rows.dtype.fields else 1
    if rows.ndim != 1 or rows.dtype != row_type(width):
        raise ValueError(f"expected rows of {row_type(width)}, found {rows.ndim} axes of {rows.dtype}")
    if end != len(data):
        raise ValueError(f"{len(data):,} bytes, its head says {end:,}")
    return rows


def array_at(data: Bytes, offset: int) -> tuple[NDArray[Any], int, int]:
    """The array that `np.save` wrote at an offset, where its bytes start and end; ValueError for anything else."""
    header = io.BytesIO(data[offset : offset + HEADER].tobytes())
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError("not version 1.0 of NumPy's format")
    shape, _, kind = np.lib.format.read_array_header_1_0(header)
    start = offset + header.tell()
    end = start + math.prod(shape) * kind.itemsize
    if kind.hasobject or not kind.itemsize or min(shape, default=1) < 0 or end > len(data):
        raise ValueError(f"{shape} of {kind} do not fit")
    return data[start:end].view(kind).reshape(shape), start, end


def _are_bad(raw: Bytes) -> NDArray[np.bool_]:
    """Which names (n, bytes) are empty, begin with a dot, or have control characters or slashes in them: (n,)."""
    used = raw > 0
    bad = FORBIDDEN[raw]
    bad[:, 1:] |= used[:, 1:] & ~used[:, :-1]
    bad[:, 0] |= ~used[:, 0] | (raw[:, 0] == ord("."))
    return np.asarray(bad.any(axis=1))


def _hashes(raw: Bytes) -> NDArray[np.uint64]:
    """A number for each name (n, bytes): equal names have equal ones."""
    padded = np.zeros((len(raw), -(-raw.shape[1] // 8) * 8), np.uint8)
    padded[:, : raw.shape[1]] = raw
    total = np.zeros(len(raw), np.uint64)
    for word in padded.view(np.uint64).T:
        total = (total ^ word) * np.uint64(0x9E3779B97F4A7C15)
        total ^= total >> np.uint64(29)
    return total


def cut(count: int, index: int, slices: int) -> slice:
    """The part of `count` things that slice `index` of `slices` takes."""
    return slice(index * count // slices, (index + 1) * count // slices)


def _encoded(name: str) -> builtins.bytes:
    return name.encode("utf-8", "surrogateescape")


def _decoded(name: builtins.bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
