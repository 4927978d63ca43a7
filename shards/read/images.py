"""The images of a split, read by number: `Images` is what every kind of set looks like to its readers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.index import Shard, ShardIndex
from shards.format.mapping import Bytes, map_file
from shards.format.png import BLOCK, NAME_BYTES

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]


class Files(Protocol):
    """Where the files of a set are: in a folder, or on their way into one (`shards.read.stage`)."""

    partial: bool  # whether the folder never holds the whole set

    def path(self, shard: Shard) -> Path:
        """The shard as a local file; waits until it is there."""
        ...

    def prepare(self, shards: Sequence[Shard]) -> None:
        """These will be read: look whether they are in order, or fetch them."""
        ...

    def expect(self, now: Sequence[Shard], then: Sequence[Shard]) -> None:
        """Only `now` will be read for the time being, `then` soon; a stage fetches and evicts by it."""
        ...


class Folder:
    """The files of a set that lies in a local folder."""

    partial = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, shard: Shard) -> Path:
        """The shard's path; ShardError where it is missing or has another size than the index says."""
        path = self.folder / shard.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ShardError(f"{path}: in the index, but cannot be read: {error.strerror}") from None
        if size != shard.bytes:
            raise ShardError(
                f"{path}: {size:,} bytes, the index says {shard.bytes:,}; "
                f"`facegan shards verify {self.folder}` says which samples are hit"
            )
        return path

    def prepare(self, shards: Sequence[Shard]) -> None:
        """ShardError where one of the shards is missing or has another size than the index says."""
        for shard in shards:
            self.path(shard)

    def expect(self, now: Sequence[Shard], then: Sequence[Shard]) -> None:
        """Nothing to do: everything is here."""


class Images(ABC):
    """N images (H, W, C) uint8, all of one size, numbered in the order of the split's shards."""

    def __init__(self, index: ShardIndex, split: str, files: Files) -> None:
        self.height, self.width, self.channels = index.height, index.width, index.channels
        self.shards = [shard for shard in index.shards if shard.split == split]
        self.split, self.files = split, files
        self.firsts = np.cumsum([0] + [shard.samples for shard in self.shards], dtype=np.int64)
        files.prepare(self.shards)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @abstractmethod
    def gather(self, indices: Ints) -> Bytes:
        """The images at `indices` (int64, (n,), in [0, N)): (n, H, W, C) uint8, C-contiguous."""

    @abstractmethod
    def keys(self, indices: Ints) -> list[str]:
        """The samples' keys: their members' names before the first dot."""

    def batch(self, indices: Ints) -> "torch.Tensor":
        """The images at `indices` as a tensor (n, C, H, W) uint8 with channels_last strides, without a copy."""
        import torch

        return torch.from_numpy(self.gather(indices)).permute(0, 3, 1, 2)

    def expect(self, now: Ints, then: Ints) -> None:
        """Announce the numbers of the shards that are being read, and of those that follow."""
        self.files.expect([self.shards[i] for i in now], [self.shards[i] for i in then])

    def locate(self, indices: Ints) -> tuple[Ints, Ints]:
        """Shard number and place in that shard of each sample; ShardError for a sample that does not exist."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            found = f"{int(indices.min())} to {int(indices.max())}"
            raise ShardError(f"split {self.split}: samples {found} asked for, there are 0 to {len(self) - 1}")
        shards = np.searchsorted(self.firsts, indices, side="right") - 1
        return shards, indices - self.firsts[shards]


class StoredImages(Images):
    """Images of stored-PNG shards: all shards are memory-mapped and seen as one strided array.

    A batch is one fancy index over that array: no decoder, no worker process, no loop over samples or shards, and
    one page cache for all ranks of a node.
    """

    def __init__(self, index: ShardIndex, split: str, files: Files) -> None:
        super().__init__(index, split, files)
        self.geometry = index.geometry
        self._mapped: dict[int, Bytes] = {}
        self._see()

    def gather(self, indices: Ints) -> Bytes:
        """See `Images.gather`."""
        shards, places = self.locate(indices)
        self._map(shards)
        blocks = self._starts[shards] + places * (self.geometry.stride // BLOCK)
        pixels: Bytes = self._pixels[blocks].reshape(-1, self.height, self.width, self.channels)
        return pixels

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`."""
        shards, places = self.locate(indices)
        self._map(shards)
        heads = [
            self._mapped[shard][place * self.geometry.stride :][:NAME_BYTES].tobytes()
            for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
        ]
        return [head.split(b"\0")[0].split(b".")[0].decode("ascii", "replace") for head in heads]

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`; unmaps what is no longer read, so that its space can be freed."""
        if self.files.partial:
            self._mapped = {shard: data for shard, data in self._mapped.items() if shard in now}
            self._see()
        super().expect(now, then)

    def _map(self, shards: Ints) -> None:
        """Map those of the shards that are not mapped yet."""
        if (self._starts[shards] < 0).any():
            missing = set(shards.tolist()) if self.files.partial else set(range(len(self.shards)))
            for shard in missing - set(self._mapped):
                self._mapped[shard] = map_file(self.files.path(self.shards[shard]))
            self._see()

    def _see(self) -> None:
        """Lay one array over all mappings: entry i is the image whose record begins at block i of 512 bytes.

        Mappings begin at a page and records at a block, wherever the system put them, so `_starts` (the first block
        of each shard, -1 where it is not mapped) and a place say where an image is. Between the mappings there is
        nothing: only blocks that `gather` computes may be touched.
        """
        begin = {shard: data.ctypes.data for shard, data in self._mapped.items()}
        base = min(begin.values(), default=0)
        end = max((begin[shard] + data.size for shard, data in self._mapped.items()), default=0)
        self._starts = np.full(len(self.shards), -1, np.int64)
        for shard, address in begin.items():
            self._starts[shard] = (address - base) // BLOCK
        shape = ((end - base) // BLOCK, self.height, self.width * self.channels)  # two axes copy faster than three
        self._pixels = np.asarray(_Memory(base + self.geometry.pixels, shape, (BLOCK, self.geometry.row, 1)))


class _Memory:
    """Read-only bytes at an address, for NumPy (its array interface); whoever uses it keeps the mapping alive."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.__array_interface__ = {
            "version": 3, "typestr": "|u1", "data": (address, True), "shape": shape, "strides": strides
        }  # fmt: skip
