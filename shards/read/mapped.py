"""The shards of a split side by side in one stretch of address space, a bounded number of them mapped at a time."""

import mmap
from threading import RLock

import numpy as np

from shards.errors import ShardError
from shards.format.columns import Ints, Shards
from shards.format.mapping import Bytes, map_at, reserve, unmap_at
from shards.read.files import Files

MAX_MAPPINGS = 1 << 15  # Linux allows a process 65,530 of all kinds


class Mapped:
    """Every shard has its place in `bytes` from `starts[i]` on, whether it is mapped or not.

    So where a sample lies never changes. `bytes` may be touched only in shards that `need` has mapped, and under
    `lock`, as another thread may let the least recently used go.
    """

    def __init__(self, shards: Shards, files: Files, limit: int = MAX_MAPPINGS) -> None:
        self.shards, self.files, self.limit = shards, files, limit
        pages = -(-shards.bytes // mmap.PAGESIZE)
        self.starts = np.concatenate(([0], np.cumsum(pages))) * mmap.PAGESIZE
        self.bytes = _reserved(int(self.starts[-1]))
        self.lock = RLock()
        self.count = 0
        self._used = np.zeros(len(shards), np.int64)  # when each was last needed; 0: not mapped
        self._now = 0

    @property
    def whole(self) -> bool:
        """Whether all shards are mapped, and will stay so."""
        return self.count == len(self.shards)

    def need(self, shards: Ints) -> None:
        """Map these shards; the least recently used go where there would be too many."""
        self._now += 1
        missing = np.unique(shards[self._used[shards] == 0])
        self._used[shards[self._used[shards] > 0]] = self._now
        self._drop_oldest(self.count + len(missing) - self.limit)
        for shard in missing.tolist():
            map_at(self.bytes, int(self.starts[shard]), self.files.path(self.shards[shard]))
            self._used[shard] = self._now
            self.count += 1

    def keep(self, shards: Ints) -> None:
        """Let all shards go but these, so that the space of their files can be freed."""
        held = np.flatnonzero(self._used)
        self._drop(held[~np.isin(held, shards)])

    def _drop_oldest(self, excess: int) -> None:
        if excess > 0:
            old = np.flatnonzero((self._used > 0) & (self._used < self._now))
            share = max(excess, self.limit // 8)  # some at once: looking for the oldest takes longer than one
            self._drop(old[np.argsort(self._used[old], kind="stable")][:share])

    def _drop(self, shards: Ints) -> None:
        for shard in shards.tolist():
            start, stop = self.starts[shard : shard + 2].tolist()
            unmap_at(self.bytes, start, stop - start)
            self._used[shard] = 0
            self.count -= 1


def _reserved(size: int) -> Bytes:
    try:
        return reserve(max(size, mmap.PAGESIZE))
    except OSError as error:
        raise ShardError(
            f"the split takes {size / 1e9:,.1f} GB of address space, which could not be had ({error.strerror}): "
            "`ulimit -v` says how much a process may have"
        ) from None
