"""Indexes anybody's WebDataset tars once, so that their samples can be read by number.

A record of each tar is kept until the set is whole, so the work can be cut into slices, and goes on where it ended.
"""

import hashlib
import json
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate, groupby
from pathlib import Path

from facegan.cores import usual_threads
from facegan.files import sha256_file, write_text
from shards.errors import ShardError
from shards.format.columns import Shard, Shards, SideTable, cut
from shards.format.index import NAME, Rejects, ShardIndex, Source, Split, Transform, load_index
from shards.format.mapping import Bytes, map_file
from shards.format.members import MAX_KEY_BYTES, Row, part_name, write_member_table
from shards.format.members import NAME as MEMBERS
from shards.format.tar import Member, members
from shards.format.transform import EXTENSIONS, FILTER, MAX_PICTURE_BYTES, PictureError, decode, parse_crop
from shards.make.claims import claimed, forget
from shards.make.groups import GROUP_SAMPLES
from shards.make.scans import Scan, keep_scan, kept_scan
from shards.read.encoded import SQUARE, fit

REJECTS = "rejects.jsonl"
RECORDS = ".index"  # beside the tars until all are read
NAME_AND_EXTENSION = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", re.DOTALL)  # webdataset's rule
SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("val", "valid", "validation"), "val")
SPLITS |= dict.fromkeys(("test", "testing"), "test")
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
    def paths(self) -> list[Path]:
        """The tars by name; not the shadow files ._x.tar that macOS leaves beside them."""
        return sorted(path for path in self.folder.glob("*.tar") if not path.name.startswith("."))

    @cached_property
    def transform(self) -> Transform:
        """What is done to a picture when it is read; ShardError for a crop that cannot be."""
        if self.size is None and self.crop is not None:
            raise ShardError("--crop needs --size: what is cut out has to be brought to one size")
        if self.crop is not None:
            parse_crop(self.crop)
        return Transform("none", "none") if self.size is None else Transform(self.crop or SQUARE, FILTER)


def index_tars(tars: ForeignTars, progress: Progress = lambda count: None) -> ShardIndex:
    """Index all tars of a folder: decodes every picture once, then writes a member table and `index.json`.

    Samples that cannot be used are left out and listed in `rejects.jsonl`. A word in a tar's name says its split
    (train, val or test; without one it is train). Raises ShardError where a tar is damaged (a damaged header would
    hide samples), where sizes differ, where nothing is left, or where the index could not be written.
    """
    with _owned(tars, (0, 1)):
        scans = _read_part(tars, (0, 1), progress)
        _refuse_empty(scans, tars.folder)
        index = _index(tars, scans)
        if tars.place != tars.folder:
            _link(tars.paths, tars.place)
        index.write(tars.place)
        shutil.rmtree(tars.records, ignore_errors=True)
    forget(tars.place)
    return index


def read_tars(tars: ForeignTars, part: tuple[int, int], progress: Progress = lambda count: None) -> list[Scan]:
    """Read part (i, n), from 0, of the tars of a folder, for `index_tars`. What was read so before is not again.

    Raises FaceganError where another process is at work on some of them.
    """
    with _owned(tars, part):
        return _read_part(tars, part, progress)


@contextmanager
def _owned(tars: ForeignTars, part: tuple[int, int]) -> Iterator[None]:
    """Own a part of the tars; ShardError where there are none, or no index can be written."""
    if not tars.paths:
        raise ShardError(f"{tars.folder}: no *.tar in it to index")
    _refuse_read_only(tars.place)
    with claimed(tars.place, part):
        yield


def _read_part(tars: ForeignTars, part: tuple[int, int], progress: Progress) -> list[Scan]:
    paths = tars.paths
    with ThreadPoolExecutor(usual_threads(), thread_name_prefix="index") as pool:
        return list(pool.map(partial(_scanned, tars, progress), paths[cut(len(paths), *part)]))


def known_index(tars: ForeignTars) -> ShardIndex | None:
    """The index that the tars have already; ShardError where it is not of the tars that lie there."""
    path = tars.place / NAME
    if not path.exists():
        return None
    index = load_index(path.parent)
    if {tar.name: tar.stat().st_size for tar in tars.paths} != {each.name: each.bytes for each in index.shards}:
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


def _link(tars: list[Path], place: Path) -> None:
    """Put links to the tars beside their index, so that the folder is a set like any other."""
    for tar in tars:
        link = place / tar.name
        if link.exists() and not link.is_symlink():
            raise ShardError(f"{link}: a file of that name is there already: choose another folder for the index")
        link.unlink(missing_ok=True)
        link.symlink_to(tar.resolve())


def _index(tars: ForeignTars, scans: list[Scan]) -> ShardIndex:
    """Write member table and rejects; the index of the whole set."""
    height, width = (tars.size, tars.size) if tars.size else _one_size(scans, tars.folder)
    tables = _write_tables(scans, tars.place)
    return ShardIndex(
        members="encoded",
        height=height,
        width=width,
        channels=tars.channels,
        splits=_splits(scans),
        shards=Shards.of(each.shard for each in scans),
        source=_source(scans, tars.folder),
        shard_size=max(each.shard.samples for each in scans),
        transform=tars.transform,
        table=tables[0].as_whole if len(tables) == 1 else None,
        member_tables=tables if len(tables) > 1 else (),
        rejects=_write_rejects(scans, tars.place),
    )


