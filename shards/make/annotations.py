"""What is known of each picture: attributes, identity, split; from CelebA, LFW's folders or MNIST's labels."""

import hashlib
import heapq
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.labels import UNKNOWN
from shards.format.transform import PictureError
from shards.make.address import Where
from shards.make.celeba import ATTRIBUTES, IDENTITY, PARTITION, Table, attribute_rows, find_files, value_rows
from shards.make.idx import images_files, read_labels
from shards.make.listing import Listing, Place, folder_of
from shards.make.slots import Slots, base
from shards.make.sorting import name_bytes
from shards.make.sources import open_reader

CELEBA_NAME = re.compile(r"\d{6}\.(?:jpg|png)", re.IGNORECASE)
SPLITS = ("train", "val", "test")  # in the order of CelebA's partition numbers
BLOCK = 1 << 16  # pictures looked at together


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
        """The attributes and identity of one picture, as the side table has them: None for what is not known."""
        stated = self.values[position].tolist() if self.values is not None else []
        values = [None if value == UNKNOWN else value for value in stated]
        known = any(value is not None for value in values)
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
        ends, gaps = np.zeros((2, len(self.names)), np.int16), np.zeros(len(self.names), bool)
        for start in range(0, len(self.values), BLOCK):
            some = self.values[start : start + BLOCK]
            known = some != UNKNOWN
            ends[0] = np.minimum(ends[0], some.min(axis=0, where=known, initial=0))
            ends[1] = np.maximum(ends[1], some.max(axis=0, initial=0))
            gaps |= ~known[known.any(axis=1)].all(axis=0)
        told = [(*pair, None) if gap else pair for *pair, gap in zip(*ends.tolist(), gaps.tolist(), strict=True)]
        longest = [max(some, key=lambda value: len(json.dumps(value))) for some in told]
        return max(empty, len(self._member(widest | {"attributes": longest})))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything in here."""
        digest = hashlib.sha256(self.splits.tobytes() + json.dumps(self.names).encode("ascii"))
        if self.values is not None:
            for start in range(0, len(self.values), BLOCK):
                digest.update(self.values[start : start + BLOCK].tobytes())
        for identity in self.identities or ():
            digest.update(f"{identity}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def annotate(listing: Listing, source: Where, folder: Path | None, holdout: int | None) -> Annotations:
    """Collect what is known of a listing's pictures.

    Files are looked for in `folder`; or, without it, among the source's own, then beside it (see `celeba`).
    `holdout` makes that many pictures `val` and all others `train`, whatever a partition file says.
    Raises ShardError where a file is damaged, or a partition leaves pictures of the listing out.
    """
    if listing.kind == "idx" and isinstance(source, Path):
        return _annotate_idx(listing, source, holdout)
    slots = Slots(listing)
    tables = _tables(listing, source, folder)
    names, values = _read_attributes(tables.get(ATTRIBUTES), slots)
    identities: Sequence[int | str | None] | None = _read_identities(tables.get(IDENTITY), slots)
    if identities is None and listing.is_lfw:
        identities = FolderNames(listing.names)
    if holdout is not None:
        splits = held_out(listing.names, holdout)
    else:
        splits = _read_splits(tables.get(PARTITION), slots, _looks_like_celeba(listing, source))
    return Annotations(splits, names, values, identities, slots.notes)


def _tables(listing: Listing, source: Where, folder: Path | None) -> dict[str, Table]:
    """The annotation files by kind: those in the source go before those beside it, unless a folder is named."""
    files = find_files(source, folder)
    beside = {kind: Table(str(path), partial(_open, path)) for kind, path in files.items()}
    if folder is not None:
        return beside
    inside = {
        kind: Table(f"{source}/{name}", partial(_open_inside, listing, name, place))
        for kind, (name, place) in listing.tables.items()
    }
    return beside | inside


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_inside(listing: Listing, name: str, place: Place) -> BinaryIO:
    try:
        return io.BytesIO(open_reader(listing.kind, listing.path).read(name, place))
    except PictureError as error:
        raise ShardError(f"{listing.path}: {name}: {error.reason}: {error.detail}") from None


def _looks_like_celeba(listing: Listing, source: Where) -> bool:
    where = source.absolute() if isinstance(source, Path) else source.plain
    named = "celeb" in f"{where}/{listing.names[0]}".lower()
    return named and all(CELEBA_NAME.fullmatch(base(name)) for name in listing.names)


def held_out(names: Sequence[str], count: int) -> NDArray[np.int8]:
    """Splits with `count` pictures in val: those whose names have the smallest SHA-256, a fixed fair draw."""
    if count >= len(names):
        raise ShardError(f"--holdout {count}: the source has {len(names)} pictures, none would be left to train on")
    ranks = ((hashlib.sha256(name_bytes(name)).digest(), number) for number, name in enumerate(names))
    splits = np.zeros(len(names), np.int8)
    splits[[number for _, number in heapq.nsmallest(count, ranks)]] = SPLITS.index("val")
    return splits


class Identities(Sequence[int | None]):
    """Identities as a file has them: (n,) numbers, UNKNOWN for None."""

    def __init__(self, numbers: NDArray[np.signedinteger]) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> int | None: ...
    @overload
    def __getitem__(self, at: slice) -> list[int | None]: ...
    def __getitem__(self, at: int | slice) -> int | list[int | None] | None:
        if isinstance(at, slice):
            return [None if number == UNKNOWN else number for number in self.numbers[at].tolist()]
        return None if self.numbers[at] == UNKNOWN else int(self.numbers[at])

    def __iter__(self) -> Iterator[int | None]:
        return (identity for start in range(0, len(self), BLOCK) for identity in self[start : start + BLOCK])


class FolderNames(Sequence[str]):
    """The name of the folder that each picture lies in, made when it is asked for."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        return [*map(folder_of, self.names[at])] if isinstance(at, slice) else folder_of(self.names[at])

    def __iter__(self) -> Iterator[str]:
        return map(folder_of, self.names)


