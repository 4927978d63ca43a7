"""The images of a split, read by number: `Images` is what every kind of set looks like to its readers."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.index import ShardIndex
from shards.format.mapping import Bytes, will_need
from shards.format.png import BLOCK, NAME_BYTES
from shards.read.files import Files
from shards.read.mapped import MAX_MAPPINGS, Mapped

if TYPE_CHECKING:
    import torch

LINE = 64  # bytes of a cache line
TOUCHED = 4  # bytes of each image to be touched before it is copied


class Images(ABC):
    """N images (H, W, C) uint8, all of one size, numbered in the order of the split's shards."""

    def __init__(self, index: ShardIndex, split: str, files: Files) -> None:
        self.height, self.width, self.channels = index.height, index.width, index.channels
        self.shards, self.version = index.shards.of_split(split), index.version
        self.split, self.files = split, files
        self.firsts = np.concatenate(([0], np.cumsum(self.shards.samples)))
        files.prepare(self.shards)
        self.mapped = Mapped(self.shards, files)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def in_streams(self) -> bool:
        """Whether to read a few shards at a time: a stage has room for no more, or no process may map as many.

        A set of version 1 in place is shuffled as one, as when the runs on it began.
        """
        return self.files.partial or (self.version > 1 and len(self.firsts) - 1 > MAX_MAPPINGS)

    @abstractmethod
    def gather_at(self, places: Ints) -> Bytes:
        """The images at these places (int64, (n,), from `places`): (n, H, W, C) uint8, one image after the other.

        A fresh array; rows and images may have a few bytes between them.
        """

    @abstractmethod
    def keys(self, indices: Ints) -> list[str]:
        """The samples' keys: their members' names before the first dot."""

    def places(self, indices: Ints) -> Ints:
        """Where the samples at `indices` (int64, any shape, in [0, N)) lie, as `gather_at` takes it.

        Worked out for many batches at once it costs a batch next to nothing.
        """
        self.locate(indices)  # refuses what does not exist
        return indices

    def gather(self, indices: Ints) -> Bytes:
        """The images at `indices` (int64, (n,), in [0, N)); see `gather_at`."""
        return self.gather_at(self.places(indices))

    def batch(self, indices: Ints) -> "torch.Tensor":
        """The images at `indices` as a tensor; see `batch_at`."""
        return self.batch_at(self.places(indices))

    def batch_at(self, places: Ints) -> "torch.Tensor":
        """The images at these places as a tensor (n, C, H, W) uint8 in the memory order of channels_last.

        Nothing is copied but the images themselves, so rows may have a few bytes between them, which `to` and
        `contiguous(memory_format=torch.channels_last)` leave out.
        """
        import torch

        return torch.from_numpy(self.gather_at(places).transpose(0, 3, 1, 2))

    def expect(self, now: Ints, then: Ints) -> None:
        """Announce the numbers of the shards that are being read, and of those that follow."""
        self.files.expect([self.shards[i] for i in now], [self.shards[i] for i in then])

    def will_need(self, places: Ints) -> None:  # noqa: B027 - some kinds have nothing to do
        """Announce that the images at these places are gathered next, where their files have still to be read."""

    def locate(self, indices: Ints) -> tuple[Ints, Ints]:
        """Shard number and place in that shard of each sample; ShardError for a sample that does not exist."""
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            asked = f"{int(indices.min())} to {int(indices.max())}"
            raise ShardError(f"split {self.split}: samples {asked} asked for, there are 0 to {len(self) - 1}")
        shards = np.searchsorted(self.firsts, indices, side="right") - 1
        return shards, indices - self.firsts[shards]


class StoredImages(Images):
    """Images of stored-PNG shards: the split is seen as one strided array over its memory-mapped shards.

    A batch is one fancy index over that array, one copy of contiguous bytes an image: no decoder, no worker
    process, no loop over samples or shards, and one page cache for all ranks of a node.
    """

    def __init__(self, index: ShardIndex, split: str, files: Files) -> None:
        super().__init__(index, split, files)
        self.geometry = index.geometry
        # Shards begin at a page, records at a block of 512 bytes: entry i holds the pixels of the image whose
        # record begins at block i. Most entries are no images; only those of `places` are touched. It is one opaque
        # item, which NumPy gathers in one copy without a loop over an inner axis. It begins and ends on the cache
        # lines around the pixels: faster than exactly the pixels, as all copies are aligned alike.
        first = self.geometry.pixels // LINE * LINE
        self._shift = self.geometry.pixels - first
        size = -(-(self._shift + self.height * self.geometry.row) // LINE) * LINE
        self._strides = (size, self.geometry.row, self.channels, 1)
        self._spans: NDArray[np.void] = np.ndarray(
            max(self.mapped.bytes.size - first - size + BLOCK, 0) // BLOCK,
            np.dtype((np.void, size)),
            self.mapped.bytes,
            first,
            (BLOCK,),
        )
        self._touched = np.linspace(first, first + size - 1, TOUCHED).astype(np.int64)[:, None]
        self._stride = self.geometry.stride // BLOCK
        self._blocks = self.mapped.starts[:-1] // BLOCK - self.firsts[:-1] * self._stride  # where image 0 would lie

    def places(self, indices: Ints) -> Ints:
        """The block at which each sample's record begins."""
        blocks: Ints = self._blocks[self.locate(indices)[0]] + indices * self._stride
        return blocks

    def gather_at(self, places: Ints) -> Bytes:
        """See `Images.gather_at`."""
        with self.mapped.lock:
            self._map(places)
            # Memory answers these reads together, those of copies one after the other (docs/benchmarks.md)
            _ = self.mapped.bytes[(self._touched + places * BLOCK).ravel()]
            spans = self._spans[places]
        shape = (len(places), self.height, self.width, self.channels)
        if not len(places):  # no bytes, over which there are no strides
            return np.empty(shape, np.uint8)
        return np.ndarray(shape, np.uint8, spans, self._shift, self._strides)

    def will_need(self, places: Ints) -> None:
        """See `Images.will_need`; a stage that holds only some shards fetches them by itself."""
        if self.files.partial:
            return
        with self.mapped.lock:
            self._map(places)
            will_need(self.mapped.bytes, places * BLOCK, self.geometry.stride)

    def _map(self, places: Ints) -> None:
        if not self.mapped.whole:
            self.mapped.need(np.searchsorted(self.mapped.starts, places * BLOCK, side="right") - 1)

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`."""
        with self.mapped.lock:
            self.mapped.need(self.locate(indices)[0])
            starts = (self.places(indices) * BLOCK).tolist()
            heads = [self.mapped.bytes[start : start + NAME_BYTES].tobytes() for start in starts]
        return [head.split(b"\0")[0].split(b".")[0].decode("ascii", "replace") for head in heads]

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`; unmaps what is no longer read, so that its space can be freed."""
        if self.files.partial:
            with self.mapped.lock:
                self.mapped.keep(now)
        super().expect(now, then)
