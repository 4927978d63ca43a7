"""Anybody's tars by groups: the tables of each are written once, by the slice that reads its last tar.

Groups are the same whatever the slices; closing the set reads a summary a group, nothing that grows with samples.
"""

import json
import re
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facegan.files import whole_file, write_text
from shards.format.columns import Shard, Shards, SideTable
from shards.format.labels import Blocks, write_labels
from shards.format.members import NAME as MEMBERS
from shards.format.members import part_name, write_member_table
from shards.make.fields import NO_IDENTITY
from shards.make.reading import Reading
from shards.make.scans import Found, Scan

FILES = re.compile(r"members(-\d{5,})?(\.labels\.npy|\.bin)")


@dataclass(frozen=True)
class TarGroup:
    """What is known of a group of tars that are all read; the tables are None where no sample is."""

    shards: Shards
    members: SideTable | None
    labels: SideTable | None
    found: Found


def group_of(reading: Reading, number: int) -> TarGroup | None:
    """A group, its tables written now where they were not yet; None where tars of it are not read."""
    digest, path = reading.digest(reading.groups[number]), _summary(reading, number)
    with suppress(FileNotFoundError, KeyError, TypeError, ValueError):
        group, stated = _parse(path.read_text(encoding="utf-8"))
        tables = [table for table in (group.members, group.labels) if table]
        if stated == digest and all(
            (reading.tars.place / each.name).stat().st_size == each.bytes for each in tables
        ):
            return group
    scans = scans_of(reading, number)
    return _write(reading, number, scans, digest) if scans is not None else None


def scans_of(reading: Reading, number: int) -> list[Scan] | None:
    """What was read of each tar of a group; None where some are not read."""
    scans = [reading.kept(tar) for tar in reading.groups[number]]
    whole = [scan for scan in scans if scan is not None]
    return whole if len(whole) == len(scans) else None


def rejects_path(reading: Reading, number: int) -> Path:
    """A line of JSON for each sample of a group that cannot be used."""
    return _summary(reading, number).with_suffix(".rejects")


def write_group_labels(
    reading: Reading, number: int, scans: Sequence[Scan], attributes: Sequence[str]
) -> SideTable | None:
    """Write the labels of a group, these attributes alone; None where nothing is read or no sample is there."""
    whole = [scan for scan in scans if scan.shard.samples]
    if not whole or not reading.fields.kind.names:
        return None
    columns = [reading.fields.names.index(name) for name in attributes]
    codes: dict[Hashable, int] = {None: -1}

    def blocks() -> Blocks:
        for scan in whole:
            rows = scan.labels(reading.fields)
            yield rows["values"][:, columns], _numbered(rows["identity"], codes)

    path = _table(reading, number).with_suffix(".labels.npy")
    return write_labels(path, len(columns), codes, blocks)


def remove_others(place: Path, names: set[str]) -> None:
    """Remove the tables of an earlier index of other groups."""
    for file in place.glob("members*"):
        if FILES.fullmatch(file.name) and file.name not in names:
            file.unlink(missing_ok=True)


def _summary(reading: Reading, number: int) -> Path:
    return reading.tars.records / f"group-{number:05d}.json"


def _table(reading: Reading, number: int) -> Path:
    return reading.tars.place / (MEMBERS if len(reading.groups) == 1 else part_name(number))


def _write(reading: Reading, number: int, scans: list[Scan], digest: str) -> TarGroup:
    """Two slices that end together may both do this: they write the same bytes."""
    with whole_file(rejects_path(reading, number)) as part, part.open("wb") as stream:
        for scan in scans:
            stream.write(scan.rejects())
    found = Found()
    for scan in scans:
        found.add(scan.found)
    pieces = [scan.members for scan in scans if scan.shard.samples]
    group = TarGroup(
        Shards.of(scan.shard for scan in scans),
        write_member_table(_table(reading, number), pieces) if pieces else None,
        write_group_labels(reading, number, scans, reading.fields.names),
        found,
    )
    summary = {
        "digest": digest,
        "shards": [list(asdict(shard).values()) for shard in group.shards],
        **{name: asdict(table) if table else None for name, table in _tables(group).items()},
        **found.to_json(),
    }
    write_text(_summary(reading, number), json.dumps(summary) + "\n")
    return group


def _tables(group: TarGroup) -> dict[str, SideTable | None]:
    return {"members": group.members, "labels": group.labels}


def _parse(text: str) -> tuple[TarGroup, str]:
    """A group, and what it depends on."""
    summary = json.loads(text)
    tables = [SideTable(**summary[name]) if summary[name] else None for name in ("members", "labels")]
    shards = Shards.of(Shard(*row) for row in summary["shards"])
    return TarGroup(shards, tables[0], tables[1], Found.from_json(summary)), summary["digest"]


def _numbered(identities: NDArray[np.int64], codes: dict[Hashable, int]) -> NDArray[np.int32]:
    """Numbers of identities, in the order of the first sample of each; `codes` are those so far, and grow."""
    found, first, which = np.unique(identities, return_index=True, return_inverse=True)
    numbers = np.empty(len(found), np.int32)
    for each in np.argsort(first).tolist():
        identity = int(found[each])
        numbers[each] = -1 if identity == NO_IDENTITY else codes.setdefault(identity, len(codes) - 1)
    return numbers[which]
