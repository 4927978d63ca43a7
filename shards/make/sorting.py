"""Names and what goes with each, sorted in bounded memory: runs on a disk, merged into files that are mapped."""

import heapq
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
from numpy.typing import NDArray

from facegan.files import whole_file
from shards.errors import ShardError
from shards.make.kept import nameless, opened_at

RUN_ROWS, RUN_BYTES = 1 << 19, 64 << 20  # sorted in memory: whichever is less
CHUNK = 1024  # rows of a run in memory while it is merged
HEAD = struct.Struct("<III")  # rows of a chunk, bytes of their names, CRC-32 of all of it
Rows = NDArray[np.void]


def name_bytes(name: str) -> bytes:
    """A source name as bytes, also where the file system's names are not UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class Names(Sequence[str]):
    """Names that lie one behind the other in a file; `ends` (n,) says where each ends."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(at)
        return _text(self.text[int(self.ends[at - 1]) if at else 0 : int(self.ends[at])].tobytes())

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), CHUNK):
            ends = self.ends[first : first + CHUNK].tolist()
            text = self.text[start : ends[-1]].tobytes()
            for before, end in pairwise([start, *ends]):
                yield _text(text[before - start : end - start])
            start = ends[-1]


class Sorter:
    """Sorts rows by the bytes of their names; those of equal names keep the order in which they come.

    kind: of what goes with each name. folder: where runs go when there are more rows than memory should hold, as
    files without a name: killed, they are gone. kept: the file for them, and the beginning of the names of those
    that they are merged into, where they should stay; runs: those that are in it.
    """

    def __init__(
        self,
        kind: "np.dtype[np.void]",
        folder: Path | None = None,
        kept: Path | None = None,
        runs: list[tuple[int, int]] | None = None,
    ) -> None:
        self.kind, self.folder, self.kept = kind, folder, kept
        self._names: list[bytes] = []
        self._packed = bytearray()
        self._bytes = 0
        self.runs = list(runs or [])  # where each begins and ends in the file
        self._known = len(self.runs)
        self._file = opened_at(kept, self.runs[-1][1]) if kept and self.runs else None

    def add(self, name: str, packed: bytes) -> None:
        """One more row; `packed` are the bytes of what goes with its name."""
        self._names.append(name_bytes(name))
        self._packed += packed
        self._bytes += len(self._names[-1])
        if len(self._names) >= RUN_ROWS or self._bytes >= RUN_BYTES:
            self._spill()

    @property
    def has_new(self) -> bool:
        """Whether there are runs that `keep` has not told of."""
        return len(self.runs) > self._known

    def keep(self) -> list[tuple[int, int]]:
        """See that all rows are on the disk; where each run begins and ends."""
        if self._names:
            self._spill()
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._known = len(self.runs)
        return list(self.runs)

    def sorted(self) -> tuple[Sequence[str], Rows]:
        """All names in order, and what goes with each: (n,) of `kind`."""
        if self._file is None:
            names, rows = self._run()
            return [_text(name) for name in names], rows
        if self._names:
            self._spill()
        parts = [self.kept.with_suffix(f".{part}") for part in ("text", "ends", "rows")] if self.kept else []
        if parts and all(part.exists() for part in parts):
            return _read_parts(parts, self.kind)
        runs = [_read(self._file, self.kind, number, *extent) for number, extent in enumerate(self.runs)]
        return _written(heapq.merge(*runs), self.kind, self.folder, parts)

    def close(self) -> None:
        """Drop the runs."""
        if self._file is not None:
            self._file.close()

    def _run(self) -> tuple[list[bytes], Rows]:
        names, rows = self._names, np.frombuffer(bytes(self._packed), self.kind)
        if any(first > second for first, second in pairwise(names)):
            order = sorted(range(len(names)), key=names.__getitem__)
            names, rows = [names[i] for i in order], rows[order]
        return names, rows

    def _spill(self) -> None:
        self._file = self._file or (opened_at(self.kept, 0) if self.kept else nameless(self.folder))
        names, rows = self._run()
        begun = self._file.tell()
        for start in range(0, len(names), CHUNK):
            some = names[start : start + CHUNK]
            lengths = np.array([len(name) for name in some], "<u4")
            data = lengths.tobytes() + rows[start : start + CHUNK].tobytes() + b"".join(some)
            self._file.write(HEAD.pack(len(some), int(lengths.sum()), zlib.crc32(data)) + data)
        self.runs.append((begun, self._file.tell()))
        self._names, self._packed, self._bytes = [], bytearray(), 0


