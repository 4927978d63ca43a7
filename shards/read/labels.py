"""What is known of samples beside their pixels, attributes and identity; and the part of a split that has some."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.index import ShardIndex
from shards.format.mapping import Bytes
from shards.read.files import Files
from shards.read.images import Images

if TYPE_CHECKING:
    import torch

UNKNOWN = -(1 << 15)  # an attribute of a sample of which none are known
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

    def __getitem__(self, samples: Ints) -> "Labels":
        return Labels(self.names, self.values[samples], self.identities[samples])

    def where(self, conditions: str) -> Ints:
        """The samples that meet all conditions, like "Smiling=1,Male=0": their numbers, ascending.

        Raises ShardError where an attribute is not known, or no sample meets them.
        """
        chosen = np.ones(len(self), bool)
        for part in conditions.split(","):
            match = CONDITION.fullmatch(part)
            if match is None or match["name"] not in self.names:
                raise ShardError(
                    f"--where {conditions}: expected ATTRIBUTE=NUMBER, separated by commas, with attributes of "
                    f"the set: {', '.join(self.names) or 'it has none'}"
                )
            chosen &= self.values[:, self.names.index(match["name"])] == int(match["value"])
        if not chosen.any():
            raise ShardError(f"--where {conditions}: no sample of {len(self):,} meets it")
        return np.flatnonzero(chosen)


def join_labels(parts: Sequence[Labels]) -> Labels:
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


def read_labels(index: ShardIndex, folder: Path, files: Files, split: str) -> Labels:
    """The labels of a split, from the side table; ShardError where the set has none or the table is damaged."""
    if not index.side_tables:
        raise ShardError(
            f"{folder}: the set has no side table, so nothing is known of its samples but their pixels"
        )
    rows = [row for table in index.side_tables for row in _rows(files.hold(table), split)]
    samples = index.splits[split].samples
    if len(rows) != samples:
        raise ShardError(f"{folder}: {len(rows):,} rows of split {split} in the side table, expected {samples:,}")
    unknown = [UNKNOWN] * len(index.attributes)
    values = np.array([row["attributes"] or unknown for row in rows], np.int16).reshape(samples, -1)
    codes: dict[Any, int] = {None: -1}
    identities = [codes.setdefault(row["identity"], len(codes) - 1) for row in rows]
    signs = (values == -1) & np.isin(values, (-1, 1, UNKNOWN)).all(axis=0)  # CelebA says -1 for no
    return Labels(index.attributes, np.where(signs, 0, values).astype(np.int16), np.array(identities, np.int64))


def _rows(path: Path, split: str) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as lines:
            for line in lines:
                row = json.loads(line)
                if row["split"] == split:
                    yield row
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: cannot be read ({error}): `facegan shards verify {path.parent}`") from None


class Subset(Images):
    """Some images of a split, numbered anew in its order; its shards are shards of the split."""

    def __init__(self, images: Images, chosen: Ints) -> None:
        self.images, self.chosen = images, chosen
        self.height, self.width, self.channels = images.height, images.width, images.channels
        self.shards, self.split, self.files, self.version = (
            images.shards,
            images.split,
            images.files,
            images.version,
        )
        self.firsts = np.searchsorted(chosen, images.firsts)

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
