"""What a preprocess run has to do, decided before the first picture is read, and kept in each set's folder."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from facegan.files import write_text
from shards.errors import ShardError
from shards.format.members import Form
from shards.format.png import Geometry
from shards.format.transform import FILTER, parse_crop
from shards.make.address import Where

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

    source: Where
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
            self.form.refuse_larger(height, width)
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

    @property
    def shards(self) -> Iterator[tuple[str, str, int]]:
        """Name, split and number within the split of every shard, in the set's order."""
        return self.shards_between(0, len(self))

    def shards_between(self, start: int, stop: int) -> Iterator[tuple[str, str, int]]:
        """Those from place `start` to before `stop`; nothing is done for the others."""
        for split, first in self._firsts.items():
            for place in range(max(start, first), min(stop, first + self._by_split[split])):
                yield f"{split}-{place - first:05d}.tar", split, place - first

    def __len__(self) -> int:
        return sum(self._by_split.values())

    def slice_of(self, shard: str) -> int:
        """Which slice of `slices` a shard belongs to."""
        split, _, number = shard.removesuffix(".tar").rpartition("-")
        return ((self._firsts[split] + int(number) + 1) * self.slices - 1) // len(self)

    @cached_property
    def _by_split(self) -> dict[str, int]:
        """Shards of each split."""
        return {split: -(-count // self.fixed["shard_size"]) for split, count in self.counts.items()}

    @cached_property
    def _firsts(self) -> dict[str, int]:
        """Where each split's shards begin among all."""
        return dict(zip(self._by_split, accumulate(self._by_split.values(), initial=0), strict=False))

    def write(self, folder: Path) -> None:
        """Keep the plan in the set's folder."""
        write_text(folder / PLAN, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_plan(folder: Path) -> Plan | None:
    """The plan that a set was begun with, if any. Raises ShardError where it is damaged."""
    path = folder / PLAN
    try:
        return parse_plan(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None


def parse_plan(content: bytes, where: str) -> Plan:
    """A plan as it was written; ShardError naming `where` it is damaged."""
    try:
        plan = Plan(**json.loads(content))
        fixed = {"members": "png", "quality": None} | plan.fixed  # as all were when plans did not say it
        return dataclasses.replace(plan, fixed=fixed)
    except (ValueError, TypeError) as error:
        set_folder = where.rpartition("/")[0]
        raise ShardError(f"{where}: damaged ({error}): remove {set_folder}, then run again") from None


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
