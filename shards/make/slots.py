"""Annotation files beside a listing: each line's values go to the pictures that it names."""

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.labels import UNKNOWN
from shards.make.celeba import Table
from shards.make.listing import Listing, stem
from shards.make.sorting import filled

AT_ONCE = 4096  # lines looked up together
EMPTY = {"", "na", "nan", "none", "null"}  # what programs write where there is no value, in any letter case
TRUTH = {"true": 1, "false": 0}


def base(name: str) -> str:
    """A picture's file name without folders."""
    return name.rpartition("/")[2]


@lru_cache(1 << 12)
def whole_number(cell: Any) -> int | None:
    """What a cell of a table holds: 7 and 7.0 are 7, true is 1; None where it is empty or not a number.

    Raises ValueError or OverflowError where it holds anything else.
    """
    if isinstance(cell, str):
        text = cell.strip().lower()
        if text in EMPTY or text in TRUTH:
            return TRUTH.get(text)
        try:
            return int(text)
        except ValueError:
            cell = float(text)
    if cell is None or cell != cell:
        return None
    if int(cell) != cell:
        raise ValueError(f"{cell} is no whole number")
    return int(cell)


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
        """Values (n, columns) of `kind` from a file's lines `name value ...`, UNKNOWN where there is none.

        Names fit in any letter case; where none fits so, without their extension (CelebA's PNGs are annotated as
        JPEGs). None where the file knows none of the pictures. `stated`: how many lines it says it has.
        """
        for key in (base, stem):
            values, count = self._fill(table, read(table), (len(self.listing), columns), kind, key)
            missing, gaps = _count_unknown(values)
            if missing < len(values):
                break
        if missing == len(values):
            self.notes.append(f"{table.where} names none of the pictures: not used")
            return None
        if missing:
            self.notes.append(f"{table.where} leaves {missing:,} pictures out: they have no such annotation")
        if gaps:
            self.notes.append(f"{table.where} lacks values of {gaps:,} pictures: their others are kept")
        if stated not in (None, count):
            self.notes.append(f"{table.where} states {stated:,} pictures and has {count:,}: is it whole?")
        return values

    def _fill(
        self, table: Table, rows: Iterable[list[str]], shape: tuple[int, int], kind: Any, key: Callable[[str], str]
    ) -> tuple[NDArray[Any], int]:
        """The values by `key` of the names, and how many lines there were."""
        values, count, lines = filled(shape, kind, UNKNOWN, self.listing.scratch), 0, iter(rows)
        nothing = [UNKNOWN] * shape[1]
        while some := list(islice(lines, AT_ONCE)):
            count += len(some)
            for (name, *fields), pictures in zip(some, self._named([line[0] for line in some], key), strict=True):
                if not pictures:
                    continue
                integers = _integers(table.where, name, fields, shape[1], int(np.iinfo(kind).max))
                if values[pictures[0]].tolist() not in (nothing, integers):
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
        values = [whole_number(field) for field in fields]
    except (ValueError, OverflowError):
        raise ShardError(f"{where}: {name}: expected whole numbers, found {' '.join(fields)[:80]!r}") from None
    if len(values) != columns:
        raise ShardError(f"{where}: {name}: {len(values)} values, expected {columns}")
    known = [value for value in values if value is not None]
    if any(not UNKNOWN < value <= most for value in known):
        raise ShardError(f"{where}: {name}: a value is out of range: {max(known, key=abs)}")
    return [UNKNOWN if value is None else value for value in values]


def _count_unknown(values: NDArray[Any]) -> tuple[int, int]:
    """How many rows have no value at all, and how many lack some of theirs."""
    none = some = 0
    for start in range(0, len(values), AT_ONCE):
        unknown = values[start : start + AT_ONCE] == UNKNOWN
        none += int(np.count_nonzero(unknown.all(axis=1)))
        some += int(np.count_nonzero(unknown.any(axis=1)))
    return none, some - none
