"""Folders of a source as they were when they were listed: where one has another time, pictures came or went.

They stand by name in blocks with a hash each, so that a slice reads its own pictures' folders and no others.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facegan.files import sha256_file, whole_file
from shards.errors import ShardError
from shards.make.sorting import name_bytes

TIME = np.dtype([("time", "<i8")])  # when the names in it last changed, in nanoseconds
BLOCK_ROWS = 1 << 18
Times = NDArray[np.void]
Block = tuple[str, str]  # its first folder, SHA-256


def have_changed(source: Path, folders: Iterable[tuple[bytes, int]]) -> bool:
    """Whether any of these folders is gone or has another time; names end in `/`, the name of the source is ""."""
    return any(_time_of(os.fsencode(source) + b"/" + name) != time for name, time in folders)


def _time_of(folder: bytes) -> int | None:
    try:
        return os.stat(folder).st_mtime_ns  # noqa: PTH116 - a name of any bytes
    except OSError:
        return None


def above(names: Iterable[bytes]) -> set[bytes]:
    """The folders that pictures lie in, and those that these lie in."""
    found: set[bytes] = set()
    for folder in {name[: name.rfind(b"/") + 1] for name in names}:
        while folder and folder not in found:
            found.add(folder)
            folder = folder[: folder[:-1].rfind(b"/") + 1]
    return found


def write_folders(target: Path, names: Sequence[str], times: Times) -> list[Block]:
    """Write folders that are sorted by the bytes of their names, below a folder of our own."""
    blocks, rest = [], iter(names)
    for number, start in enumerate(range(0, len(names), BLOCK_ROWS)):
        some = list(islice(rest, BLOCK_ROWS))
        width = max(1, *(len(name_bytes(name)) for name in some))
        rows = np.zeros(len(some), np.dtype([("name", f"S{width}"), *TIME.descr]))
        rows["name"] = [name_bytes(name) for name in some]
        rows["time"] = times["time"][start : start + len(some)]
        with whole_file(_path(target, number)) as part, part.open("wb") as stream:
            np.save(stream, rows, allow_pickle=False)
        blocks.append((some[0], sha256_file(_path(target, number))))
    return blocks


def all_folders(target: Path, blocks: list[Block]) -> Iterator[tuple[bytes, int]]:
    """Name and time of every folder; ShardError where a block is damaged."""
    for number, (_, sha256) in enumerate(blocks):
        yield from _times(_path(target, number), sha256).items()


def some_folders(target: Path, blocks: list[Block], wanted: set[bytes]) -> Iterator[tuple[bytes, int]]:
    """Name and time of those of the wanted that were listed; only their blocks are read."""
    firsts = [name_bytes(first) for first, _ in blocks]
    for name in sorted(wanted):
        number = bisect_right(firsts, name) - 1
        times = _times(_path(target, number), blocks[number][1]) if number >= 0 else {}
        if name in times:
            yield name, times[name]


def _path(target: Path, number: int) -> Path:
    return target / f"folders-{number:05d}.npy"


@lru_cache(maxsize=1)
def _times(path: Path, sha256: str) -> dict[bytes, int]:
    try:
        if path.exists() and sha256_file(path) == sha256:
            rows = np.load(path, allow_pickle=False)
            return dict(zip(rows["name"].tolist(), rows["time"].tolist(), strict=True))
    except ValueError:  # not what NumPy writes
        pass
    raise ShardError(f"{path}: missing or damaged: remove {path.parent} and the .json of that name, then run again")
