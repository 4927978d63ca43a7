"""A source listed once and kept in OUT until the set is closed: its pictures as NumPy rows that every slice maps.

The rows stand in the set's order (split, then name), in blocks with a hash each, so that a slice reads and checks
those of its own shards and nothing else. Nothing is pickled.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facegan.errors import FaceganError
from facegan.files import append_json_line, json_lines, sha256_file, whole_file, write_json
from shards.errors import ShardError
from shards.format.labels import UNKNOWN
from shards.make.address import Where, full_name, parse_where
from shards.make.annotations import SPLITS, Annotations
from shards.make.folders import Block, above, all_folders, have_changed, some_folders, write_folders
from shards.make.listing import PLACE, Listing, State, folder_of, state_of, stem
from shards.make.sorting import name_bytes

CATALOGUE = ".listing-"  # how its names begin
JOURNAL = "blocks.jsonl"  # what the blocks are of, then a line for each that is whole
BLOCK_ROWS, BLOCK_BYTES = 1 << 18, 64 << 20  # of a block: whichever is less
NUMBERS, FOLDERS = "numbers", "folders"  # what identities are
Rows = NDArray[np.void]
Identities = Sequence[int | str | None] | None


def row_type(name_bytes: int, attributes: int) -> "np.dtype[np.void]":
    """A picture's row: name, place in its archive, number among all by name, identity, attributes."""
    values = [("values", "<i2", (attributes,))] if attributes else []
    return np.dtype([("name", f"S{name_bytes}"), ("place", PLACE), ("number", "<i8"), ("identity", "<i8"), *values])


@dataclass(frozen=True)
class Catalogue:
    """What is known of a source as a whole; the rows of its n pictures lie in `folder`."""

    kind: str  # of the listing
    path: str  # what a reader opens; of an address only to be shown
    counts: dict[str, int]  # pictures by split, in the set's order
    listing: str  # fingerprints
    annotations: str
    plain_stems: bool
    member_bytes: int  # of the longest attribute member
    names: list[str]  # of the attributes
    identities: str | None
    notes: list[str]
    left_out: dict[str, int]
    seen: dict[str, State] = field(default_factory=dict)  # files that are to be as they were for it to hold
    blocks: list[tuple[int, str]] = field(default_factory=list)  # rows, SHA-256
    folders: list[Block] = field(default_factory=list)  # that are to be as they were, too
    state: tuple[int, str] | None = None  # of the address to read from; None for a path

    def __len__(self) -> int:
        return sum(self.counts.values())

    def first_of(self, split: str) -> int:
        """The row at which a split begins."""
        splits = list(self.counts)
        return sum(self.counts[name] for name in splits[: splits.index(split)])


def write_catalogue(target: Path, listing: Listing, annotations: Annotations) -> None:
    """Write the blocks, then `target`, which names them: where it is, all is there. Killed, it goes on."""
    folder = target.with_suffix("")
    of = {"listing": listing.fingerprint, "annotations": annotations.fingerprint}
    blocks = _kept_blocks(folder, of)
    for number, rows in enumerate(_rows(listing, annotations, [count for count, _ in blocks]), len(blocks)):
        blocks.append(_write_block(folder / f"{number:05d}.npy", rows))
        append_json_line(folder / JOURNAL, {"rows": blocks[-1][0], "sha256": blocks[-1][1]})
    pictures = [int(np.count_nonzero(annotations.splits == number)) for number in range(len(SPLITS))]
    texts = annotations.identities is not None and any(isinstance(each, str) for each in annotations.identities)
    where = listing.path
    whole = Catalogue(
        kind=listing.kind,
        path=full_name(where),
        counts={split: count for split, count in zip(SPLITS, pictures, strict=True) if count},
        **of,
        plain_stems=listing.has_plain_stems,
        member_bytes=annotations.member_bytes,
        names=list(annotations.names),
        identities=None if annotations.identities is None else FOLDERS if texts else NUMBERS,
        notes=annotations.notes,
        left_out=dict(listing.left_out),
        seen=listing.seen,
        blocks=blocks,
        folders=write_folders(folder, *listing.folders),
        state=None if isinstance(where, Path) else where.state,
    )
    write_json(target, asdict(whole))


def _kept_blocks(folder: Path, of: dict[str, str]) -> list[tuple[int, str]]:
    """The blocks that a killed process wrote of the same pictures; where one is not whole, they are begun anew."""
    with suppress(FaceganError, TypeError, KeyError):
        first, *known = [*json_lines(folder / JOURNAL)] or [{}]
        blocks = [(int(each["rows"]), str(each["sha256"])) for each in known]
        paths = [folder / f"{number:05d}.npy" for number in range(len(blocks))]
        if first == of and all(
            path.exists() and sha256_file(path) == sha256 for path, (_, sha256) in zip(paths, blocks, strict=True)
        ):
            return blocks
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    append_json_line(folder / JOURNAL, of)
    return []


