"""Shards by groups: the side table and the summary of each are written once, by the slice that finishes it.

Groups are the same whatever the slices, so a set's files are too; and closing reads a summary a group, no samples.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from facegan.files import whole_file, write_text
from shards.errors import ShardError
from shards.format.columns import Shard, Shards, SideTable, cut
from shards.format.labels import LabelWriter
from shards.format.members import NAME as MEMBERS
from shards.format.members import part_name, read_members, write_member_table
from shards.make.parts import CONTENT_MODULUS, FOLDER, Part, members_path, part_path, read_lines, read_part
from shards.make.plan import Plan

GROUP_SAMPLES = 1 << 20  # of a group, about: a smaller set has one, and one side table


@dataclass(frozen=True)
class Group:
    """What is known of a group whose shards are all written; `shards` are those with samples."""

    shards: Shards
    table: SideTable
    by_reason: dict[str, int]  # pictures that could not be used
    content: int  # the sum of `content_of` its pictures
    members: SideTable | None = None  # where each encoded member lies
    labels: SideTable | None = None  # None in one that an earlier version wrote


def shards_a_group(plan: Plan) -> int:
    """How many shards, in the set's order, make a group."""
    return max(1, GROUP_SAMPLES // int(plan.fixed["shard_size"]))


def count_groups(plan: Plan) -> int:
    """How many groups the set has."""
    return -(-len(plan) // shards_a_group(plan))


def names_of(plan: Plan, number: int) -> list[str]:
    """The shards of a group."""
    size = shards_a_group(plan)
    return [name for name, _, _ in plan.shards_between(number * size, (number + 1) * size)]


def finish_groups(folder: Path, plan: Plan, part: tuple[int, int]) -> None:
    """Write table and summary of the groups that slice I of N has shards in, where all others are written too."""
    for number in _groups_of(plan, part):
        group_of(folder, plan, number)


def forget_shards(folder: Path, plan: Plan, part: tuple[int, int], shards: Container[str]) -> None:
    """Remove what is known of shards that a slice makes again: of the same length, they may hold other bytes."""
    for number in _groups_of(plan, part):
        again = [name for name in names_of(plan, number) if name in shards]
        for name in again:
            part_path(folder, name).unlink(missing_ok=True)
        if again:
            group_path(folder, number).unlink(missing_ok=True)


def _groups_of(plan: Plan, part: tuple[int, int]) -> range:
    """The groups that a slice has shards in."""
    span, size = cut(len(plan), *part), shards_a_group(plan)
    return range(span.start // size, -(-span.stop // size))


def group_of(folder: Path, plan: Plan, number: int) -> Group | None:
    """A group, written now where it was not yet or is of other shards; None where shards of it are missing."""
    path = group_path(folder, number)
    with suppress(FileNotFoundError):
        group = _read(path)
        has_members = plan.form.is_stored or not group.shards or group.members is not None
        has_tables = has_members and group.labels is not None  # an earlier version wrote none: now it is written
        if has_tables and all(size_of(folder / shard.name) == shard.bytes for shard in group.shards):
            return group
    parts = [read_part(folder, name) for name in names_of(plan, number)]
    return _write(path, plan, number, [part for part in parts if part]) if all(parts) else None


def rejects_of(folder: Path, number: int) -> bytes:
    """A line of JSON for each picture of a group that could not be used."""
    return rejects_path(group_path(folder, number)).read_bytes()


def group_path(folder: Path, number: int) -> Path:
    """Where the summary of a group lies until the set is closed."""
    return folder / FOLDER / f"group-{number:05d}.json"


def rejects_path(path: Path) -> Path:
    """Where its rejects lie, beside the summary."""
    return path.with_suffix(".rejects")


def _write(path: Path, plan: Plan, number: int, parts: list[Part]) -> Group:
    """Two slices that end together may both do this: they write the same bytes."""
    folder, single = path.parent.parent, count_groups(plan) == 1
    table = folder / ("samples.jsonl" if single else f"samples-{number:05d}.jsonl")
    digest, size, labels = hashlib.sha256(), 0, LabelWriter(len(plan.attributes))
    with (
        whole_file(table) as samples,
        whole_file(rejects_path(path)) as rejects,
        samples.open("wb") as kept,
        rejects.open("wb") as others,
    ):
        for part in parts:
            mine, left_out = read_lines(folder, part)
            labels.add(mine)
            size += kept.write(mine)
            digest.update(mine)
            others.write(left_out)
    kept_parts = [part for part in parts if part.samples]
    group = Group(
        Shards.of(Shard(part.name, part.split, part.samples, part.bytes, part.sha256) for part in kept_parts),
        SideTable(table.name, size, digest.hexdigest(), sum(part.samples for part in parts)),
        dict(sorted(sum((Counter(part.by_reason) for part in parts), Counter[str]()).items())),
        sum(int(part.content, 16) for part in parts) % CONTENT_MODULUS,
        None if plan.form.is_stored or not kept_parts else _write_members(folder, kept_parts, number, single),
        labels.write(folder / ("labels.npy" if single else f"labels-{number:05d}.npy")),
    )
    write_group(path, group)
    return group


def _write_members(folder: Path, parts: list[Part], number: int, single: bool) -> SideTable:
    path = folder / (MEMBERS if single else part_name(number))
    pieces = [partial(read_members, members_path(folder, part.name), part.samples) for part in parts]
    return write_member_table(path, pieces)


def write_group(path: Path, group: Group) -> None:
    """Write the summary of a group, whose tables are there."""
    rows = [list(asdict(shard).values()) for shard in group.shards]
    table_row, content = asdict(group.table), hex(group.content)
    members, labels = (asdict(table) if table else None for table in (group.members, group.labels))
    known = {"by_reason": group.by_reason, "content": content}
    summary = {"shards": rows, "table": table_row, "members": members, "labels": labels, **known}
    write_text(path, json.dumps(summary) + "\n")


def _read(path: Path) -> Group:
    text = path.read_text(encoding="utf-8")
    try:
        summary = json.loads(text)
        return Group(
            Shards.of(Shard(*row) for row in summary["shards"]),
            SideTable(**summary["table"]),
            summary["by_reason"],
            int(summary["content"], 16),
            *(SideTable(**summary[name]) if summary.get(name) else None for name in ("members", "labels")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: damaged ({error}): remove it, then run again") from None


def size_of(file: Path) -> int | None:
    """The bytes of a file; None where there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None
