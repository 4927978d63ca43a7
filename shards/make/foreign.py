"""Indexes anybody's WebDataset tars once, so that their samples can be read by number.

A record of each tar is kept until the set is whole, so the work can be cut into slices, and goes on where it ended.
"""

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facegan.files import json_lines, sha256_file, whole_file
from shards.errors import ShardError
from shards.format.columns import Shards, SideTable, cut
from shards.format.index import NAME, Rejects, ShardIndex, Source, Split, load_index
from shards.make.claims import claimed, forget
from shards.make.fields import IDENTITY, Told
from shards.make.reading import ForeignTars, Progress, Reading
from shards.make.scans import MOST_SIZES, Found, Sizes
from shards.make.tables import TarGroup, group_of, rejects_path, remove_others, scans_of, write_group_labels

REJECTS = "rejects.jsonl"
SHOWN = 20  # names in a message

log = logging.getLogger("shards.foreign")


def index_tars(tars: ForeignTars, progress: Progress = lambda count: None) -> ShardIndex:
    """Index all tars of a folder: decodes every picture once, then writes tables and `index.json`.

    Samples that cannot be used are left out and listed in `rejects.jsonl`. A word in a tar's name says its split
    (train, val or test; without one it is train). What `.cls` and `.json` members say becomes labels (see
    `shards.make.fields`). Raises ShardError where a tar is damaged (a damaged header would hide samples), where
    sizes differ, where nothing is left, or where the index could not be written.
    """
    reading = Reading(tars)
    with _owned(tars, (0, 1)):
        index = _index(reading, _groups(reading, progress))
        if tars.place != tars.folder:
            _link(reading)
        index.write(tars.place)
        shutil.rmtree(tars.records, ignore_errors=True)
    forget(tars.place)
    return index


def read_tars(tars: ForeignTars, part: tuple[int, int], progress: Progress = lambda count: None) -> None:
    """Read part (i, n), from 0, of the tars of a folder, for `index_tars`. What was read so before is not again.

    Raises FaceganError where another process is at work on some of them.
    """
    reading = Reading(tars)
    with _owned(tars, part):
        numbers = range(len(reading.names))[cut(len(reading.names), *part)]
        reading.read(numbers, progress)
        for number, group in enumerate(reading.groups):
            if group.start < numbers.stop and numbers.start < group.stop:
                group_of(reading, number)


@contextmanager
def _owned(tars: ForeignTars, part: tuple[int, int]) -> Iterator[None]:
    """Own a part of the tars; ShardError where no index can be written."""
    _refuse_read_only(tars.place)
    with claimed(tars.place, part):
        yield


def _groups(reading: Reading, progress: Progress) -> list[TarGroup]:
    """All groups; the tars of those that are not finished are read."""
    groups = [group_of(reading, number) for number in range(len(reading.groups))]
    pairs = list(zip(reading.groups, groups, strict=True))
    reading.read([number for span, group in pairs if group is None for number in span], progress)
    whole = [group or group_of(reading, number) for number, group in enumerate(groups)]
    found = [group for group in whole if group is not None]
    if len(found) < len(whole):
        raise ShardError(f"{reading.tars.records}: records were removed while they were made: run again")
    return found


def known_index(tars: ForeignTars) -> ShardIndex | None:
    """The index that the tars have already; ShardError where it is not of the tars that lie there."""
    path = tars.place / NAME
    if not path.exists():
        return None
    index = load_index(path.parent)
    if {name: (tars.folder / name).stat().st_size for name in tars.names} != {
        each.name: each.bytes for each in index.shards
    }:
        raise ShardError(f"{path}: describes other tars than lie in {tars.folder}; remove it to index them anew")
    return index