def _rows(listing: Listing, annotations: Annotations, kept: list[int]) -> Iterator[Rows]:
    """The rows in the set's order, a block at a time; kept: rows of the first blocks, which are there already."""
    known = iter(kept)
    for chosen in _order(annotations.splits):
        while len(chosen):
            count = next(known, 0)
            if not count:
                names = [name_bytes(listing.names[i]) for i in chosen.tolist()]
                width = max(map(len, names))
                names = names[: max(1, BLOCK_BYTES // width)]
                count = len(names)
                yield _block_of(names, width, listing, annotations, chosen[:count])
            chosen = chosen[count:]


def _order(splits: NDArray[np.int8]) -> Iterator[NDArray[np.int64]]:
    """The pictures' numbers by split, each split's ascending: BLOCK_ROWS at a time, and what is left."""
    some = np.empty(0, np.int64)
    for split in range(len(SPLITS)):
        for start in range(0, len(splits), BLOCK_ROWS):
            mine = start + np.flatnonzero(splits[start : start + BLOCK_ROWS] == split)
            some = np.concatenate((some, mine))
            if len(some) >= BLOCK_ROWS:
                yield some[:BLOCK_ROWS]
                some = some[BLOCK_ROWS:]
    yield some


def _block_of(
    names: list[bytes], width: int, listing: Listing, annotations: Annotations, chosen: NDArray[np.int64]
) -> Rows:
    part = annotations.part(chosen)
    rows = np.zeros(len(names), row_type(width, len(annotations.names)))
    rows["name"], rows["place"], rows["number"] = names, listing.places[chosen], chosen
    if part.values is not None:
        rows["values"] = part.values
    identities = part.identities or [None] * len(rows)
    # Texts are names of folders, known anyway
    rows["identity"] = [each if isinstance(each, int) else UNKNOWN for each in identities]
    return rows


def _write_block(path: Path, rows: Rows) -> tuple[int, str]:
    with whole_file(path) as part, part.open("wb") as stream:
        np.save(stream, rows, allow_pickle=False)
    return len(rows), sha256_file(path)


def read_catalogue(target: Path) -> Catalogue:
    """What `write_catalogue` wrote; ShardError where it is damaged."""
    try:
        content = json.loads(target.read_text(encoding="utf-8"))
        blocks = [(int(rows), str(sha256)) for rows, sha256 in content.pop("blocks")]
        folders = [(str(first), str(sha256)) for first, sha256 in content.pop("folders", [])]
        state = content.pop("state", None)
        return Catalogue(**content, blocks=blocks, folders=folders, state=state and (int(state[0]), str(state[1])))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShardError(f"{target}: damaged ({error}): remove it, then run again") from None


@dataclass(frozen=True)
class Pictures:
    """Some pictures of one split, in the set's order."""

    names: list[str]
    places: NDArray[np.void]
    keys: list[str]
    annotations: Annotations


def pictures(target: Path, whole: Catalogue, split: str, start: int, stop: int) -> Pictures:
    """Pictures [start, stop) of a split; ShardError where a block of theirs is damaged."""
    first = whole.first_of(split)
    blocks = list(_read_rows(target.with_suffix(""), whole, first + start, first + stop))
    names = [name.decode("utf-8", "surrogateescape") for rows in blocks for name in rows["name"].tolist()]
    places, numbers, identities = (_joined(blocks, name) for name in ("place", "number", "identity"))
    keys = [stem(name) for name in names] if whole.plain_stems else [f"{number:09d}" for number in numbers.tolist()]
    values = _joined(blocks, "values") if whole.names else None
    splits = np.full(len(names), SPLITS.index(split), np.int8)
    annotations = Annotations(splits, tuple(whole.names), values, _identities(whole, names, identities.tolist()))
    return Pictures(names, places, keys, annotations)


def _identities(whole: Catalogue, names: list[str], numbers: list[int]) -> Identities:
    if whole.identities == FOLDERS:
        return [folder_of(name) for name in names]
    return [None if number == UNKNOWN else number for number in numbers] if whole.identities else None


def _joined(blocks: list[Rows], column: str) -> NDArray[Any]:
    return np.concatenate([rows[column] for rows in blocks])


def _read_rows(folder: Path, whole: Catalogue, start: int, stop: int) -> Iterator[Rows]:
    """Rows [start, stop), from each block that has some of them."""
    firsts = np.cumsum([0, *(rows for rows, _ in whole.blocks)])
    first, last = np.searchsorted(firsts, (start, stop - 1), side="right").tolist()
    for number in range(first - 1, last):
        rows = _block(folder / f"{number:05d}.npy", whole.blocks[number][1])
        yield rows[max(0, start - int(firsts[number])) : stop - int(firsts[number])]


@lru_cache(maxsize=4)
def _block(path: Path, sha256: str) -> Rows:
    """A block, mapped, its hash looked at."""
    try:
        if path.exists() and sha256_file(path) == sha256:
            rows: Rows = np.load(path, mmap_mode="r", allow_pickle=False)
            return rows
    except ValueError:  # not what NumPy writes
        pass
    raise ShardError(f"{path}: missing or damaged: remove {path.parent} and the .json of that name, then run again")


def has_changed(target: Path, whole: Catalogue, spans: Iterable[tuple[str, int, int]] | None = None) -> bool:
    """Whether annotation files in a folder of pictures, or folders in it, are not as they were when it was listed.

    spans: splits, with the first and the last but one of the pictures whose folders are looked at; None for all.
    """
    source, kept = Path(whole.path), target.with_suffix("")
    if any(state_of(_seen(source, name)) != state for name, state in whole.seen.items()):
        return True
    if spans is None or not whole.folders:
        return have_changed(source, all_folders(kept, whole.folders))
    wanted: set[bytes] = set()
    for split, start, stop in spans:
        first = whole.first_of(split)
        for rows in _read_rows(kept, whole, first + start, first + stop):
            wanted |= above(rows["name"].tolist())
    return have_changed(source, some_folders(kept, whole.folders, wanted))


def _seen(source: Path, name: str) -> Where:
    """A file in a folder by its name there; a part of a list by its full name."""
    where = parse_where(name)
    return source / where if isinstance(where, Path) else where


def remove_catalogues(out: Path, finished: bool = False) -> None:
    """Remove all that is kept in OUT; for when nobody else is at work there, but for another who closes the set.

    finished: leave what a killed listing goes on with.
    """
    paths = list(out.glob(f"{CATALOGUE}*"))
    for path in paths:
        if path.is_dir() and finished and path.with_suffix(".json") not in paths:
            continue
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