def _scanned(tars: ForeignTars, progress: Progress, path: Path) -> Scan:
    """What a tar holds: from its record, where it was read before and has not changed, else by reading it."""
    facts = path.stat()
    conditions = [facts.st_size, facts.st_mtime_ns, tars.size, tars.transform.crop, tars.channels]
    kept = kept_scan(tars.records, path.name, conditions)
    if kept is not None:
        return kept
    scan, rows = _scan(tars, progress, path)
    keep_scan(tars.records, scan, rows, conditions)
    return scan


def _scan(tars: ForeignTars, progress: Progress, path: Path) -> tuple[Scan, list[Row]]:
    rows, data = list[Row](), map_file(path)
    shard = Shard(path.name, _split(path.name), 0, path.stat().st_size, "")
    scan = Scan(shard, tars.records / f"{path.name}.rows")
    for key, group in _samples(members(path)):
        try:
            row, image = _read(data, key, group, tars.channels)
            if tars.size:
                image = fit(image, tars.transform, (tars.size, tars.size, tars.channels))
        except PictureError as error:
            scan.rejects.append({"shard": path.name, "key": key, "reason": error.reason, "detail": error.detail})
            continue
        rows.append(row)
        scan.sizes[image.shape[0], image.shape[1]] += 1
        progress(1)
    scan.shard = replace(shard, samples=len(rows), sha256=sha256_file(path))
    return scan, rows


def _samples(entries: Iterator[Member]) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Samples as webdataset makes them: neighbours whose names agree up to the first dot of the file name."""
    matched = ((NAME_AND_EXTENSION.fullmatch(entry.name), entry) for entry in entries)
    named = ((match[1], match[2].lower(), entry) for match, entry in matched if match)
    for key, group in groupby(named, key=lambda each: each[0]):
        yield key, [(extension, entry) for _, extension, entry in group]


def _read(data: Bytes, key: str, group: list[tuple[str, Member]], channels: int) -> tuple[Row, Bytes]:
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


def _split(name: str) -> str:
    """The split that the last of the words train, val and test in a tar's name says; train without one."""
    words = [SPLITS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLITS]
    return words[-1] if words else "train"


def _refuse_empty(scans: list[Scan], folder: Path) -> None:
    if not any(scan.shard.samples for scan in scans):
        rejects = [f"{each['key']}: {each['reason']} ({each['detail']})" for scan in scans for each in scan.rejects]
        raise ShardError(
            f"{folder}: not one usable picture in {len(scans)} tars; first {rejects[:1] or 'no sample'}"
        )


def _one_size(scans: list[Scan], folder: Path) -> tuple[int, int]:
    sizes = sum((scan.sizes for scan in scans), Counter[tuple[int, int]]())
    if len(sizes) == 1:
        return next(iter(sizes))
    common = ", ".join(f"{count:,} of {height}x{width}" for (height, width), count in sizes.most_common(4))
    raise ShardError(
        f"{folder}: pictures of {len(sizes)} sizes (height x width): {common}. A set has one: give --size 64 "
        "(cuts the largest centred square, or --crop, and resizes while reading)"
    )


def _splits(scans: list[Scan]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for scan in scans:
        before = splits.get(scan.shard.split, Split(0, 0))
        splits[scan.shard.split] = Split(before.samples + scan.shard.samples, before.shards + 1)
    return splits


def _source(scans: list[Scan], folder: Path) -> Source:
    digest = hashlib.sha256("".join(scan.shard.sha256 for scan in scans).encode()).hexdigest()
    listed = sum(scan.shard.samples + len(scan.rejects) for scan in scans)
    return Source(folder.resolve().name, "webdataset", listed, digest)


def _write_tables(scans: list[Scan], folder: Path) -> tuple[SideTable, ...]:
    """The member table, in parts of some GROUP_SAMPLES, that readers take one by one."""
    ends = accumulate(scan.shard.samples for scan in scans)
    numbered = zip(scans, (end // GROUP_SAMPLES for end in ends), strict=True)
    parts = [[scan for scan, _ in group] for _, group in groupby(numbered, key=lambda each: each[1])]
    parts = [part for part in parts if any(scan.shard.samples for scan in part)]
    names = [MEMBERS] if len(parts) == 1 else [part_name(number) for number in range(len(parts))]
    return tuple(
        write_member_table(folder / name, [(scan.rows, scan.shard.samples) for scan in part])
        for name, part in zip(names, parts, strict=True)
    )


def _write_rejects(scans: list[Scan], folder: Path) -> Rejects:
    rejects = [reject for scan in scans for reject in scan.rejects]
    write_text(folder / REJECTS, "".join(json.dumps(reject) + "\n" for reject in rejects))
    reasons = Counter(reject["reason"] for reject in rejects)
    return Rejects(REJECTS, len(rejects), dict(reasons), sha256_file(folder / REJECTS))