def _read_attributes(table: Table | None, slots: Slots) -> tuple[tuple[str, ...], NDArray[np.int16] | None]:
    """CelebA's attributes: -1 or 1 for each."""
    if table is None:
        return (), None
    names, stated, _ = attribute_rows(table)
    values = slots.fill(table, lambda table: attribute_rows(table)[2], np.int16, len(names), stated)
    return ((), None) if values is None else (tuple(names), values)


def _read_identities(table: Table | None, slots: Slots) -> Sequence[int | None] | None:
    values = slots.fill(table, value_rows, np.int32) if table else None
    return None if values is None else Identities(values[:, 0])


def _read_splits(table: Table | None, slots: Slots, looks_like_celeba: bool) -> NDArray[np.int8]:
    """CelebA's partition: 0 train, 1 validation, 2 test; everything is train where there is none."""
    values = slots.fill(table, value_rows, np.int32) if table else None
    if values is None:
        if looks_like_celeba:
            slots.notes.append(
                f"this looks like CelebA, but {PARTITION}.txt (or .csv) was not found beside it: all pictures are "
                "train, test ones too. Put it there or give its folder, --annotations DIR; or choose --holdout N"
            )
        return np.zeros(len(slots.listing), np.int8)
    wrong = np.flatnonzero((values[:, 0] < 0) | (values[:, 0] >= len(SPLITS)))
    if len(wrong):
        split, first = values[wrong[0], 0], base(slots.listing.names[wrong[0]])
        raise ShardError(
            f"{table.where if table else ''}: {len(wrong):,} pictures without a split 0, 1 or 2, the first is "
            f"{first} ({'not in the file' if split == UNKNOWN else split}): add them, or choose --holdout N"
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
    if any(each is None or len(each) != counts[stem] for stem, each in labels.items()):
        return Annotations(splits, notes=[f"{source}: no labels that fit the pictures: none are kept"])
    values = np.concatenate([labels[stem] for stem in files])[:, None].astype(np.int16)
    return Annotations(splits, ("label",), values)
