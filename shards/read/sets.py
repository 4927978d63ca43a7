"""A set of shards, opened by its folder or address."""

from pathlib import Path

import numpy as np

from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.index import ShardIndex, Split
from shards.read.choice import Choice
from shards.read.columns import LabelColumns
from shards.read.files import Files
from shards.read.images import Images, StoredImages
from shards.read.labels import AnyLabels, parse_conditions, refuse_none
from shards.read.side_table import read_labels


class ShardSet:
    """An opened set: its index, and the images of each split.

    index: see `shards.format.index.ShardIndex`; folder: where its files are, or are staged to.
    """

    def __init__(self, index: ShardIndex, folder: Path, files: Files) -> None:
        self.index, self.folder, self.files = index, folder, files
        self.height, self.width, self.channels = index.height, index.width, index.channels
        self.fingerprint = index.fingerprint

    def counts(self, name: str) -> Split:
        """How many samples and shards a split has; ShardError where there is no such split."""
        if name not in self.index.splits:
            raise ShardError(f"{self.folder}: no split {name!r}, it has {', '.join(self.index.splits) or 'none'}")
        return self.index.splits[name]

    def split(self, name: str) -> Images:
        """The images of one split; ShardError where there is no such split or one of its shards is amiss."""
        self.counts(name)
        if self.index.members == "stored-png":
            return StoredImages(self.index, name, self.files)
        from shards.read.encoded import EncodedImages

        return EncodedImages(self.index, name, self.files, self.folder)

    def labels(self, split: str) -> AnyLabels:
        """Attributes and identities of a split's samples; ShardError where the set has no side table."""
        self.counts(split)
        if self.index.labels:
            return LabelColumns(self.index, split, self.files)
        return read_labels(self.index, self.folder, self.files, split)

    def where(self, split: str, conditions: str) -> Ints:
        """The samples of a split that meet conditions, as `Labels.where` has it, of which alone labels are read."""
        chosen = self.choose(split, conditions)
        return chosen[np.arange(len(chosen))]

    def choose(self, split: str, conditions: str) -> Choice:
        """The same samples as `where` gives, a bit for each of the split's."""
        self.counts(split)
        try:
            return self._choose(split, conditions)
        except ShardError as error:
            raise error if str(self.folder) in str(error) else ShardError(f"{self.folder}: {error}") from None

    def _choose(self, split: str, conditions: str) -> Choice:
        if not self.index.labels:
            names = [name for name, _ in parse_conditions(conditions, self.index.attributes)]
            return Choice.of(read_labels(self.index, self.folder, self.files, split, names).where(conditions))
        labels = LabelColumns(self.index, split, self.files)
        chosen = Choice.where(labels.masks(conditions))
        refuse_none(len(chosen), conditions, len(labels))
        return chosen
