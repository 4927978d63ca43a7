"""Closing a set: when every shard is there, the rejects and, last, the index. Nothing is read a sample."""

import shutil
from collections import Counter
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from facegan.errors import FaceganError
from facegan.files import remove_stale_of, sha256_file, whole_file
from shards.errors import ShardError
from shards.format.columns import Shards, cut
from shards.format.index import NAME, Encoding, Record, Rejects, ShardIndex, Source, Split, Transform, load_index
from shards.format.transform import SMALLER
from shards.make.catalogue import remove_catalogues
from shards.make.claims import Slice, forget, refuse_live
from shards.make.groups import Group, count_groups, group_of, names_of, rejects_of, size_of
from shards.make.parts import CONTENT_MODULUS, FOLDER, read_part
from shards.make.plan import MAX_REJECTS, PLAN, Plan, read_plan
from shards.make.survey import refuse_changed

REJECTS = "rejects.jsonl"


def sets_begun(out: Path) -> list[Path]:
    """The folders of sets that preprocess began in OUT (OUT/64, ...), or OUT itself if it is one."""
    return [out] if (out / PLAN).exists() else sorted(plan.parent for plan in out.glob(f"*/{PLAN}"))


def close_set(out: Path) -> dict[Path, ShardIndex]:
    """Close every size of a set made in slices: side table, rejects, and the index last.

    out: OUT or OUT/64. Closing again changes nothing. Raises ShardError where a slice is missing, naming it
    and its shards, where the source has other pictures by now, where too many pictures were rejected, or where no
    set was begun.
    """
    folders = sets_begun(out)
    if not folders:
        raise ShardError(f"{out}: no set was begun here by `facegan preprocess` (no {PLAN})")
    refuse_live(_out_of(out))
    indices = {folder: close_folder(folder) for folder in folders}
    remove_made_once(out)
    forget(_out_of(out))
    return indices


def clean_closed(out: Path) -> None:
    """Remove what a killed closer, or a slice of sets that are closed, left; unless somebody is at work."""
    with suppress(FaceganError, OSError):  # somebody is, another size is damaged, or OUT cannot be written
        refuse_live(out)
        folders = sets_begun(out)
        left = any(out.glob(".*")) or any((folder / FOLDER).exists() for folder in folders)
        if not left or not all(map(whole_index, folders)):
            return
        for folder in folders:
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
        remove_made_once(out)
        forget(out)


def close_folder(folder: Path) -> ShardIndex:
    """Close the set of one size; its index, the old one where it is closed and whole already."""
    finished, plan = whole_index(folder), read_plan(folder)
    if finished is None and plan is not None:
        groups = _groups(folder, plan)
        refuse_changed(_out_of(folder), folder, plan)
        _refuse_rejects(folder, plan, groups)
        finished = _index(folder, plan, groups)
        finished.write(folder)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    if finished is None:
        raise ShardError(f"{folder}: no set was begun here by `facegan preprocess` (no {PLAN})")
    return finished


def whole_index(folder: Path, part: Slice = (0, 1)) -> ShardIndex | None:
    """The index of a whole set: all shards there, of their sizes; or a slice's own, as others look at the rest."""
    if not (folder / NAME).exists():
        return None
    index, plan = load_index(folder), read_plan(folder)
    is_plans = plan is not None and len(plan) == len(index.shards)  # else some are of rejects alone: look at all
    mine = index.shards[cut(len(index.shards), *part)] if is_plans else index.shards
    whole = all(size_of(folder / shard.name) == shard.bytes for shard in mine)
    return index if whole else None


def _groups(folder: Path, plan: Plan) -> list[Group]:
    """All groups of the set; ShardError where shards are missing, or a picture is neither a sample nor a reject."""
    groups = [group_of(folder, plan, number) for number in range(count_groups(plan))]
    missing = [
        name
        for number, group in enumerate(groups)
        for name in (names_of(plan, number) if group is None else ())
        if read_part(folder, name) is None
    ]
    if missing:
        slices = sorted({plan.slice_of(name) for name in missing})
        named = ", ".join(f"--slice {i}/{plan.slices}" for i in slices)
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ShardError(
            f"{folder}: {len(missing)} of {len(plan)} shards are missing ({shown}): "
            f"run `facegan preprocess` again with {named}, then close the set"
        )
    whole = [group for group in groups if group is not None]
    pictures = sum(group.table.samples + sum(group.by_reason.values()) for group in whole)
    if len(whole) < len(groups) or pictures != plan.fixed["pictures"]:
        listed = f"{plan.fixed['pictures']:,}"
        raise ShardError(f"{folder}: {pictures:,} pictures in the records of {listed}: remove {folder}, run again")
    return whole