def _refuse_read_only(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ShardError(
            f"{place}: cannot be written ({error.strerror}), so no index can lie there. Give another folder for "
            "it: --index DIR; then train with --data DIR, the tars are read from where they are"
        ) from None


def _link(reading: Reading) -> None:
    """Put links to the tars beside their index, so that the folder is a set like any other."""
    for name in reading.names:
        link = reading.tars.place / name
        if link.exists() and not link.is_symlink():
            raise ShardError(f"{link}: a file of that name is there already: choose another folder for the index")
        link.unlink(missing_ok=True)
        link.symlink_to((reading.tars.folder / name).resolve())


def _index(reading: Reading, groups: list[TarGroup]) -> ShardIndex:
    """Write the rejects; the index of the whole set."""
    tars, shards = reading.tars, Shards.joined([group.shards for group in groups])
    if not shards.samples.sum():
        _refuse_empty(reading)
    found = Found()
    for group in groups:
        found.add(group.found)
    height, width = (tars.size, tars.size) if tars.size else _one_size(found.sizes, tars.folder)
    members = tuple(group.members for group in groups if group.members)
    attributes, labels = _labels(reading, groups, found.told, int(shards.samples.sum()))
    remove_others(tars.place, {file.name for file in (*members, *labels)})
    return ShardIndex(
        members="encoded",
        height=height,
        width=width,
        channels=tars.channels,
        splits={split: Split(*counts) for split, counts in shards.counts().items()},
        shards=shards,
        source=_source(found, shards, tars.folder),
        shard_size=int(shards.samples.max()),
        transform=tars.transform,
        attributes=attributes,
        table=members[0].as_whole if len(members) == 1 else None,
        member_tables=members if len(members) > 1 else (),
        labels=labels,
        rejects=_write_rejects(reading, found),
    )


def _labels(
    reading: Reading, groups: list[TarGroup], told: Told, samples: int
) -> tuple[tuple[str, ...], tuple[SideTable, ...]]:
    """The attributes that fit in all samples, and the labels; says what is not used, and what is lacking."""
    fields, folder = reading.fields, reading.tars.folder
    attributes = tuple(name for name in fields.names if told.known[name] and name not in told.unfit)
    names = [*attributes, *([IDENTITY] if told.known[IDENTITY] else [])]
    unused = [*(name for name in fields.names if name not in attributes), *sorted(told.unused)]
    if unused:
        more = " ..." if len(unused) > SHOWN else ""
        log.warning(
            "%s: labels without small whole numbers are no attributes: %s", folder, ", ".join(unused[:SHOWN]) + more
        )
    gaps = [f"{name} {samples - told.known[name]:,}" for name in names if told.known[name] < samples]
    if gaps:
        shown = ", ".join(gaps[:SHOWN])
        log.warning("%s: of %s samples some lack a label, and keep the others: %s", folder, f"{samples:,}", shown)
    if not names:
        return (), ()
    if attributes == fields.names:
        return attributes, tuple(group.labels for group in groups if group.labels)
    written = [
        write_group_labels(reading, number, scans_of(reading, number) or [], attributes)
        for number in range(len(groups))
    ]
    return attributes, tuple(table for table in written if table)


def _refuse_empty(reading: Reading) -> None:
    files = (rejects_path(reading, number) for number in range(len(reading.groups)))
    first = next((reject for file in files for reject in json_lines(file)), None)
    said = f"{first['key']}: {first['reason']} ({first['detail']})" if first else "no sample"
    folder, tars = reading.tars.folder, len(reading.names)
    raise ShardError(f"{folder}: not one usable picture in {tars:,} tars; first {said}")


def _one_size(sizes: Sizes, folder: Path) -> tuple[int, int]:
    if len(sizes) == 1:
        return next(iter(sizes))
    common = ", ".join(f"{count:,} of {height}x{width}" for (height, width), count in sizes.most_common(4))
    many = f"{len(sizes)}" if len(sizes) < MOST_SIZES else f"{MOST_SIZES} or more"
    raise ShardError(
        f"{folder}: pictures of {many} sizes (height x width): {common}. A set has one: give --size 64 "
        "(cuts the largest centred square, or --crop, and resizes while reading)"
    )


def _source(found: Found, shards: Shards, folder: Path) -> Source:
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(shard.sha256.encode())
    listed = int(shards.samples.sum()) + found.by_reason.total()
    return Source(folder.resolve().name, "webdataset", listed, digest.hexdigest())


def _write_rejects(reading: Reading, found: Found) -> Rejects:
    target = reading.tars.place / REJECTS
    with whole_file(target) as path, path.open("wb") as stream:
        for number in range(len(reading.groups)):
            with rejects_path(reading, number).open("rb") as some:
                shutil.copyfileobj(some, stream)
    reasons = found.by_reason
    return Rejects(REJECTS, reasons.total(), dict(reasons), sha256_file(target))
