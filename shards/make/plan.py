"""What a preprocess run has to do, decided before the first picture is read, and kept in each set's folder."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facegan.files import write_text
from shards.errors import ShardError
from shards.format.columns import cut
from shards.format.members import Form
from shards.format.png import Geometry
from shards.format.transform import FILTER, parse_crop
from shards.make.annotations import SPLITS, Annotations, annotate
from shards.make.celeba import find_files
from shards.make.layout import samples_per_shard
from shards.make.listing import Listing, stem
from shards.make.packing import Task
from shards.make.parts import read_part
from shards.make.sources import list_source

PLAN = "preprocess.json"
MAX_REJECTS = re.compile(r"(?P<count>\d+)|(?P<percent>\d+(\.\d+)?)%")


@dataclass(frozen=True)
class Options:
    """What `facegan preprocess` was asked for.

    sizes: heights and widths in pixels; crop (see parse_crop) and channels: None for the source's own (150 and
    3, for MNIST none and 1); slice: part I of N of the shards, from 0; shard_size: pictures in a shard, or
    shard_bytes: of the largest shard, reckoned as stored PNG; without either what a begun set has, else see
    `samples_per_shard`; members, quality: see `Form`; max_rejects: a count, or a percentage of all pictures.
    """

    source: Path
    out: Path
    sizes: tuple[tuple[int, int], ...] = ((64, 64),)
    crop: str | None = None
    channels: int | None = None
    slice: tuple[int, int] = (0, 1)
    workers: int = 1
    shard_size: int | None = None
    shard_bytes: int | None = None
    holdout: int | None = None
    annotations: Path | None = None
    attributes: bool = False
    members: str = "png"
    quality: int | None = None
    max_rejects: str = "50%"

    def __post_init__(self) -> None:
        index, count = self.slice
        if not 0 <= index < count:
            raise ShardError(f"--slice {index}/{count}: slices of {count} are 0/{count} to {count - 1}/{count}")
        if MAX_REJECTS.fullmatch(self.max_rejects) is None:
            raise ShardError(f"--max-rejects {self.max_rejects}: expected a count or a percentage, like 20 or 1%")
        if any(n is not None and n < 1 for n in (self.workers, self.shard_size, self.shard_bytes)):
            raise ShardError("--shard-size, --shard-bytes and --workers must be at least 1")
        if None not in (self.shard_size, self.shard_bytes):
            raise ShardError("--shard-size and --shard-bytes: give one of them")
        for height, width in self.sizes:
            Geometry(height, width, self.channels or 3)
        Form(self.members, self.quality)
        if self.crop is not None:
            parse_crop(self.crop)

    @property
    def form(self) -> Form:
        """What the images become."""
        return Form(self.members, self.quality)

    def folder(self, size: tuple[int, int]) -> Path:
        """Where the set of one size lies: OUT/64, OUT/62x47."""
        height, width = size
        return self.out / (str(height) if height == width else f"{height}x{width}")


@dataclass(frozen=True)
class Plan:
    """One set to be made, as `preprocess.json` keeps it.

    `fixed` decides the bytes of the shards and cannot change; the rest may differ from run to run.
    """

    fixed: dict[str, Any]
    counts: dict[str, int]  # pictures by split
    attributes: list[str]
    source: dict[str, Any]  # name, kind, stamp
    slices: int
    max_rejects: str

    @property
    def geometry(self) -> Geometry:
        """Where the pixels lie in a record of the set."""
        height, width = self.fixed["size"]
        return Geometry(height, width, self.fixed["channels"], self.fixed["json"])

    @property
    def form(self) -> Form:
        """What the images become."""
        return Form(self.fixed["members"], self.fixed["quality"])

    @cached_property
    def shards(self) -> list[tuple[str, str, int]]:
        """Name, split and number within the split of every shard, in the set's order."""
        size = self.fixed["shard_size"]
        return [
            (f"{split}-{number:05d}.tar", split, number)
            for split, count in self.counts.items()
            for number in range(-(-count // size))
        ]

    def slice_of(self, shard: str) -> int:
        """Which slice of `slices` a shard belongs to."""
        return ((self._places[shard] + 1) * self.slices - 1) // len(self.shards)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, (name, _, _) in enumerate(self.shards)}

    def write(self, folder: Path) -> None:
        """Keep the plan in the set's folder."""
        write_text(folder / PLAN, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_plan(folder: Path) -> Plan | None:
    """The plan that a set was begun with, if any. Raises ShardError where it is damaged."""
    path = folder / PLAN
    try:
        plan = Plan(**json.loads(path.read_text(encoding="utf-8")))
        fixed = {"members": "png", "quality": None} | plan.fixed  # as all were when plans did not say it
        return dataclasses.replace(plan, fixed=fixed)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ShardError(f"{path}: damaged ({error}): remove {folder}, then run again") from None


class Todo(NamedTuple):
    """A shard to be made: which pictures of the listing, and in which sets it is missing."""

    shard: str
    positions: NDArray[np.int64]
    folders: list[Path]


@dataclass(frozen=True)
class Survey:
    """The source as it was found: its listing and what is known of each picture."""

    options: Options
    listing: Listing
    annotations: Annotations

    @cached_property
    def shard_size(self) -> int:
        """Pictures in a shard: what was asked for, else what a set begun here has, else by the set's size."""
        options = self.options
        if options.shard_size is not None:
            return options.shard_size
        begun = [plan for size in options.sizes if (plan := read_plan(options.folder(size))) is not None]
        if begun and options.shard_bytes is None:
            return int(begun[0].fixed["shard_size"])
        channels = asked(options, self.listing.kind)["channels"]
        geometries = [Geometry(height, width, channels, self._json_bytes) for height, width in options.sizes]
        return samples_per_shard(len(self.listing), geometries, options.shard_bytes)

    @property
    def _json_bytes(self) -> int:
        return self.annotations.member_bytes if self.options.attributes else 0

    def plan(self, size: tuple[int, int]) -> Plan:
        """The plan of one size."""
        fixed = asked(self.options, self.listing.kind) | {
            "shard_size": self.shard_size,
            "size": list(size),
            "json": self._json_bytes,
            "pictures": len(self.listing),
            "listing": self.listing.fingerprint,
            "annotations": self.annotations.fingerprint,
        }
        pictures = np.bincount(self.annotations.splits, minlength=len(SPLITS)).tolist()
        counts = {split: count for split, count in zip(SPLITS, pictures, strict=True) if count}
        source = {"name": self.options.source.name, "kind": self.listing.kind, "stamp": stamp(self.options)}
        names, options = list(self.annotations.names), self.options
        return Plan(fixed, counts, names, source, options.slice[1], options.max_rejects)

    def todo(self, plans: dict[Path, Plan]) -> list[Todo]:
        """The shards of this run's slice that are not finished yet at every size."""
        shards = next(iter(plans.values())).shards
        found = []
        for name, split, number in shards[cut(len(shards), *self.options.slice)]:
            folders = [folder for folder in plans if read_part(folder, name) is None]
            if folders:
                found.append(Todo(name, self._positions(split, number), folders))
        return found

    def tasks(self, todo: list[Todo], plans: dict[Path, Plan]) -> Iterator[Task]:
        """What the workers are given, a shard at a time."""
        for each in todo:
            sizes = {folder: plans[folder].geometry for folder in each.folders}
            yield self._task(each.shard, each.positions, sizes)

    def _positions(self, split: str, number: int) -> NDArray[np.int64]:
        size = self.shard_size
        return self._by_split[split][number * size : (number + 1) * size]

    @cached_property
    def _by_split(self) -> dict[str, NDArray[np.int64]]:
        splits = self.annotations.splits
        return {split: np.flatnonzero(splits == number) for number, split in enumerate(SPLITS)}

    def _task(self, shard: str, positions: NDArray[np.int64], sizes: dict[Path, Geometry]) -> Task:
        names = [self.listing.names[i] for i in positions]
        keys = [stem(name) for name in names] if self.listing.has_plain_stems else [f"{i:09d}" for i in positions]
        source = self.listing.kind, self.listing.path
        places, annotations = self.listing.places[positions], self.annotations.part(positions)
        crop = parse_crop(asked(self.options, self.listing.kind)["crop"])
        return Task(shard, source, names, places, keys, annotations, crop, sizes, self.options.form)


def survey(options: Options) -> Survey:
    """List the source and read its annotations."""
    listing = list_source(options.source, options.out)
    annotations = annotate(listing, options.source, options.annotations, options.holdout)
    return Survey(options, listing, annotations)


def asked(options: Options, kind: str) -> dict[str, Any]:
    """What of the options decides the bytes of the shards, whatever is in the source."""
    crop, channels = ("none", 1) if kind == "idx" else ("150", 3)
    return {
        "crop": options.crop or crop,
        "filter": FILTER,
        "channels": options.channels or channels,
        "holdout": options.holdout,
        "attributes": options.attributes,
        "members": options.members,
        "quality": options.form.quality,
    } | ({} if options.shard_size is None else {"shard_size": options.shard_size})


def stamp(options: Options) -> list[list[int]] | None:
    """Sizes and times of an archive and the annotations that go with it: unchanged, nothing need be listed again.

    None for a folder, whose pictures may change without a trace in the folder.
    """
    if options.source.is_dir():
        return None
    annotations = find_files(options.source, options.annotations).values()
    facts = [path.stat() for path in (options.source, *annotations)]
    return [[fact.st_size, fact.st_mtime_ns] for fact in facts]