def _refuse_rejects(folder: Path, plan: Plan, groups: list[Group]) -> None:
    reasons, pictures = _by_reason(groups), plan.fixed["pictures"]
    rejects = sum(reasons.values())
    limit = MAX_REJECTS.fullmatch(plan.max_rejects)
    if limit is None:
        raise ShardError(f"{folder / PLAN}: max_rejects is {plan.max_rejects!r}: run `facegan preprocess` again")
    allowed = int(limit["count"]) if limit["count"] else float(limit["percent"]) / 100 * pictures
    if rejects > allowed or rejects == pictures:
        _write_rejects(folder, groups)
        named = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
        raise ShardError(
            f"{folder}: {rejects:,} of {pictures:,} pictures were rejected ({named}), allowed are "
            f"{plan.max_rejects}. Each is named in {folder / REJECTS}. {_advice(folder, reasons, plan)}"
        )


def _advice(folder: Path, reasons: dict[str, int], plan: Plan) -> str:
    if max(reasons, key=lambda reason: reasons[reason]) != SMALLER:
        return "Mend the source and start with a new OUT, or run the same command again with a higher --max-rejects"
    first = f"remove what was made of the larger ones (rm -r {folder}), then " if any(folder.glob("*.tar")) else ""
    return (
        f"Most are smaller than the crop of {plan.fixed['crop']} pixels: {first}run again with --crop none, which "
        "takes whole pictures, or with a smaller crop"
    )


def _index(folder: Path, plan: Plan, groups: list[Group]) -> ShardIndex:
    """Write the rejects; the index of the whole set."""
    shards = Shards.joined([group.shards for group in groups])
    tables = tuple(group.table for group in groups)
    members = tuple(group.members for group in groups if group.members)
    labels = tuple(group.labels for group in groups if group.labels)
    remove_stale_of(folder, [REJECTS, *(table.name for table in (*tables, *members, *labels))])
    geometry = plan.geometry
    content = sum(group.content for group in groups) % CONTENT_MODULUS
    form = plan.form
    return ShardIndex(
        members="stored-png" if form.is_stored else form.members,
        height=geometry.height,
        width=geometry.width,
        channels=geometry.channels,
        splits={split: Split(*counts) for split, counts in shards.counts().items()},
        shards=shards,
        source=Source(plan.source["name"], plan.source["kind"], plan.fixed["pictures"], f"{content:064x}"),
        shard_size=plan.fixed["shard_size"],
        record=Record(geometry.stride, geometry.pixels, geometry.row, geometry.json) if form.is_stored else None,
        transform=Transform(plan.fixed["crop"], plan.fixed["filter"]),
        attributes=tuple(plan.attributes),
        table=tables[0].as_whole if len(tables) == 1 else None,
        tables=tables if len(tables) > 1 else (),
        encoding=Encoding(form.quality, members[0].as_whole if len(tables) == 1 else None)
        if form.quality
        else None,
        member_tables=members if len(tables) > 1 else (),
        labels=labels,
        rejects=_write_rejects(folder, groups),
        software={name: _version(name) for name in ("facegan", "torch", "pillow", "simplejpeg")} | form.codec(),
    )


def _by_reason(groups: list[Group]) -> dict[str, int]:
    return dict(sorted(sum((Counter(group.by_reason) for group in groups), Counter[str]()).items()))


def _write_rejects(folder: Path, groups: list[Group]) -> Rejects:
    with whole_file(folder / REJECTS) as path, path.open("wb") as stream:
        for number in range(len(groups)):
            stream.write(rejects_of(folder, number))
    reasons = _by_reason(groups)
    return Rejects(REJECTS, sum(reasons.values()), reasons, sha256_file(folder / REJECTS))


def _out_of(folder: Path) -> Path:
    """OUT, given it or the folder of one of its sets."""
    return folder.absolute().parent if (folder / PLAN).exists() else folder


def remove_made_once(out: Path) -> None:
    """Remove what all slices read: the listing, and the plain tar that a packed one was read from."""
    remove_catalogues(_out_of(out))
    for file in (*_out_of(out).glob(".source-*.tar*"), *_out_of(out).glob(".source-*.urls*")):
        file.unlink(missing_ok=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
