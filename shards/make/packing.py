"""One shard at every size: read, decode, crop and resize its pictures, write the tars, then the record of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facegan.files import remove_stale
from shards.format.members import Form
from shards.format.png import Geometry
from shards.format.transform import Crop, PictureError, decode, resize
from shards.make.address import Where, refuse_changed
from shards.make.ahead import read_ahead
from shards.make.annotations import SPLITS
from shards.make.catalogue import Pictures
from shards.make.listing import Place, Reader, State, state_of
from shards.make.parts import CONTENT_MODULUS, Part, content_of, count_reasons, members_path, part_path, write_part
from shards.make.pool import Report
from shards.make.shardfile import BATCH, ShardFile, shard_file
from shards.make.sources import open_reader

BATCH_BYTES = 64 << 20  # of large pictures, fewer
LARGE = 1 << 20  # bytes of a decoded picture

encode_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True)
class Task:
    """A shard to be written: its n pictures and the sizes that do not have it yet."""

    shard: str
    source: tuple[str, Where]  # kind and place for a reader
    pictures: Pictures
    crop: Crop
    sizes: dict[Path, Geometry]  # folder of a set: geometry
    form: Form
    listed: State = None  # of an archive of this machine: as it was when its places were listed

    def __str__(self) -> str:
        return self.shard

    def run(self, report: Report) -> None:
        """Write the shard at every size."""
        write_shard(self, report)

    def refuse_changed(self) -> None:
        """Raise ShardError where another file is there than the one that was listed."""
        path = self.source[1]
        if self.listed is not None and isinstance(path, Path):
            refuse_changed(path, self.listed, state_of(path))

    def clean_up(self) -> None:
        """Remove what an ended process has half written of it."""
        for folder in self.sizes:
            remove_stale(folder / self.shard)
            remove_stale(part_path(folder, self.shard))
            remove_stale(members_path(folder, self.shard))


@cache
def _reader(kind: str, path: Where) -> Reader:
    return open_reader(kind, path)


def write_shard(task: Task, report: Report) -> None:
    """Write a task's shard at all its sizes, then its records.

    Raises ShardError (DiskFullError; or the source is not what was listed any more) and leaves nothing under a
    final name that is not whole.
    """
    packer = _Packer(task)
    with ExitStack() as stack:
        files = {
            folder: stack.enter_context(shard_file(folder / task.shard, geometry, task.form))
            for folder, geometry in task.sizes.items()
        }
        for crops in packer.batches(report):
            packer.add(crops, list(files.values()))
        packer.reader.recheck()
        task.refuse_changed()
    for folder, shard in files.items():
        packer.write_part(folder, shard)


Crops = dict[int, NDArray[np.uint8]]  # by index in the task


class _Packer:
    """What is gathered over the batches of one shard: lines of the side table, rejects, fingerprints."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.split = SPLITS[int(task.pictures.annotations.splits[0])]
        self.reader = _reader(*task.source)
        self.places = [Place(*place) for place in task.pictures.places.tolist()]
        geometry = next(iter(task.sizes.values()))
        self.channels, self.has_members = geometry.channels, geometry.json > 0
        self.samples: list[str] = []
        self.rejects: list[dict[str, str]] = []
        self.content = 0

    def batches(self, report: Report) -> Iterator[Crops]:
        """The crops of the good pictures, in batches that are bounded in number and in bytes."""
        batch: Crops = {}
        held = reported = rejected = 0
        count = len(self.places)
        last = count - 1
        for i, read in enumerate(read_ahead(self._read, count, self.reader.threads)):
            crop = self._crop(i, read)
            if crop is not None:
                batch[i] = crop
                held += crop.nbytes
            if len(batch) == BATCH or held >= BATCH_BYTES or i == last:
                yield batch
                report(i + 1 - reported, len(self.rejects) - rejected)
                batch, held, reported, rejected = {}, 0, i + 1, len(self.rejects)

    def add(self, crops: Crops, files: list[ShardFile]) -> None:
        """Resize a batch and append it to all files."""
        keys = [self.task.pictures.keys[i] for i in crops]
        texts = [self.task.pictures.annotations.member(i) for i in crops] if self.has_members else None
        groups = _by_shape(list(crops.values()))
        for file in files:
            images = resize_groups(groups, len(crops), file.geometry)
            file.add(images, keys, texts)
        self.samples += [self._line(i) for i in crops]

    def _read(self, i: int) -> bytes:
        return self.reader.read(self.task.pictures.names[i], self.places[i])

    def _crop(self, i: int, read: Callable[[], bytes]) -> NDArray[np.uint8] | None:
        """The cut of picture i (h, w, C), whose bytes `read` gives; None where it was rejected."""
        name, data = self.task.pictures.names[i], None
        try:
            data = read()
            image = decode(data, self.channels)
            crop = self.task.crop.cut(image)
            # A crop is a view: do not hold a whole large photograph for it
            return crop.copy() if image.nbytes > LARGE and crop.nbytes < image.nbytes else crop
        except PictureError as error:
            self.rejects.append({"source": name, "reason": error.reason, "detail": error.detail})
            return None
        finally:
            self.content += content_of(name, data)

    def _line(self, i: int) -> str:
        row = {"key": self.task.pictures.keys[i], "source": self.task.pictures.names[i], "split": self.split}
        return encode_json(row | self.task.pictures.annotations.row(i))

    def write_part(self, folder: Path, shard: ShardFile) -> None:
        """Write the record of a finished shard."""
        part = Part(
            name=self.task.shard,
            split=self.split,
            samples=shard.samples,
            bytes=shard.bytes,
            sha256=shard.digest.hexdigest(),
            rejects=len(self.rejects),
            by_reason=count_reasons(self.rejects),
            content=f"{self.content % CONTENT_MODULUS:064x}",
        )
        write_part(folder, part, self.samples, self.rejects, shard.rows)


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
