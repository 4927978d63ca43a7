"""Labels of sets made before there were columns of them: from the side table, a line at a time."""

import json
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.columns import SideTable, Table
from shards.format.index import ShardIndex
from shards.format.labels import UNKNOWN
from shards.read.files import Files
from shards.read.labels import Labels


def read_labels(
    index: ShardIndex, folder: Path, files: Files, split: str, names: Sequence[str] | None = None
) -> Labels:
    """The labels of a split of a set made before there were columns of them: from its side table, a line at a time.

    names: only these attributes, and no identities. Raises ShardError where the set has no side table, or it is
    damaged.
    """
    if index.members == "encoded":
        raise ShardError(
            f"{folder}: tars without labels. `facegan shards index` reads those in `.cls` and `.json` members; of "
            "tars that were indexed before it did so, remove index.json to index them anew"
        )
    if not index.side_tables:
        raise ShardError(
            f"{folder}: the set has no side table, so nothing is known of its samples but their pixels"
        )
    wanted, samples = index.attributes if names is None else tuple(names), index.splits[split].samples
    columns = [index.attributes.index(name) for name in wanted]
    values = np.full((samples, len(columns)), UNKNOWN, np.int16)
    identities = np.full(samples if names is None else 1, -1, np.int64)
    codes: dict[Any, int] = {None: -1}
    try:
        for place, row in enumerate(_rows(index, files, split)):
            if columns and row["attributes"]:
                stated = [row["attributes"][column] for column in columns]
                values[place] = [UNKNOWN if value is None else value for value in stated]
            if names is None:
                identities[place] = codes.setdefault(row["identity"], len(codes) - 1)
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise ShardError(f"{folder}: a row of the side table is damaged ({error!r})") from None
    for column in values.T:
        if np.isin(column, (-1, 1, UNKNOWN)).all():  # CelebA says -1 for no
            column[column == -1] = 0
    return Labels(wanted, values, identities if names is None else np.broadcast_to(identities, samples))


def _rows(index: ShardIndex, files: Files, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a split's samples, in order, from those parts of the side table alone that have some."""
    samples = index.shards.samples
    stops, of_split = np.cumsum(samples), index.shards.numbers(split)
    first = 0
    for table in index.side_tables:
        end = first + (table.samples if isinstance(table, SideTable) else int(stops[-1]))
        mine = np.zeros(end - first, bool)
        near = np.searchsorted(stops[of_split], first, side="right")
        for shard in of_split[near:].tolist():
            start = int(stops[shard] - samples[shard])
            if start >= end:
                break
            mine[max(start - first, 0) : int(stops[shard]) - first] = True
        if mine.any():
            yield from _chosen_lines(files.hold(table), table, mine)
        first = end


def _chosen_lines(path: Path, table: Table, chosen: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """The rows of a part whose lines are chosen."""
    try:
        if (size := path.stat().st_size) != table.bytes:
            raise ValueError(f"{size:,} bytes, the index says {table.bytes:,}")
        count = 0
        with path.open("rb") as lines:
            for count, line in enumerate(compress(lines, chosen.tobytes()), 1):  # noqa: B007 - it is looked at
                yield json.loads(line)
        if count < np.count_nonzero(chosen):
            raise ValueError("rows are missing")
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be read ({error}): `facegan shards verify {path.parent}`") from None
