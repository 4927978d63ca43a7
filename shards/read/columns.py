"""Labels of a split from the columns beside its set: mapped, so that the ranks of a node share their pages."""

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.index import ShardIndex
from shards.format.labels import Decoder, LabelFile, numbered, open_labels
from shards.format.mapping import Bytes, map_at, reserve
from shards.read.files import Files
from shards.read.labels import Labels, LabelsInPlace, parse_conditions

BLOCK = 1 << 18  # samples looked at together


class LabelColumns(LabelsInPlace):
    """The labels of a split's n samples where they lie: only what is asked for is read, and nothing is parsed.

    The files have their places side by side in one stretch of address space, so that a batch is one fancy index
    over it. Raises ShardError where one that tells of the split is missing or not what the index says.
    """

    def __init__(self, index: ShardIndex, split: str, files: Files) -> None:
        self.names, self.split = index.attributes, split
        self._firsts, part, row = _pieces(index, split)
        used, part = np.unique(part, return_inverse=True)
        tables = [index.labels[number] for number in used.tolist()]
        opened = [open_labels(files.hold(table), table, len(self.names)) for table in tables]
        # Of each piece of the split, which lies in one file: its rows' kind and width, where sample 0 would be
        starts, self._space = _mapped(opened)
        self._kinds = sorted({file.kind for file in opened}, key=lambda kind: kind.itemsize)
        self._kind = np.array([self._kinds.index(file.kind) for file in opened], np.int64)[part]
        self._width = np.array([file.kind.itemsize for file in opened], np.int64)[part]
        self._starts = starts[part] + (row - self._firsts[:-1]) * self._width
        wide = np.array([file.wide for file in opened], bool).reshape(len(opened), len(self.names))
        self._decoder = Decoder(np.asarray(~wide.any(axis=0)))  # CelebA's -1 is no
        numbers = numbered([file.identities for file in opened])
        counts = np.array([len(each) for each in numbers], np.int64)
        none = np.cumsum(counts) - counts  # before the identities of each file stands -1
        self._numbers = np.insert(np.concatenate([*numbers, np.empty(0, np.int64)]), none, -1)
        self._count, self._before = counts[part], (none + np.arange(len(opened)) + 1)[part]

    @property
    def identity_count(self) -> int:
        """See `LabelsInPlace`."""
        return int(self._numbers.max(initial=-1)) + 1

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, samples: Ints) -> Labels:
        """The labels of these samples (int64, (m,), in [0, n))."""
        if len(samples) and (samples.min() < 0 or samples.max() >= len(self)):
            asked = f"{int(samples.min())} to {int(samples.max())}"
            raise ShardError(f"split {self.split}: labels {asked} asked for, there are 0 to {len(self) - 1}")
        pieces = np.searchsorted(self._firsts, samples, side="right") - 1
        places, kinds = self._starts[pieces] + samples * self._width[pieces], self._kind[pieces]
        values = np.empty((len(samples), len(self.names)), np.int16)
        codes = np.empty(len(samples), np.int64)
        for number, kind in enumerate(self._kinds):
            mine = np.flatnonzero(kinds == number) if len(self._kinds) > 1 else slice(None)
            rows = self._spans(kind)[places[mine]].view(kind)
            codes[mine] = rows["identity"]
            if self.names:
                values[mine] = self._decoder.values(rows["attributes"])
        if ((codes < -1) | (codes >= self._count[pieces])).any():
            raise ShardError("a file of labels is damaged: `facegan shards verify` says which")
        return Labels(self.names, values, self._numbers[codes + self._before[pieces]])

    def masks(self, conditions: str) -> Iterator[NDArray[np.bool_]]:
        """See `LabelsInPlace.masks`."""
        wanted = [(self.names.index(name), value) for name, value in parse_conditions(conditions, self.names)]
        for piece, first in enumerate(self._firsts[:-1].tolist()):
            kind, end = self._kinds[int(self._kind[piece])], int(self._firsts[piece + 1])
            for start in range(first, end, BLOCK):
                place = int(self._starts[piece] + start * self._width[piece])
                rows = np.ndarray(min(BLOCK, end - start), kind, self._space, place)
                meets = np.ones(len(rows), bool)
                for column, value in wanted:
                    meets &= self._decoder.column(rows["attributes"], column) == value
                yield meets

    def _spans(self, kind: np.dtype[np.void]) -> NDArray[np.void]:
        """The mapped files as rows of this kind, one at each byte; most are no rows."""
        count = self._space.size - kind.itemsize + 1
        return np.ndarray(count, np.dtype((np.void, kind.itemsize)), self._space, 0, (1,))


def _mapped(files: Sequence[LabelFile]) -> tuple[Ints, Bytes]:
    """Files in one stretch of address space, and where in it the rows of each begin."""
    sizes = np.array([file.bytes for file in files], np.int64)
    ends = np.cumsum(-(-sizes // mmap.PAGESIZE)) * mmap.PAGESIZE
    starts = np.concatenate(([0], ends))[: len(files)]
    space = reserve(max(int(ends.max(initial=0)), mmap.PAGESIZE))
    for start, file in zip(starts.tolist(), files, strict=True):
        map_at(space, start, file.path)
    return starts + np.array([file.start for file in files], np.int64), space


def _pieces(index: ShardIndex, split: str) -> tuple[Ints, Ints, Ints]:
    """A split cut by files of labels: the first sample of each piece, and the split's end; its file, its row there.

    One piece a file in our sets, whose splits lie each in one stretch.
    """
    stops, mine = np.cumsum(index.shards.samples), index.shards.numbers(split)
    starts, ends = (stops - index.shards.samples)[mine], stops[mine]
    begins = np.ones(len(mine), bool)
    begins[1:] = starts[1:] != ends[:-1]
    starts, ends = starts[begins], ends[np.append(begins[1:], True)[: len(ends)]]
    counts = np.array([table.samples for table in index.labels], np.int64)
    edges = np.unique(np.concatenate([starts, ends, np.cumsum(counts)]))
    run = np.searchsorted(starts, edges[:-1], side="right") - 1
    inside = (run >= 0) & (edges[:-1] < np.append(ends, 0)[run])
    firsts = np.concatenate(([0], np.cumsum(np.diff(edges)[inside])))
    part = np.searchsorted(np.cumsum(counts), edges[:-1][inside], side="right")
    return firsts, part, edges[:-1][inside] - (np.cumsum(counts) - counts)[part]
