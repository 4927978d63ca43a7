"""What a list of addresses says of its pictures beside where they are: attributes, identity, split."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.labels import UNKNOWN
from shards.make.address import Where
from shards.make.annotations import BLOCK, SPLITS, Annotations, Identities, held_out
from shards.make.kept import Kept
from shards.make.listing import Listing, Mark, as_found
from shards.make.lists import Row, open_table
from shards.make.samples import SPLIT_WORDS
from shards.make.slots import whole_number
from shards.make.sorting import filled, mapped

IDENTITY, SPLIT = "identity", "split"  # columns, in any letter case
AT_ONCE = 1 << 12  # rows in memory
Rows = NDArray[np.void]


@dataclass
class _Column:
    """A column of a list, and what was found in it so far.

    at: its place among the columns; fits: whether all its cells are whole numbers or empty; known: how many are
    not empty.
    """

    name: str
    at: int
    fits: bool = True
    known: int = 0

    @property
    def role(self) -> str:
        """What it tells: identity, split, or an attribute of its name."""
        return self.name.lower() if self.name.lower() in (IDENTITY, SPLIT) else ""

    @property
    def kind(self) -> str:
        """Of the numbers that it may have."""
        return "<i8" if self.role == IDENTITY else "<i2"

    @property
    def is_used(self) -> bool:
        """Whether anything is known by it."""
        return self.fits and self.known > 0

    def numbers(self, cells: Sequence[Any]) -> NDArray[np.int64] | int:
        """The numbers in some more cells, UNKNOWN for an empty one; no more than UNKNOWN once one did not fit."""
        try:
            found = [*map(_split_of if self.role == SPLIT else whole_number, cells)] if self.fits else []
            numbers = np.array([UNKNOWN if number is None else number for number in found], np.int64)
        except (ValueError, OverflowError):
            self.fits = False
            return UNKNOWN
        known, limits = len(found) - found.count(None), np.iinfo(self.kind)
        self.known += known
        outside = (numbers < limits.min) | (numbers > limits.max)
        self.fits &= not outside.any() and int(np.count_nonzero(numbers != UNKNOWN)) == known
        return numbers if self.fits else UNKNOWN


def annotate_list(listing: Listing, source: Where, holdout: int | None) -> Annotations:
    """The columns of whole numbers as attributes; identity and split where there are columns of these names.

    Raises ShardError where a split is not one of train, val and test, or the list has changed meanwhile.
    """
    columns, unread, rows = _read([as_found(*part) for part in listing.seen.items()] or [source], listing)
    if len(rows) != len(listing):
        raise ShardError(f"{source}: has changed while it was read: run again")
    attributes = [column for column in columns if column.is_used and not column.role]
    identity = [column for column in columns if column.is_used and column.role == IDENTITY][-1:]
    values = _aligned(rows, attributes, listing) if attributes else None
    identities = Identities(_aligned(rows, identity, listing)[:, 0]) if identity else None
    if holdout is not None:
        splits = held_out(listing.names, holdout)
    else:
        splits = _splits(rows, [column for column in columns if column.role == SPLIT][-1:], listing, source)
    told = [*attributes, *identity]
    unused = [each.name for each in columns if each not in told and each.role != SPLIT] + [*unread]
    notes = [f"{source}: columns without small whole numbers are not used: {', '.join(unused)}"] if unused else []
    gaps = [f"{each.name} {len(rows) - each.known:,}" for each in told if each.known < len(rows)]
    if gaps:
        notes.append(f"{source}: of {len(rows):,} rows some lack a value, and keep the others: {', '.join(gaps)}")
    return Annotations(splits, tuple(column.name for column in attributes), values, identities, notes)


def _read(parts: Sequence[Where], listing: Listing) -> tuple[list[_Column], Sequence[str], Rows]:
    """The columns, the names of those that are not read, and the numbers in them; killed, the next goes on."""
    kept = Kept(listing.kept and listing.kept / "numbers", listing.scratch)
    at, found = kept.at or (None, ())
    with kept.stream, open_table(parts, at) as table:
        columns = list({name: _Column(name, at) for at, name in enumerate(table.columns)}.values())
        for column, (fits, known) in zip(columns, found, strict=False):
            column.fits, column.known = fits, known
        for some in _some(table.rows):
            if isinstance(some, Mark):
                at = [some.at, [(column.fits, column.known) for column in columns]]
                kept.reached(at)
            else:
                kept.stream.write(_numbers(some, columns).tobytes())
        kept.keep(at)
        return columns, table.unread, mapped(kept.stream, _row_type(columns))


def _some(rows: Iterator[Row | Mark | None]) -> Iterator[list[Sequence[Any]] | Mark]:
    """What rows that have an address say beside it, some at a time, and the marks, of which the last row is one."""
    some: list[Sequence[Any]] = []
    for row in rows:
        if some and (isinstance(row, Mark) or len(some) >= AT_ONCE):
            yield some
            some = []
        if isinstance(row, Mark):
            yield row
        elif row:
            some.append(row.rest)


def _row_type(columns: list[_Column]) -> "np.dtype[np.void]":
    """A row's numbers, by the places of their columns; one byte where the list has none."""
    return np.dtype([(str(column.at), column.kind) for column in columns] or [("", "u1")])


def _numbers(some: list[Sequence[Any]], columns: list[_Column]) -> Rows:
    """The numbers of some rows, in the list's order."""
    block = np.zeros(len(some), _row_type(columns))
    cells = [*zip(*some, strict=True)]
    for column in columns:
        block[str(column.at)] = column.numbers(cells[column.at])
    return block


def _aligned(rows: Rows, columns: list[_Column], listing: Listing) -> NDArray[Any]:
    """The numbers of some columns of one kind, (n, columns), in the order of the listing."""
    found = filled((len(rows), len(columns)), columns[0].kind, UNKNOWN, listing.scratch)
    for start in range(0, len(rows), BLOCK):
        some = rows[listing.places["form"][start : start + BLOCK]]
        for number, column in enumerate(columns):
            found[start : start + BLOCK, number] = some[str(column.at)]
    return found


def _split_of(cell: Any) -> int | None:
    """The number of a split by its name or number; ValueError where it is none."""
    text = str(cell).strip().lower()
    number = SPLITS.index(SPLIT_WORDS[text]) if text in SPLIT_WORDS else whole_number(cell)
    if number not in (None, *range(len(SPLITS))):
        raise ValueError(f"{cell} is no split")
    return number


def _splits(rows: Rows, column: list[_Column], listing: Listing, source: Where) -> NDArray[np.int8]:
    if not column:
        return np.zeros(len(rows), np.int8)
    if not column[0].fits or column[0].known < len(rows):
        raise ShardError(f"{source}: column split: expected train, val or test in each row, or choose --holdout N")
    return _aligned(rows, column, listing)[:, 0].astype(np.int8)
