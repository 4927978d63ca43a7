"""What is known of samples beside their pixels, attributes and identity; and the part of a split that has some."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.columns import Ints, SideTable, Table
from shards.format.index import ShardIndex
from shards.format.labels import UNKNOWN
from shards.format.mapping import Bytes
from shards.read.choice import Choice
from shards.read.files import Files
from shards.read.images import Images

if TYPE_CHECKING:
    import torch

CONDITION = re.compile(r"\s*(?P<name>[^=,]+?)\s*=\s*(?P<value>-?\d+)\s*")


@dataclass(frozen=True)
class Labels:
    """Labels of n samples, in the order of the split's.

    names: of the attributes; values: (n, attributes) int16, as the source has them (CelebA's -1 and 1 become 0
    and 1), UNKNOWN where the source says nothing of the sample; identities: (n,) int64, numbers that are equal
    where the source's identities are, -1 where it has none.
    """

    names: tuple[str, ...]
    values: NDArray[np.int16]
    identities: Ints

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, samples: Ints | slice) -> "Labels":
        return Labels(self.names, self.values[samples], self.identities[samples])

    def where(self, conditions: str) -> Ints:
        """The samples that meet all conditions, like "Smiling=1,Male=0": their numbers, ascending.

        Raises ShardError where an attribute is not known, or no sample meets them.
        """
        chosen = np.ones(len(self), bool)
        for name, value in parse_conditions(conditions, self.names):
            chosen &= self.values[:, self.names.index(name)] == value
        refuse_none(int(chosen.sum()), conditions, len(self))
        return np.flatnonzero(chosen)


class AnyLabels(Protocol):
    """Labels of a split, in memory (`Labels`) or where they lie (`shards.read.columns.LabelColumns`)."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def values(self) -> NDArray[np.int16]: ...
    @property
    def identities(self) -> Ints: ...
    def __len__(self) -> int: ...
    def __getitem__(self, samples: Ints) -> Labels: ...
    def where(self, conditions: str) -> Ints: ...


def refuse_none(chosen: int, conditions: str, samples: int) -> None:
    """Raise ShardError where none of a split's samples are chosen."""
    if not chosen:
        raise ShardError(f"--where {conditions}: no sample of {samples:,} meets it")


def parse_conditions(conditions: str, known: Sequence[str]) -> list[tuple[str, int]]:
    """Names and values of conditions like "Smiling=1,Male=0"; ShardError where one is not of the `known` names."""
    matches = [CONDITION.fullmatch(part) for part in conditions.split(",")]
    found = [(match["name"], int(match["value"])) for match in matches if match and match["name"] in known]
    if len(found) < len(matches):
        raise ShardError(
            f"--where {conditions}: expected ATTRIBUTE=NUMBER, separated by commas, with attributes of "
            f"the set: {', '.join(known) or 'it has none'}"
        )
    return found


def join_labels(parts: Sequence[AnyLabels]) -> Labels:
    """The labels of a mixture's images: those of its sets one after the other, their identities kept apart.

    Raises ShardError where the sets have other attributes.
    """
    names = parts[0].names
    for labels in parts:
        if labels.names != names:
            raise ShardError(f"labels of {', '.join(labels.names)} do not go with those of {', '.join(names)}")
    counts = [int(labels.identities.max(initial=-1)) + 1 for labels in parts]
    shifts = np.cumsum([0, *counts[:-1]])
    identities = [
        np.where(each.identities < 0, -1, each.identities + shift)
        for each, shift in zip(parts, shifts, strict=True)
    ]
    return Labels(names, np.concatenate([labels.values for labels in parts]), np.concatenate(identities))


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


class Subset(Images):
    """Some images of a split, numbered anew in its order; its shards are shards of the split."""

    def __init__(self, images: Images, chosen: Choice | Ints) -> None:
        self.images = images
        self.chosen = chosen = chosen if isinstance(chosen, Choice) else Choice.of(chosen)
        self.height, self.width, self.channels = images.height, images.width, images.channels
        self.shards, self.split, self.files = images.shards, images.split, images.files
        self.version, self.mapped = images.version, images.mapped
        self.firsts = chosen.before(images.firsts)

    def numbers(self) -> Ints:
        """The samples' numbers in the split: (n,), ascending."""
        return self.chosen[np.arange(len(self))]

    def places(self, indices: Ints) -> Ints:
        """See `Images.places`."""
        self.locate(indices)
        return self.images.places(self.chosen[indices])

    def gather_at(self, places: Ints) -> Bytes:
        """See `Images.gather_at`."""
        return self.images.gather_at(places)

    def batch_at(self, places: Ints) -> "torch.Tensor":
        """See `Images.batch_at`."""
        return self.images.batch_at(places)

    def will_need(self, places: Ints) -> None:
        """See `Images.will_need`."""
        self.images.will_need(places)

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`."""
        return self.images.keys(self.chosen[indices])

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`."""
        self.images.expect(now, then)
