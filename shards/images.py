"""The images of a split, read by number: `Images` is what every kind of set looks like to its readers."""

import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.index import Shard, ShardIndex
from shards.png import NAME_BYTES

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
T = TypeVar("T")


class Files(Protocol):
    """Where the files of a set are: in a folder, or on their way into one (`shards.stage`)."""

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

    def locate(self, indices: Ints) -> tuple[list[int], list[int]]:
        """Shard number and place in that shard of each sample; ShardError for a sample that does not exist."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            found = f"{int(indices.min())} to {int(indices.max())}"
            raise ShardError(f"split {self.split}: samples {found} asked for, there are 0 to {len(self) - 1}")
        shards = np.searchsorted(self.firsts, indices, side="right") - 1
        return shards.tolist(), (indices - self.firsts[shards]).tolist()


class Opened(dict[int, T], Generic[T]):
    """What was opened of each shard, opened when first asked for."""

    def __init__(self, opener: Callable[[int], T]) -> None:
        self.opener = opener

    def __missing__(self, shard: int) -> T:
        self[shard] = opened = self.opener(shard)
        return opened

    def keep(self, shards: Sequence[int]) -> None:
        """Close all but these."""
        for shard in set(self) - set(shards):
            del self[shard]


class StoredImages(Images):
    """Images of stored-PNG shards: each shard is memory-mapped and its pixels are a strided array.

    One copy of H rows an image is all that a batch costs: no decoder, no worker process, and one page cache
    for all ranks of a node.
    """

    def __init__(self, index: ShardIndex, split: str, files: Files) -> None:
        super().__init__(index, split, files)
        self.geometry = index.geometry
        self._records = Opened(self._map)
        self._rows = Opened(self._view)

    def gather(self, indices: Ints) -> Bytes:
        """See `Images.gather`."""
        shards, places = self.locate(indices)
        out = np.empty((len(shards), self.height, self.width * self.channels), np.uint8)
        views = self._rows
        for row, shard, place in zip(out, shards, places, strict=True):
            row[...] = views[shard][place]  # faster than one fancy index, which has to be one a shard
        return out.reshape(-1, self.height, self.width, self.channels)

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`."""
        shards, places = self.locate(indices)
        heads = (self._records[shard][place, :NAME_BYTES] for shard, place in zip(shards, places, strict=True))
        return [head.tobytes().split(b"\0")[0].split(b".")[0].decode("ascii", "replace") for head in heads]

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`; unmaps what is no longer read, so that its space can be freed."""
        if self.files.partial:
            self._records.keep(now.tolist())
            self._rows.keep(now.tolist())
        super().expect(now, then)

    def _map(self, shard: int) -> Bytes:
        samples = self.shards[shard].samples
        whole = map_file(self.files.path(self.shards[shard]))
        return whole[: samples * self.geometry.stride].reshape(samples, self.geometry.stride)

    def _view(self, shard: int) -> Bytes:
        """The shard's pixels (n, H, W * C): two long axes copy faster than three."""
        view = self.geometry.view(self._records[shard])
        strides = (self.geometry.stride, self.geometry.row, 1)
        shape = (len(view), self.height, self.width * self.channels)
        return np.lib.stride_tricks.as_strided(view, shape, strides, writeable=False)


def map_file(path: Path) -> Bytes:
    """A file's bytes, memory-mapped read-only."""
    with path.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
