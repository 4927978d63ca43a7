"""Where each sample's picture lies in its shard: the member table of a set, a part of it mapped when needed."""

from bisect import bisect_right
from itertools import accumulate
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from facegan.files import sha256_file
from shards.errors import ShardError
from shards.format.columns import SideTable
from shards.format.index import ShardIndex
from shards.format.members import read_members
from shards.read.files import Files


class MemberRows:
    """The rows of the member table, one a sample in the order of the set's shards.

    Raises ShardError where a part is missing or damaged: of a table in one part at once, else when it is needed.
    """

    def __init__(self, index: ShardIndex, files: Files) -> None:
        self.tables, self.files, self._lock = index.member_parts, files, Lock()
        whole = int(index.shards.samples.sum())
        self.counts = [table.samples if isinstance(table, SideTable) else whole for table in self.tables]
        self.stops = [*accumulate(self.counts)]
        self._parts: dict[int, NDArray[np.void]] = {}
        if len(self.tables) < 2:
            self._part(0)

    def rows(self, start: int, count: int) -> NDArray[np.void]:
        """The rows of `count` samples of one shard, from number `start` of the set on."""
        number = min(bisect_right(self.stops, start), len(self.stops) - 1)
        first = self.stops[number] - self.counts[number]
        return self._part(number)[start - first : start - first + count]

    def _part(self, number: int) -> NDArray[np.void]:
        with self._lock:
            if number not in self._parts:
                self._parts[number] = self._read(number)
            return self._parts[number]

    def _read(self, number: int) -> NDArray[np.void]:
        if not self.tables:
            raise ShardError("the index names no member table; index the tars again")
        table = self.tables[number]
        path = self.files.hold(table)
        if not path.exists() or path.stat().st_size != table.bytes or sha256_file(path) != table.sha256:
            raise ShardError(
                f"{path}: the member table is missing or damaged: remove index.json and index the tars again (a "
                f"set of `facegan preprocess`: remove {path.parent} and make it again)"
            )
        return read_members(path, self.counts[number])
