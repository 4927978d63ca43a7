"""A source as it was found: its catalogue, what is still to be made of it, and the tasks of a slice."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

from shards.errors import PassingError, ShardError
from shards.format.columns import cut
from shards.format.png import Geometry
from shards.format.transform import parse_crop
from shards.make.address import Where, full_name, look
from shards.make.annotations import annotate
from shards.make.attributed import annotate_list
from shards.make.catalogue import (
    CATALOGUE,
    Catalogue,
    has_changed,
    pictures,
    read_catalogue,
    remove_catalogues,
    write_catalogue,
)
from shards.make.celeba import find_files
from shards.make.claims import made_once
from shards.make.folders import have_changed
from shards.make.layout import samples_per_shard
from shards.make.listing import Listing, State, as_found, state_of
from shards.make.packing import Task
from shards.make.parts import read_part
from shards.make.plan import Options, Plan, asked, read_plan
from shards.make.sorting import name_bytes
from shards.make.sources import list_source
from shards.make.tarfiles import recognise
from shards.make.urls import addresses_of

BEGUN = ".begun"  # the end of the name of a folder for a listing that is not finished
ATTEMPTS = 3  # listings of a source that changes meanwhile

log = logging.getLogger("shards.survey")


class Todo(NamedTuple):
    """A shard to be made: pictures [start, stop) of its split, and in which sets it is missing."""

    shard: str
    split: str
    start: int
    stop: int
    folders: list[Path]


@dataclass(frozen=True)
class Survey:
    """The source as it was found, and the file that keeps it."""

    options: Options
    catalogue: Catalogue
    file: Path
    state: State = None  # of a source that is one file of this machine, before it was listed

    @cached_property
    def shard_size(self) -> int:
        """Pictures in a shard: what was asked for, else what a set begun here has, else by the set's size."""
        options = self.options
        if options.shard_size is not None:
            return options.shard_size
        begun = [plan for size in options.sizes if (plan := read_plan(options.folder(size))) is not None]
        if begun and options.shard_bytes is None:
            return int(begun[0].fixed["shard_size"])
        channels = asked(options, self.catalogue.kind)["channels"]
        geometries = [Geometry(height, width, channels, self._json_bytes) for height, width in options.sizes]
        return samples_per_shard(len(self.catalogue), geometries, options.shard_bytes)

    @property
    def where(self) -> Where:
        """What a reader opens."""
        whole, source = self.catalogue, self.options.source
        if whole.state is None or isinstance(source, Path):
            return Path(whole.path)
        return replace(source, state=whole.state)

    @property
    def _json_bytes(self) -> int:
        return self.catalogue.member_bytes if self.options.attributes else 0

    def plan(self, size: tuple[int, int]) -> Plan:
        """The plan of one size."""
        options, whole = self.options, self.catalogue
        fixed = asked(options, whole.kind) | {
            "shard_size": self.shard_size,
            "size": list(size),
            "json": self._json_bytes,
            "pictures": len(whole),
            "listing": whole.listing,
            "annotations": whole.annotations,
        }
        source = {"name": options.source.name, "kind": whole.kind, "stamp": stamp(options)}
        return Plan(fixed, whole.counts, whole.names, source, options.slice[1], options.max_rejects)

    def todo(self, plans: dict[Path, Plan]) -> list[Todo]:
        """The shards of this run's slice that are not finished yet at every size."""
        shards, size, counts = [], self.shard_size, self.catalogue.counts
        plan = next(iter(plans.values()))
        span = cut(len(plan), *self.options.slice)
        for name, split, number in plan.shards_between(span.start, span.stop):
            folders = [folder for folder in plans if read_part(folder, name) is None]
            if folders:
                shards.append(Todo(name, split, number * size, min((number + 1) * size, counts[split]), folders))
        return shards

    def has_changed(self) -> bool:
        """Whether any folder that pictures of this run's slice lie in is not as it was when it was listed."""
        if not (isinstance(self.options.source, Path) or self.catalogue.seen):
            return False
        size, counts = self.shard_size, self.catalogue.counts
        plan = self.plan(self.options.sizes[0])
        span = cut(len(plan), *self.options.slice)
        spans: dict[str, tuple[int, int]] = {}
        for _, split, number in plan.shards_between(span.start, span.stop):
            first, _ = spans.get(split, (number * size, 0))
            spans[split] = first, min((number + 1) * size, counts[split])
        return has_changed(self.file, self.catalogue, [(split, *places) for split, places in spans.items()])

    def tasks(self, todo: list[Todo], plans: dict[Path, Plan]) -> Iterator[Task]:
        """What the workers are given, a shard at a time."""
        source = self.catalogue.kind, self.where
        listed = self.state if full_name(self.where) == full_name(self.options.source) else None
        crop = parse_crop(asked(self.options, self.catalogue.kind)["crop"])
        for each in todo:
            sizes = {folder: plans[folder].geometry for folder in each.folders}
            chosen = pictures(self.file, self.catalogue, each.split, each.start, each.stop)
            yield Task(each.shard, source, chosen, crop, sizes, self.options.form, listed)


