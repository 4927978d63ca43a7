"""What a list of addresses says of its pictures beside where they are: attributes, identity, split."""

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.make.address import Where
from shards.make.annotations import SPLITS, Annotations, Identities, held_out
from shards.make.listing import Listing
from shards.make.ranges import open_stream
from shards.make.slots import UNKNOWN
from shards.make.urls import read_table

IDENTITY, SPLIT = "identity", "split"  # columns, in any letter case
SPLIT_NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
LARGEST = 32767


class _Column:
    """The whole numbers of a column, UNKNOWN where there is none; `values` is None once it holds anything else."""

    def __init__(self, named: dict[str, int] | None = None) -> None:
        self.named = named or {}
        self.values: array[int] | None = array("q")

    def add(self, value: Any) -> None:
        if self.values is None:
            return
        try:
            text = str(int(value) if isinstance(value, bool) else "" if value is None else value).strip()
            self.values.append(self.named[text.lower()] if text.lower() in self.named else int(text or UNKNOWN))
        except (ValueError, OverflowError):
            self.values = None


def annotate_list(listing: Listing, source: Where, holdout: int | None) -> Annotations:
    """The columns of whole numbers as attributes; identity and split where there are columns of these names.

    Raises ShardError where a split is not one of train, val and test, or the list has changed meanwhile.
    """
    columns = _read(source)
    # Rows stand in the list as their addresses do in the lines made of it
    rows = np.argsort(np.argsort(listing.places["offset"], kind="stable"), kind="stable")
    if any(column.values is not None and len(column.values) != len(rows) for column in columns.values()):
        raise ShardError(f"{source}: has changed while it was read: run again")
    special = {name.lower(): column for name, column in columns.items() if name.lower() in (IDENTITY, SPLIT)}
    numbers = {n: _aligned(c.values, rows) for n, c in columns.items() if c.values and n.lower() not in special}
    fitting = {n: v for n, v in numbers.items() if v.min() >= UNKNOWN and v.max() <= LARGEST}
    values = np.stack(list(fitting.values()), axis=1).astype(np.int16) if fitting else None
    unused = [name for name in columns if name not in fitting and name.lower() != SPLIT]
    identities = _identities(special.get(IDENTITY), rows)
    unused = [name for name in unused if identities is None or name.lower() != IDENTITY]
    notes = [f"{source}: columns without small whole numbers are not used: {', '.join(unused)}"] if unused else []
    if holdout is not None:
        splits = held_out(listing.names, holdout)
    else:
        splits = _splits(special.get(SPLIT), rows, source)
    return Annotations(splits, tuple(fitting), values, identities, notes)


def _read(source: Where) -> dict[str, _Column]:
    with open_stream(source) as stream:
        table = read_table(source, stream)
        columns = [_Column(SPLIT_NAMES if name.lower() == SPLIT else None) for name in table.columns]
        for row in table.rows:
            for column, value in zip(columns, row.rest if row else (), strict=False):
                column.add(value)
    return dict(zip(table.columns, columns, strict=True))


def _aligned(values: "array[int]", rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.frombuffer(values, np.int64)[rows]


def _identities(column: _Column | None, rows: NDArray[np.int64]) -> Identities | None:
    return Identities(_aligned(column.values, rows)) if column is not None and column.values else None


def _splits(column: _Column | None, rows: NDArray[np.int64], source: Where) -> NDArray[np.int8]:
    if column is None:
        return np.zeros(len(rows), np.int8)
    values = _aligned(column.values, rows) if column.values else None
    if values is None or values.min() < 0 or values.max() >= len(SPLITS):
        raise ShardError(f"{source}: column split: expected train, val or test in each row, or choose --holdout N")
    return values.astype(np.int8)
