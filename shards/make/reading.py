"""Reads anybody's tars once: where each sample's picture lies, whether it can be used, what is said of it."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from facegan.cores import usual_threads
from facegan.files import sha256_file
from shards.errors import ShardError
from shards.format.columns import Shard
from shards.format.index import Transform
from shards.format.mapping import Bytes, map_file
from shards.format.members import MAX_KEY_BYTES, Row
from shards.format.tar import members
from shards.format.transform import EXTENSIONS, FILTER, MAX_PICTURE_BYTES, PictureError, decode, parse_crop
from shards.make.fields import Fields, find_fields, stated_of
from shards.make.samples import Group, samples, split_of
from shards.make.scans import Record, Scan, kept_scan
from shards.read.encoded import SQUARE, fit

RECORDS = ".index"  # beside the tars until all are read
GROUP_BYTES, MOST_IN_GROUP = 16 << 30, 1 << 10  # of tars whose tables come together, about, and how many
VERSION = 2  # of the records
Progress = Callable[[int], None]


@dataclass(frozen=True)
class ForeignTars:
    """The tars of a folder, and how their pictures are read.

    size, crop: bring pictures of several sizes to one: cut `crop` (as `facegan preprocess` has it; without it the
        largest centred square) and resize to size x size pixels, while they are read. Without `size` all pictures
        must have one size.
    channels: 3 (RGB) or 1 (grey) of the images delivered.
    index_folder: the folder that becomes the set, where the tars' own cannot be written: the index and a link to
        each tar.
    """

    folder: Path
    size: int | None = None
    crop: str | None = None
    channels: int = 3
    index_folder: Path | None = None

    @property
    def place(self) -> Path:
        """The folder of the set that they become."""
        return self.index_folder or self.folder

    @property
    def records(self) -> Path:
        """Where what was read of each is kept until all are."""
        return self.place / RECORDS

    @property
    def names(self) -> list[str]:
        """The tars, sorted; not the shadow files ._x.tar that macOS leaves beside them."""
        names = (entry.name for entry in os.scandir(self.folder))
        return sorted(name for name in names if name.endswith(".tar") and not name.startswith("."))

    @cached_property
    def transform(self) -> Transform:
        """What is done to a picture when it is read; ShardError for a crop that cannot be."""
        if self.size is None and self.crop is not None:
            raise ShardError("--crop needs --size: what is cut out has to be brought to one size")
        if self.crop is not None:
            parse_crop(self.crop)
        return Transform("none", "none") if self.size is None else Transform(self.crop or SQUARE, FILTER)


class Reading:
    """The tars of a folder as they were found, and what is read of each: the same for all slices.

    names: of the tars; fields: what is read of labels; groups: the tars, some GROUP_BYTES at a time if all are like
    the first. Of the others nothing is asked but their names. Raises ShardError where there are no tars, or a
    first one is damaged.
    """

    def __init__(self, tars: ForeignTars) -> None:
        self.tars, self.names = tars, tars.names
        if not self.names:
            raise ShardError(f"{tars.folder}: no *.tar in it to index")
        how = [VERSION, tars.size, tars.transform.crop, tars.channels]
        self.fields: Fields = find_fields(tars.folder, self.names)
        conditions = [*how, self.fields.names, self.fields.identity]
        self._how = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:16]
        self._facts: dict[int, tuple[int, int]] = {}
        size = min(max(1, GROUP_BYTES // max(1, self.facts(0)[0])), MOST_IN_GROUP)
        self.groups = [range(i, min(i + size, len(self.names))) for i in range(0, len(self.names), size)]

    def facts(self, number: int) -> tuple[int, int]:
        """Bytes of a tar, and the time of its last change in nanoseconds, when it was first asked for."""
        if number not in self._facts:
            stated = (self.tars.folder / self.names[number]).stat()
            self._facts[number] = stated.st_size, stated.st_mtime_ns
        return self._facts[number]

    def digest(self, group: range) -> str:
        """What the tables of a group depend on."""
        facts = [[self.names[number], *self._conditions(number)] for number in group]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def kept(self, number: int) -> Scan | None:
        """What was read of a tar; None where nothing was, or it has changed."""
        return kept_scan(self._record(number), self._conditions(number))

    def read(self, numbers: Sequence[int], progress: Progress) -> None:
        """Read some tars, those aside that were before."""

        def read_new(number: int) -> None:
            if self.kept(number) is None:
                self._read(number, progress)

        with ThreadPoolExecutor(usual_threads(), thread_name_prefix="index") as pool:
            for _ in pool.map(read_new, numbers):
                pass

    def _record(self, number: int) -> Path:
        return self.tars.records / f"{self.names[number]}.scan"

    def _conditions(self, number: int) -> list[int | str]:
        return [*self.facts(number), self._how]

    def _read(self, number: int, progress: Progress) -> None:
        tars, name, conditions = self.tars, self.names[number], self._conditions(number)
        path, record = tars.folder / name, Record(self.fields)
        data = map_file(path)
        for key, group in samples(members(path)):
            try:
                row, image = _picture(data, key, group, tars.channels)
                if tars.size:
                    image = fit(image, tars.transform, (tars.size, tars.size, tars.channels))
            except PictureError as error:
                record.reject(name, key, error.reason, error.detail)
                continue
            record.add(row, (image.shape[0], image.shape[1]), stated_of(group, data))
            progress(1)
        shard = Shard(name, split_of(name), record.samples, self.facts(number)[0], sha256_file(path))
        record.keep(self._record(number), shard, conditions)


def _picture(data: Bytes, key: str, group: Group, channels: int) -> tuple[Row, Bytes]:
    """The table's row and the decoded picture of a sample; PictureError where it has none that can be used."""
    pictures = [entry for extension, entry in group if f".{extension}" in EXTENSIONS]
    if len(pictures) != 1:
        names = ", ".join(extension for extension, _ in group)
        raise PictureError("not one picture", f"{len(pictures)} pictures ({' '.join(EXTENSIONS)}) among: {names}")
    entry = pictures[0]
    encoded_key = key.encode("utf-8", "surrogateescape")
    if not entry.plain or entry.size > MAX_PICTURE_BYTES or len(encoded_key) > MAX_KEY_BYTES:
        raise PictureError(
            "unsupported", f"a link, over {MAX_PICTURE_BYTES:,} bytes, or a key over {MAX_KEY_BYTES}"
        )
    picture = data[entry.offset : entry.offset + entry.size].tobytes()
    return (entry.offset, entry.size, zlib.crc32(picture), encoded_key), decode(picture, channels)