def _read(
    file: IO[bytes], kind: "np.dtype[np.void]", run: int, start: int, stop: int
) -> Iterator[tuple[bytes, int, bytes]]:
    """Name, run and row of each of a run's rows: what comes first was added first."""
    file.flush()
    while start < stop:
        rows, size, crc = HEAD.unpack(os.pread(file.fileno(), HEAD.size, start))
        length = rows * (4 + kind.itemsize) + size
        data = os.pread(file.fileno(), length, start + HEAD.size)
        if len(data) != length or zlib.crc32(data) != crc:
            raise ShardError(f"{file.name}: damaged at byte {start:,}: run again, which lists the source anew")
        start += HEAD.size + length
        row, name = 4 * rows, rows * (4 + kind.itemsize)
        for width in np.frombuffer(data, "<u4", rows).tolist():
            yield data[name : name + width], run, data[row : row + kind.itemsize]
            name, row = name + width, row + kind.itemsize


def _kinds(kind: "np.dtype[np.void]") -> tuple[Any, Any, Any]:
    """Of the bytes of all names, where each of them ends, and what goes with it."""
    return np.uint8, np.int64, kind


def _written(
    merged: Iterator[tuple[bytes, int, bytes]], kind: "np.dtype[np.void]", folder: Path | None, parts: list[Path]
) -> tuple[Names, Rows]:
    """The rows in files that are mapped: the `parts`, if there are any, where they stay."""
    kinds, size = _kinds(kind), 0
    with ExitStack() as stack:
        named = [stack.enter_context(whole_file(part)) for part in parts]
        opened: list[IO[bytes]] = [part.open("w+b") for part in named]
        opened = opened or [nameless(folder) for _ in kinds]
        files = [stack.enter_context(file) for file in opened]
        while some := list(islice(merged, 64 * CHUNK)):
            ends = size + np.cumsum([len(name) for name, _, _ in some])
            size = int(ends[-1])
            columns = b"".join(name for name, _, _ in some), ends.tobytes(), b"".join(row for _, _, row in some)
            for file, column in zip(files, columns, strict=True):
                file.write(column)
        text, ends, rows = (mapped(file, each) for file, each in zip(files, kinds, strict=True))
    return Names(text, ends), rows


def filled(shape: tuple[int, ...], kind: Any, value: int, folder: Path | None) -> NDArray[Any]:
    """An array of one value; in a file without a name, of a folder, where it is large."""
    if math.prod(shape) * np.dtype(kind).itemsize <= RUN_BYTES:
        return np.full(shape, value, kind)
    with nameless(folder) as file:
        # A disk without room says so here; to write to a mapping that it has no room for kills the process
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.dtype(kind).itemsize)
        made = np.memmap(file, kind, "r+", shape=shape)
    made[...] = value
    return made


def _read_parts(parts: list[Path], kind: "np.dtype[np.void]") -> tuple[Names, Rows]:
    """What `_written` left."""
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        text, ends, rows = (mapped(file, each) for file, each in zip(files, _kinds(kind), strict=True))
    return Names(text, ends), rows


def mapped(file: IO[bytes], kind: Any) -> NDArray[Any]:
    """What is in a file, as an array of one kind."""
    file.flush()
    return np.memmap(file, kind, "r") if os.fstat(file.fileno()).st_size else np.empty(0, kind)


class Distinct:
    """Whether numbers (uint64, evenly spread) are all different, a share of them in memory at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = nameless(folder)
        self._sizes: list[int] = []

    def add(self, numbers: NDArray[np.uint64]) -> None:
        """Some more of them."""
        self._sizes.append(len(numbers))
        self._file.write(np.sort(numbers).tobytes())

    def all(self) -> bool:
        """Whether no number came twice."""
        runs = np.split(mapped(self._file, np.uint64), np.cumsum(self._sizes)[:-1])
        edges = np.linspace(0, 2.0**64, len(runs) + 1)[1:-1].astype(np.uint64)  # between parts as large as a run
        places = [[0, *np.searchsorted(run, edges).tolist(), len(run)] for run in runs]
        parts = zip(*map(pairwise, places), strict=True)
        return all(
            _differ(np.concatenate([run[slice(*at)] for run, at in zip(runs, part, strict=True)])) for part in parts
        )

    def close(self) -> None:
        """Drop what is on the disk."""
        self._file.close()


def _differ(numbers: NDArray[np.uint64]) -> bool:
    numbers.sort()
    return bool((numbers[1:] != numbers[:-1]).all())
