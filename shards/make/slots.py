"""Annotation files beside a listing: each line's values go to the pictures that it names."""

from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.make.celeba import Table
from shards.make.listing import Listing, stem
from shards.make.sorting import filled

UNKNOWN = -32768  # a value that no annotation gives
AT_ONCE = 4096  # lines looked up together


def base(name: str) -> str:
    """A picture's file name without folders."""
    return name.rpartition("/")[2]


class Slots:
    """File names of a listing as rows: annotation files know pictures by name alone, without folders."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.notes: list[str] = []
        self._hashes = cache(self._hashed)

    def fill(
        self,
        table: Table,
        read: Callable[[Table], Iterable[list[str]]],
        kind: Any,
        columns: int = 1,
        stated: int | None = None,
    ) -> NDArray[Any] | None:
        """Values (n, columns) of `kind` from a file's lines `name value ...`, UNKNOWN where it has none.

        Names fit in any letter case; where none fits so, without their extension (CelebA's PNGs are annotated as
        JPEGs). None where the file knows none of the pictures. `stated`: how many lines it says it has.
        """
        for key in (base, stem):
            values, count = self._fill(table, read(table), (len(self.listing), columns), kind, key)
            missing = int(np.count_nonzero(values[:, 0] == UNKNOWN))
            if missing < len(values):
                break
        if missing == len(values):
            self.notes.append(f"{table.where} names none of the pictures: not used")
            return None
        if missing:
            self.notes.append(f"{table.where} leaves {missing:,} pictures out: they have no such annotation")
        if stated not in (None, count):
            self.notes.append(f"{table.where} states {stated:,} pictures and has {count:,}: is it whole?")
        return values

    def _fill(
        self, table: Table, rows: Iterable[list[str]], shape: tuple[int, int], kind: Any, key: Callable[[str], str]
    ) -> tuple[NDArray[Any], int]:
        """The values by `key` of the names, and how many lines there were."""
        values, count, lines = filled(shape, kind, UNKNOWN, self.listing.scratch), 0, iter(rows)
        while some := list(islice(lines, AT_ONCE)):
            count += len(some)
            for (name, *fields), pictures in zip(some, self._named([line[0] for line in some], key), strict=True):
                if not pictures:
                    continue
                integers = _integers(table.where, name, fields, shape[1], int(np.iinfo(kind).max))
                if values[pictures[0], 0] != UNKNOWN and values[pictures[0]].tolist() != integers:
                    raise ShardError(f"{table.where}: {name} comes twice, with different values: mend the file")
                values[pictures] = integers
        return values, count

    def _named(self, names: list[str], key: Callable[[str], str]) -> list[list[int]]:
        """The numbers of the pictures that each of these names is of."""
        hashes, order = self._hashes(key)
        keys = [key(name.replace("\\", "/")).lower() for name in names]
        wanted = np.array([hash(each) for each in keys], np.int64)
        starts, stops = (np.searchsorted(hashes, wanted, side).tolist() for side in ("left", "right"))
        return [
            [number for number in order[start:stop].tolist() if key(self.listing.names[number]).lower() == each]
            for each, start, stop in zip(keys, starts, stops, strict=True)
        ]

    def _hashed(self, key: Callable[[str], str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Hashes of all names (a dictionary of them would be ten times as large), sorted; the picture of each."""
        found = (hash(key(name).lower()) for name in self.listing.names)
        hashes = np.fromiter(found, np.int64, len(self.listing))
        order = np.argsort(hashes)
        return hashes[order], order


def _integers(where: str, name: str, fields: list[str], columns: int, most: int) -> list[int]:
    try:
        values = [int(field) for field in fields]
    except ValueError:
        raise ShardError(f"{where}: {name}: expected whole numbers, found {' '.join(fields)[:80]!r}") from None
    if len(values) != columns:
        raise ShardError(f"{where}: {name}: {len(values)} values, expected {columns}")
    if any(not UNKNOWN < value <= most for value in values):
        raise ShardError(f"{where}: {name}: a value is out of range: {max(values, key=abs)}")
    return values
