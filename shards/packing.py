"""One shard at every size: read, decode, crop and resize its pictures, write the tars, then the record of it."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shards.annotations import SPLITS, Annotations
from shards.errors import ShardError
from shards.files import remove_stale, whole_file
from shards.listing import PictureError, Place, Reader, name_bytes
from shards.png import END, Geometry, blank_records, encode_records
from shards.sources import open_reader
from shards.transform import Crop, decode, resize

BATCH = 32  # pictures resized in one call: fits the cache, and larger batches were not faster
FLUSH = 4 << 20  # bytes written between two reminders to the disk
PARTS = ".parts"  # folder of the finished shards' records, until the set is closed

encode_json = json.JSONEncoder(separators=(",", ":")).encode

Report = Callable[[int, int], None]  # pictures read, of these rejected, since the last call


@dataclass(frozen=True)
class Task:
    """A shard to be written: its n pictures and the sizes that do not have it yet."""

    shard: str
    source: tuple[str, Path]  # kind and path for a reader
    names: list[str]
    places: NDArray[np.void]
    keys: list[str]
    annotations: Annotations
    crop: Crop
    sizes: dict[Path, Geometry]  # folder of a set: geometry


@dataclass(frozen=True)
class Part:
    """The record of a finished shard. `content` is the sum of its pictures' fingerprints (see content_sum)."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    rejects: int
    by_reason: dict[str, int]
    content: str


class ShardFile:
    """A tar being written, hashed on the way."""

    def __init__(self, stream: BinaryIO, geometry: Geometry) -> None:
        self.stream, self.geometry = stream, geometry
        self.records = blank_records(geometry, BATCH)
        self.digest = hashlib.sha256()
        self.bytes = self.samples = self.flushed = 0

    def add(self, images: NDArray[np.uint8], keys: list[str], texts: list[bytes] | None) -> None:
        """Append images (n, H, W, C), at most BATCH, as n records."""
        records = encode_records(self.geometry, images, keys, texts, self.records[: len(images)])
        self._write(records.reshape(-1).data)
        self.samples += len(images)

    def end(self) -> None:
        """Append the end mark of a tar."""
        self._write(memoryview(END))

    def _write(self, data: memoryview) -> None:
        self.stream.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        if self.bytes - self.flushed >= FLUSH:
            self._start_flush()

    def _start_flush(self) -> None:
        """Have the disk begin: Linux starts to write what it may forget, so the sync at the end waits less."""
        self.stream.flush()
        os.posix_fadvise(self.stream.fileno(), self.flushed, self.bytes - self.flushed, os.POSIX_FADV_DONTNEED)
        self.flushed = self.bytes


@contextmanager
def shard_file(path: Path, geometry: Geometry) -> Iterator[ShardFile]:
    """A new tar at `path`, whole or absent; absent too where no sample came."""
    remove_stale(path)
    with whole_file(path) as part, part.open("wb") as stream:
        shard = ShardFile(stream, geometry)
        yield shard
        shard.end()
    if not shard.samples:
        path.unlink()


@cache
def _reader(kind: str, path: Path) -> Reader:
    return open_reader(kind, path)


def write_shard(task: Task, report: Report) -> tuple[int, int]:
    """Write a task's shard at all its sizes, then its records; returns the counts of samples and rejects.

    Raises ShardError (DiskFullError) and leaves nothing under a final name that is not whole.
    """
    packer = _Packer(task)
    with ExitStack() as stack:
        files = {
            folder: stack.enter_context(shard_file(folder / task.shard, geometry))
            for folder, geometry in task.sizes.items()
        }
        for start in range(0, len(task.names), BATCH):
            indices = range(start, min(start + BATCH, len(task.names)))
            rejected = packer.add(indices, files.values())
            report(len(indices), rejected)
    for folder, shard in files.items():
        packer.write_part(folder, shard)
    return len(packer.samples), len(packer.rejects)


