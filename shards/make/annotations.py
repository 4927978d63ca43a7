"""What is known of each picture: attributes, identity, split; from CelebA, LFW's folders or MNIST's labels."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.make.idx import images_files, read_labels
from shards.make.listing import Listing, name_bytes

ATTRIBUTES_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
IDENTITY_FILE = "identity_CelebA.txt"
FILES = (ATTRIBUTES_FILE, PARTITION_FILE, IDENTITY_FILE)
SPLITS = ("train", "val", "test")  # in the order of CelebA's partition numbers
UNKNOWN = -32768  # an attribute or split that no annotation gives


@dataclass(frozen=True)
class Annotations:
    """Annotations aligned with a listing of n pictures.

    values: (n, len(names)) int16, UNKNOWN where a picture has none; identities: n of int, str or None;
    splits: (n,) int8, indices into SPLITS.
    """

    splits: NDArray[np.int8]
    names: tuple[str, ...] = ()
    values: NDArray[np.int16] | None = None
    identities: Sequence[int | str | None] | None = None
    notes: list[str] = field(default_factory=list)

    def part(self, positions: NDArray[np.int64]) -> "Annotations":
        """The annotations of some of the pictures, in the order of `positions`."""
        values = self.values[positions] if self.values is not None else None
        identities = [self.identities[i] for i in positions] if self.identities is not None else None
        return Annotations(self.splits[positions], self.names, values, identities)

    def row(self, position: int) -> dict[str, Any]:
        """The attributes and identity of one picture, as the side table has them."""
        values = self.values[position].tolist() if self.values is not None else None
        known = values is not None and UNKNOWN not in values
        identity = self.identities[position] if self.identities is not None else None
        return {"attributes": values if known else None, "identity": identity}

    def member(self, position: int) -> bytes:
        """The JSON member of one picture: its attributes by name, and its identity."""
        return self._member(self.row(position))

    def _member(self, row: dict[str, Any]) -> bytes:
        values = row["attributes"]
        named = dict(zip(self.names, values, strict=True)) if values is not None else None
        return json.dumps({"attributes": named, "identity": row["identity"]}).encode("ascii")

    @property
    def member_bytes(self) -> int:
        """Length of the longest JSON member that this set can have."""
        widest: dict[str, Any] = {"attributes": None, "identity": None}
        identities = self.identities if self.identities is not None else [None]
        widest["identity"] = max(identities, key=lambda identity: len(json.dumps(identity)))
        empty = len(self._member(widest))
        if self.values is None:
            return empty
        ends = [
            self.values.min(axis=0, where=self.values != UNKNOWN, initial=0),
            self.values.max(axis=0, initial=0),
        ]
        longest = [int(max(pair, key=lambda value: len(str(value)))) for pair in zip(*ends, strict=True)]
        return max(empty, len(self._member(widest | {"attributes": longest})))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything in here."""
        digest = hashlib.sha256(self.splits.tobytes() + json.dumps(self.names).encode("ascii"))
        if self.values is not None:
            digest.update(self.values.tobytes())
        for identity in self.identities or ():
            digest.update(f"{identity}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def annotate(listing: Listing, source: Path, folder: Path | None, holdout: int | None) -> Annotations:
    """Collect what is known of a listing's pictures.

    Files are looked for in `folder`, or beside the pictures: in the source folder and the folder it lies in.
    `holdout` makes that many pictures `val` and all others `train`, whatever a partition file says.
    Raises ShardError where a file is damaged, or a partition leaves pictures of the listing out.
    """
    if listing.kind == "idx":
        return _annotate_idx(listing, source, holdout)
    slots = _Slots(listing)
    files = find_files(source, folder)
    names, values = _read_attributes(files[ATTRIBUTES_FILE], slots)
    identities: Sequence[int | str | None] | None = _read_identities(files[IDENTITY_FILE], slots)
    if identities is None and listing.is_lfw:
        identities = [name.rpartition("/")[0].rpartition("/")[2] for name in listing.names]
    splits = held_out(listing.names, holdout) if holdout is not None else _read_splits(files[PARTITION_FILE], slots)
    return Annotations(splits, names, values, identities, slots.notes)


def held_out(names: Sequence[str], count: int) -> NDArray[np.int8]:
    """Splits with `count` pictures in val: those whose names have the smallest SHA-256, a fixed fair draw."""
    if count >= len(names):
        raise ShardError(f"--holdout {count}: the source has {len(names)} pictures, none would be left to train on")
    ranks = sorted(range(len(names)), key=lambda i: hashlib.sha256(name_bytes(names[i])).digest())
    splits = np.zeros(len(names), np.int8)
    splits[ranks[:count]] = SPLITS.index("val")
    return splits


def find_files(source: Path, folder: Path | None) -> dict[str, Path | None]:
    """Where each of FILES is, or None: in `folder`, or beside the pictures."""
    if folder is not None and not any(_existing(folder, name) for name in FILES):
        raise ShardError(f"{folder}: none of {', '.join(FILES)} (or with .gz) in it")
    folders = [folder] if folder else [source, source.parent] if source.is_dir() else [source.parent]
    return {name: next(filter(None, (_existing(place, name) for place in folders)), None) for name in FILES}


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


class _Slots:
    """File names of a listing as rows: annotation files know pictures by name alone, without folders."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.notes: list[str] = []

    @cached_property
    def slot(self) -> dict[str, int]:
        """The row of each file name; made only where there is a file to look up."""
        slot: dict[str, int] = {}
        for name in self.listing.names:
            slot.setdefault(_base(name), len(slot))
        return slot

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The row of each picture."""
        return np.fromiter((self.slot[_base(name)] for name in self.listing.names), np.int64, len(self.listing))

    def fill(self, path: Path, lines: Iterator[list[str]], columns: int) -> NDArray[np.int32] | None:
        """Values (n, columns) of a file's lines `name value ...`; None where it knows none of the pictures."""
        values = np.full((len(self.slot), columns), UNKNOWN, np.int32)
        for name, *fields in lines:
            if name in self.slot:
                values[self.slot[name]] = _integers(path, name, fields, columns)
        missing = int((values[:, 0] == UNKNOWN).sum())
        if missing == len(values):
            self.notes.append(f"{path} names none of the pictures: not used")
            return None
        if missing:
            self.notes.append(f"{path} leaves {missing:,} pictures out: they have no such annotation")
        aligned: NDArray[np.int32] = values[self.rows]
        return aligned


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _integers(path: Path, name: str, fields: list[str], columns: int) -> list[int]:
    try:
        values = [int(field) for field in fields]
    except ValueError:
        raise ShardError(f"{path}: {name}: expected whole numbers, found {' '.join(fields)[:80]!r}") from None
    if len(values) != columns:
        raise ShardError(f"{path}: {name}: {len(values)} values, expected {columns}")
    if any(not UNKNOWN < value < 1 << 31 for value in values):
        raise ShardError(f"{path}: {name}: a value is out of range: {max(values, key=abs)}")
    return values


def _lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line that has any: CRLF and double spaces, as in the original files, do not matter."""
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as text
        ):
            for line in text:
                if fields := line.split():
                    yield fields
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ShardError(f"{path}: cannot be read: {error}") from None


def _read_attributes(path: Path | None, slots: _Slots) -> tuple[tuple[str, ...], NDArray[np.int16] | None]:
    """CelebA's attributes: a count, a line of names, then -1 or 1 for each."""
    if path is None:
        return (), None
    lines = _lines(path)
    count, names = next(lines, []), next(lines, [])
    if len(count) != 1 or not count[0].isdigit() or not names:
        raise ShardError(f"{path}: expected the count of pictures in line 1 and the attributes' names in line 2")
    values = slots.fill(path, lines, len(names))
    if values is None:
        return (), None
    if values.max() > 32767:
        raise ShardError(f"{path}: an attribute of {values.max()}, expected small numbers like -1 and 1")
    return tuple(names), values.astype(np.int16)


def _read_identities(path: Path | None, slots: _Slots) -> Sequence[int | None] | None:
    values = slots.fill(path, _lines(path), 1) if path else None
    return None if values is None else [None if value == UNKNOWN else value for value in values[:, 0].tolist()]


def _read_splits(path: Path | None, slots: _Slots) -> NDArray[np.int8]:
    """CelebA's partition: 0 train, 1 validation, 2 test; everything is train where there is none."""
    values = slots.fill(path, _lines(path), 1) if path else None
    if values is None:
        return np.zeros(len(slots.listing), np.int8)
    wrong = np.flatnonzero((values[:, 0] < 0) | (values[:, 0] >= len(SPLITS)))
    if len(wrong):
        slot = int(slots.rows[wrong[0]])
        name = next(base for base, index in slots.slot.items() if index == slot)
        found = values[wrong[0], 0]
        raise ShardError(
            f"{path}: {len(wrong):,} pictures without a split 0, 1 or 2, the first is {name} "
            f"({'not in the file' if found == UNKNOWN else found}): add them, or choose --holdout N"
        )
    return values[:, 0].astype(np.int8)


def _annotate_idx(listing: Listing, source: Path, holdout: int | None) -> Annotations:
    """MNIST: the label as an attribute; t10k is the test split where the training files are there too."""
    files = images_files(source)
    labels = {stem: read_labels(file) for stem, file in files.items()}
    stems = [name.rpartition("-")[0] for name in listing.names]
    splits = np.array([len(files) > 1 and stem == "t10k" for stem in stems], np.int8) * SPLITS.index("test")
    if holdout is not None:
        splits = held_out(listing.names, holdout)
    counts = {stem: stems.count(stem) for stem in files}
    if any(found is None or len(found) != counts[stem] for stem, found in labels.items()):
        return Annotations(splits, notes=[f"{source}: no labels that fit the pictures: none are kept"])
    values = np.concatenate([labels[stem] for stem in files])[:, None].astype(np.int16)
    return Annotations(splits, ("label",), values)
