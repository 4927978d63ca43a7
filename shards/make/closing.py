"""Closing a set: when every shard is there, the side table, the rejects and, last, the index."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from facegan.files import remove_stale, sha256_file, whole_file
from shards.errors import ShardError
from shards.format.columns import Shard, Shards, Table
from shards.format.index import NAME, Encoding, Record, Rejects, ShardIndex, Source, Split, Transform, load_index
from shards.format.members import NAME as MEMBERS
from shards.format.members import Form, join_members
from shards.format.transform import SMALLER
from shards.make.catalogue import remove_catalogues
from shards.make.claims import forget, refuse_live
from shards.make.parts import CONTENT_MODULUS, FOLDER, Part, members_path, read_part, reject_lines, sample_lines
from shards.make.plan import MAX_REJECTS, PLAN, Plan, read_plan

TABLE, REJECTS = "samples.jsonl", "rejects.jsonl"


def sets_begun(out: Path) -> list[Path]:
    """The folders of sets that preprocess began in OUT (OUT/64, ...), or OUT itself if it is one."""
    return [out] if (out / PLAN).exists() else sorted(plan.parent for plan in out.glob(f"*/{PLAN}"))


def close_set(out: Path) -> dict[Path, ShardIndex]:
    """Close every size of a set made in slices: side table, rejects, and the index last.

    out: OUT or OUT/64. Closing again changes nothing. Raises ShardError where a slice is missing, naming it
    and its shards, where too many pictures were rejected, or where no set was begun.
    """
    folders = sets_begun(out)
    if not folders:
        raise ShardError(f"{out}: no set was begun here by `facegan preprocess` (no {PLAN})")
    refuse_live(_out_of(out))
    indices = {folder: close_folder(folder) for folder in folders}
    remove_made_once(out)
    forget(_out_of(out))
    return indices


def close_folder(folder: Path) -> ShardIndex:
    """Close the set of one size; its index, the old one where it is closed and whole already."""
    finished, plan = whole_index(folder), read_plan(folder)
    if finished is None and plan is not None:
        _refuse_missing(folder, plan)
        parts = [part for name, _, _ in plan.shards if (part := read_part(folder, name)) is not None]
        _refuse_lost(folder, plan, parts)
        _refuse_rejects(folder, plan, parts)
        finished = _index(folder, plan, parts)
        finished.write(folder)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    if finished is None:
        raise ShardError(f"{folder}: no set was begun here by `facegan preprocess` (no {PLAN})")
    return finished


def whole_index(folder: Path) -> ShardIndex | None:
    """The index of a whole set: all shards there, of their sizes."""
    if not (folder / NAME).exists():
        return None
    index = load_index(folder)
    whole = all(_size(folder / shard.name) == shard.bytes for shard in index.shards)
    return index if whole else None


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.exists() else None


def missing_shards(folder: Path, plan: Plan) -> list[str]:
    """Shards that are not written yet; none where the set is closed."""
    if whole_index(folder) is not None:
        return []
    return [name for name, _, _ in plan.shards if read_part(folder, name) is None]


def _refuse_missing(folder: Path, plan: Plan) -> None:
    missing = missing_shards(folder, plan)
    if missing:
        slices = sorted({plan.slice_of(name) for name in missing})
        named = ", ".join(f"--slice {i}/{plan.slices}" for i in slices)
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ShardError(
            f"{folder}: {len(missing)} of {len(plan)} shards are missing ({shown}): "
            f"run `facegan preprocess` again with {named}, then close the set"
        )


def _refuse_lost(folder: Path, plan: Plan, parts: list[Part]) -> None:
    """Every picture of the listing is a sample or a reject."""
    found, pictures = sum(part.samples + part.rejects for part in parts), plan.fixed["pictures"]
    if found != pictures:
        raise ShardError(f"{folder}: {found:,} pictures in the records of {pictures:,}: remove {folder}, run again")


def _refuse_rejects(folder: Path, plan: Plan, parts: list[Part]) -> None:
    rejects, pictures = sum(part.rejects for part in parts), plan.fixed["pictures"]
    limit = MAX_REJECTS.fullmatch(plan.max_rejects)
    if limit is None:
        raise ShardError(f"{folder / PLAN}: max_rejects is {plan.max_rejects!r}: run `facegan preprocess` again")
    allowed = int(limit["count"]) if limit["count"] else float(limit["percent"]) / 100 * pictures
    if rejects > allowed or rejects == pictures:
        _write_lines(folder, REJECTS, reject_lines, parts)
        reasons = ", ".join(f"{reason} {count}" for reason, count in _by_reason(parts).items())
        raise ShardError(
            f"{folder}: {rejects:,} of {pictures:,} pictures were rejected ({reasons}), allowed are "
            f"{plan.max_rejects}. Each is named in {folder / REJECTS}. {_advice(folder, parts, plan)}"
        )


def _advice(folder: Path, parts: list[Part], plan: Plan) -> str:
    reasons = _by_reason(parts)
    if max(reasons, key=lambda reason: reasons[reason]) != SMALLER:
        return "Mend the source and start with a new OUT, or run the same command again with a higher --max-rejects"
    first = f"remove what was made of the larger ones (rm -r {folder}), then " if any(folder.glob("*.tar")) else ""
    return (
        f"Most are smaller than the crop of {plan.fixed['crop']} pixels: {first}run again with --crop none, which "
        "takes whole pictures, or with a smaller crop"
    )


def _index(folder: Path, plan: Plan, parts: list[Part]) -> ShardIndex:
    """Write side table and rejects; the index of the whole set."""
    kept = [part for part in parts if part.samples]
    shards = tuple(Shard(part.name, part.split, part.samples, part.bytes, part.sha256) for part in kept)
    table = Table(TABLE, *_write_lines(folder, TABLE, sample_lines, kept))
    _, rejects_sha256 = _write_lines(folder, REJECTS, reject_lines, parts)
    geometry = plan.geometry
    content = sum(int(part.content, 16) for part in parts) % CONTENT_MODULUS
    form = plan.form
    return ShardIndex(
        members="stored-png" if form.is_stored else form.members,
        height=geometry.height,
        width=geometry.width,
        channels=geometry.channels,
        splits=_splits(shards),
        shards=Shards.of(shards),
        source=Source(plan.source["name"], plan.source["kind"], plan.fixed["pictures"], f"{content:064x}"),
        shard_size=plan.fixed["shard_size"],
        record=Record(geometry.stride, geometry.pixels, geometry.row, geometry.json) if form.is_stored else None,
        transform=Transform(plan.fixed["crop"], plan.fixed["filter"]),
        attributes=tuple(plan.attributes),
        table=table,
        encoding=_encoding(folder, form, kept),
        rejects=Rejects(REJECTS, sum(part.rejects for part in parts), _by_reason(parts), rejects_sha256),
        software={name: _version(name) for name in ("facegan", "torch", "pillow", "simplejpeg")} | form.codec(),
    )


def _encoding(folder: Path, form: Form, kept: list[Part]) -> Encoding | None:
    """Write the table of encoded members; None where they are stored."""
    if form.quality is None:
        return None
    with whole_file(folder / MEMBERS) as path:
        join_members(path, [(members_path(folder, part.name), part.samples) for part in kept])
    table = Table(MEMBERS, (folder / MEMBERS).stat().st_size, sha256_file(folder / MEMBERS))
    return Encoding(form.quality, table)


def _splits(shards: tuple[Shard, ...]) -> dict[str, Split]:
    samples: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for shard in shards:
        samples[shard.split] += shard.samples
        files[shard.split] += 1
    return {split: Split(samples[split], files[split]) for split in samples}


def _by_reason(parts: list[Part]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part.by_reason)
    return dict(sorted(total.items()))


def _write_lines(
    folder: Path, name: str, lines: Callable[[Path, Part], list[bytes]], parts: list[Part]
) -> tuple[int, str]:
    """Write a file of what `lines` finds in each part; returns its length in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    remove_stale(folder / name)
    with whole_file(folder / name) as path, path.open("wb") as stream:
        for part in parts:
            data = b"".join(lines(folder, part))
            stream.write(data)
            digest.update(data)
            size += len(data)
    return size, digest.hexdigest()


def _out_of(folder: Path) -> Path:
    """OUT, given it or the folder of one of its sets."""
    return folder.absolute().parent if (folder / PLAN).exists() else folder


def remove_made_once(out: Path) -> None:
    """Remove what all slices read: the listing, and the plain tar that a packed one was read from."""
    remove_catalogues(_out_of(out))
    for file in _out_of(out).glob(".source-*.tar*"):
        file.unlink(missing_ok=True)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