@contextmanager
def survey(options: Options) -> Iterator[Survey]:
    """The source's catalogue, made by the first process that comes; others wait, and read their own part of it.

    One slice of one lists anew: a folder's pictures may have changed, and nobody else is at work.
    """
    if options.slice[1] > 1:
        yield _survey(options)
        return
    remove_catalogues(options.out, finished=True)
    try:
        yield _survey(options)
    finally:
        remove_catalogues(options.out, finished=True)


def _survey(options: Options) -> Survey:
    source, file = options.source, catalogue_file(options)
    for _ in range(ATTEMPTS):
        state = state_of(source) if isinstance(source, Path) and source.is_file() else None
        known = file.exists()
        made_once(file, partial(_catalogue, options, file))
        try:
            found = Survey(options, _readable(read_catalogue(file), options), file, state)
        except FileNotFoundError:  # another process has just closed the set
            continue
        if not known:
            return found
        if not found.has_changed():
            log.warning("%s: %s pictures, as they were listed before", source, f"{len(found.catalogue):,}")
            return found
        log.warning("%s: a folder in it has changed since it was listed: listed again", source)
        file = _successor(file)
    raise _changing(source)


def _changing(source: Where) -> ShardError:
    return ShardError(f"{source}: changes while it is listed: run again when all its pictures are there")


def _readable(whole: Catalogue, options: Options) -> Catalogue:
    """The catalogue with a file to read from: a packed tar's plain one may have been cleaned away, or OUT moved."""
    if whole.state is not None or Path(whole.path).exists():
        return whole
    parts = [as_found(*part) for part in whole.seen.items()] if whole.kind == "urls" else []
    made = addresses_of(parts, options.out) if parts else recognise(options.source, options.out)[1]
    return replace(whole, path=full_name(made))


def catalogue_file(options: Options) -> Path:
    """Where the newest catalogue of a source is kept, or the first will be, with a name for what it depends on."""
    conditions = [full_name(options.source), str(options.annotations), options.holdout, _facts(options)]
    name = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:16]
    file = options.out / f"{CATALOGUE}{name}-0.json"
    while (newer := _successor(file)).exists():
        file = newer
    return file


def _successor(file: Path) -> Path:
    """What takes a catalogue's place where it does not hold any more; slices at work may still read the old one."""
    name, _, number = file.stem.rpartition("-")
    return file.with_name(f"{name}-{int(number) + 1}.json")


def refuse_changed(out: Path, folder: Path, plan: Plan) -> None:
    """Raise ShardError where other pictures are in the folder that a set was made of than when it was listed.

    It is listed again only where a folder in it has another time. One that is gone is taken as it was.
    """
    files = [file for file in out.glob(f"{CATALOGUE}*.json") if not file.name.endswith(".owner.json")]
    try:
        kept = [(file, read_catalogue(file)) for file in files]
    except FileNotFoundError:  # another process has just closed the set
        return
    known = [(file, whole) for file, whole in kept if whole.listing == plan.fixed.get("listing")]
    source = Path(known[0][1].path) if known else None
    if source is None or not source.is_dir() or not all(has_changed(*each) for each in known):
        return
    log.warning("%s: a folder in it has changed since it was listed: listed again", source)
    now = list_source(source, out)
    if now.fingerprint != plan.fixed.get("listing"):
        raise ShardError(
            f"{folder}: {source} has other pictures than when its shards were made ({len(now):,} now, "
            f"{plan.fixed['pictures']:,} then): put it as it was, then close the set (without slices: run the same "
            "command again); or make one with another OUT"
        )


def _catalogue(options: Options, file: Path) -> None:
    """List the source; killed, the next process goes on."""
    kept = file.with_suffix(BEGUN)
    try:
        _annotated(options, file, _listed(options, kept))
    except PassingError:
        raise
    except ShardError:  # all that is kept would end so again
        shutil.rmtree(kept, ignore_errors=True)
        raise
    shutil.rmtree(kept, ignore_errors=True)


def _listed(options: Options, kept: Path) -> Listing:
    """The listing; all folders are as they were found when it is done."""
    for _ in range(ATTEMPTS):
        listing = list_source(options.source, options.out, kept)
        if not (isinstance(options.source, Path) and have_changed(options.source, _folders(listing))):
            return listing
        shutil.rmtree(kept, ignore_errors=True)
    raise _changing(options.source)


def _folders(listing: Listing) -> Iterator[tuple[bytes, int]]:
    names, times = listing.folders
    return zip(map(name_bytes, names), times["time"], strict=True)


def _annotated(options: Options, file: Path, listing: Listing) -> None:
    if listing.kind == "urls" and options.annotations is None:
        annotations = annotate_list(listing, options.source, options.holdout)
    else:
        annotations = annotate(listing, options.source, options.annotations, options.holdout)
    write_catalogue(file, listing, annotations)


def _facts(options: Options) -> list[State]:
    """States of the source, or of the folder itself, and of its annotations."""
    places = [options.source, *find_files(options.source, options.annotations).values()]
    states = [state_of(each) for each in places]
    return [state for state in states if state is not None]


def stamp(options: Options) -> list[State] | None:
    """Sizes and times of an archive and the annotations that go with it: unchanged, nothing need be listed again.

    None for a folder, whose pictures may change without a trace in the folder.
    """
    source = options.source
    is_folder = source.is_dir() if isinstance(source, Path) else look(source).is_folder
    return None if is_folder else _facts(options)