class _Packer:
    """What is gathered over the batches of one shard: lines of the side table, rejects, fingerprints."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.reader = _reader(*task.source)
        self.channels = next(iter(task.sizes.values())).channels
        self.samples: list[str] = []
        self.rejects: list[dict[str, str]] = []
        self.content = 0

    def add(self, indices: range, files: Any) -> int:
        """Put the pictures at `indices` of the task into all files; returns how many were rejected."""
        crops = {i: crop for i in indices if (crop := self._crop(i)) is not None}
        keys = [self.task.keys[i] for i in crops]
        texts = [self.task.annotations.member(i) for i in crops]
        groups = _by_shape(list(crops.values()))
        for file in files:
            images = resize_groups(groups, len(crops), file.geometry)
            file.add(images, keys, texts if file.geometry.json else None)
        self.samples += [self._line(i) for i in crops]
        return len(indices) - len(crops)

    def _crop(self, i: int) -> NDArray[np.uint8] | None:
        """The cut of picture i (h, w, C); None where it was rejected."""
        name, data = self.task.names[i], None
        try:
            data = self.reader.read(name, Place(*self.task.places[i].item()))
            return self.task.crop.cut(decode(data, self.channels))
        except PictureError as error:
            self.rejects.append({"source": name, "reason": error.reason, "detail": error.detail})
            return None
        finally:
            self.content += content_of(name, data)

    def _line(self, i: int) -> str:
        row = {"key": self.task.keys[i], "source": self.task.names[i], "split": self._split}
        return encode_json(row | self.task.annotations.row(i))

    @property
    def _split(self) -> str:
        return SPLITS[int(self.task.annotations.splits[0])]

    def write_part(self, folder: Path, shard: ShardFile) -> None:
        """Write the record of a finished shard: a line of facts, the side table's lines, the rejects."""
        by_reason = dict(sorted(Counter(reject["reason"] for reject in self.rejects).items()))
        facts = Part(
            self.task.shard, self._split, shard.samples, shard.bytes, shard.digest.hexdigest(),
            len(self.rejects), by_reason, f"{self.content % CONTENT_MODULUS:064x}",
        )  # fmt: skip
        lines = [json.dumps(asdict(facts)), *self.samples, *map(json.dumps, self.rejects)]
        with whole_file(part_path(folder, self.task.shard)) as part:
            part.write_text("\n".join(lines) + "\n", encoding="ascii")


CONTENT_MODULUS = 1 << 256


def content_of(name: str, data: bytes | None) -> int:
    """The fingerprint of one picture, a 256-bit number from its name and bytes.

    Their sum over a source, modulo 2^256, does not depend on how it was cut into shards and slices.
    """
    digest = hashlib.sha256(name_bytes(name) + b"\0")
    digest.update(b"unreadable" if data is None else hashlib.sha256(data).digest())
    return int.from_bytes(digest.digest(), "big")


def part_path(folder: Path, shard: str) -> Path:
    """Where the record of a set's shard lies until the set is closed."""
    return folder / PARTS / f"{Path(shard).stem}.jsonl"


def read_part(folder: Path, shard: str) -> Part | None:
    """The record of a shard, if it and the shard are there, whole."""
    try:
        with part_path(folder, shard).open(encoding="ascii") as lines:
            part = Part(**json.loads(lines.readline()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ShardError(f"{part_path(folder, shard)}: damaged ({error}): remove it, then run again") from None
    file = folder / shard
    present = file.stat().st_size if file.exists() else None
    return part if present == (part.bytes if part.samples else None) else None


Groups = list[tuple[list[int], NDArray[np.uint8]]]  # indices in the batch, their crops (n, h, w, C)


def _by_shape(crops: list[NDArray[np.uint8]]) -> Groups:
    """Crops of one size together, so that each group is resized in one call."""
    members: dict[tuple[int, ...], list[int]] = {}
    for i, crop in enumerate(crops):
        members.setdefault(crop.shape, []).append(i)
    return [(indices, np.stack([crops[i] for i in indices])) for indices in members.values()]


def resize_groups(groups: Groups, count: int, geometry: Geometry) -> NDArray[np.uint8]:
    """Images (count, H, W, C) of a set's size, in the batch's order."""
    resized = [(indices, resize(crops, geometry.height, geometry.width)) for indices, crops in groups]
    if len(resized) == 1:
        return resized[0][1]
    images = np.empty((count, geometry.height, geometry.width, geometry.channels), np.uint8)
    for indices, group in resized:
        images[indices] = group
    return images
