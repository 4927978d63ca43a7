"""The endless, ordered stream of uint8 batches that a training reads."""

from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from shards.errors import ShardError
from shards.format.columns import Ints
from shards.read.images import Images
from shards.read.labels import AnyLabels, Labels
from shards.read.mixture import MixtureInStreams
from shards.read.order import GlobalOrder, Order, WindowOrder, window_shape

if TYPE_CHECKING:
    import torch

AHEAD = 8192  # positions whose order is computed at once; computing 128 takes nearly as long
AHEAD_IN_STREAM = 64
Streamed = WindowOrder | MixtureInStreams  # orders over streams of shards
COLD = 1e9  # bytes/s: what is in memory is copied faster, what is on a disk comes slower


class Stream(Iterator["torch.Tensor"]):
    """Batches of one rank, for ever: (b, C, H, W) uint8 in the order of channels_last, b = batch_size / world.

    The global batch is positions [nimg, nimg + batch_size) of an order that depends on the seed alone (see
    `shards.read.order`); rank r of `world` gets the r-th of its equal, contiguous parts. Every sample comes exactly
    once an epoch, batches cross the epoch's border, no rank runs dry, and `nimg` is the whole state: seek to it
    on any number of ranks that divides the batch, in constant time.

    nimg: images read from the stream so far, over all ranks, which is the first position of the next batch.
    order: "global" (one permutation of all samples), "window" (streams of shards; for sets beyond local disk)
        or "auto": "window" where `streams` is given or the images need it (`Images.in_streams`: staged with less
        room than the set takes, or in more shards than are mapped at a time), else "global"; or an order of the
        images that is made already, such as a `MixtureOrder`.
    streams, window: of the window order, by default as `window_shape` has it for the set and the batch. Ranks that
        share a stream, as where their number does not divide the streams, both stage its shards.

    Raises ShardError where world (or streams) does not divide the batch, or the rank is not below world.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        nimg: int = 0,
        order: Order | Literal["auto", "global", "window"] = "auto",
        streams: int | None = None,
        window: int | None = None,
    ) -> None:
        _check_ranks(batch_size, rank, world)
        self.images, self.batch_size, self.rank, self.world = images, batch_size, rank, world
        self.batch_per_rank = batch_size // world
        if order == "auto":
            order = "window" if images.in_streams or streams else "global"
        if order == "window":
            self.order: Order = self._window_order(seed, streams, window)
        else:
            self.order = GlobalOrder(len(images), seed) if isinstance(order, str) else order
        self.samples = self.order.samples
        self._staged = self.order if isinstance(self.order, Streamed) and images.files.partial else None
        self._warm_seconds = self.batch_per_rank * images.height * images.width * images.channels / COLD
        self.seek(nimg)

    def seek(self, nimg: int) -> None:
        """Go on at position `nimg`, in constant time."""
        if nimg < 0 or (isinstance(self.order, Streamed) and nimg % self.batch_size):
            raise ShardError(f"nimg {nimg}: a whole number of batches of {self.batch_size} was expected")
        self.nimg = nimg
        self._samples = self._places = np.empty((0, self.batch_per_rank), np.int64)  # of the next batches
        self._ahead = 0  # batches of these that are read
        self.read = self._samples.reshape(-1)  # the samples of the last batch
        self._announced: set[int] = set()  # shards that the files know to be read

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> "torch.Tensor":
        self._look_ahead()
        self.read = self._samples[self._ahead]
        if self._staged:
            self._announce(self._staged, self.read)
        begun = perf_counter()
        batch = self.images.batch_at(self._places[self._ahead])
        comes_from_disk = perf_counter() - begun > self._warm_seconds
        self._ahead += 1
        if comes_from_disk and self._ahead < len(self._places):  # which then reads all of a batch at once
            self.images.will_need(self._places[self._ahead])
        self.nimg += self.batch_size
        return batch

    def labelled(self, labels: AnyLabels) -> Iterator[tuple["torch.Tensor", Labels]]:
        """Batches, for ever, each with the labels of its samples; `labels` are those of the stream's images.

        Raises ShardError where there are more or fewer of them, as of a split of which the stream reads a `Subset`.
        """
        if len(labels) != len(self.images):
            raise ShardError(
                f"labels of {len(labels):,} samples for a stream of {len(self.images):,}: those of a Subset are "
                "`labels[subset.numbers()]`"
            )
        samples, known = self._samples, labels[self._samples.reshape(-1)]  # of many batches at once: that is faster
        while True:
            self._look_ahead()
            if self._samples is not samples:
                samples, known = self._samples, labels[self._samples.reshape(-1)]
            first = self._ahead * self.batch_per_rank
            yield next(self), known[first : first + self.batch_per_rank]  # not kept here: its memory is used again

    def keys_at(self, positions: Ints) -> list[str]:
        """The keys of the samples read at these positions (int64, (n,))."""
        return self.images.keys(self.order.at(np.asarray(positions, np.int64)))

    def _look_ahead(self) -> None:
        if self._ahead == len(self._places):
            self._samples = self._upcoming()
            self._places, self._ahead = self.images.places(self._samples), 0

    def _upcoming(self) -> Ints:
        """The samples of this rank's next batches: (batches, b)."""
        first = self.nimg + self.rank * self.batch_per_rank
        ahead = AHEAD
        if isinstance(self.order, Streamed):  # it works stream by stream: some entries of each at a time
            ahead = max(AHEAD, AHEAD_IN_STREAM * len(self._my_streams(self.order)))
        batches = max(1, min(ahead, self.samples) // self.batch_per_rank)
        starts = first + self.batch_size * np.arange(batches)
        positions = starts[:, None] + np.arange(self.batch_per_rank)
        return self.order.at(positions.reshape(-1)).reshape(positions.shape)

    def _announce(self, order: Streamed, samples: Ints) -> None:
        """Tell the files which shards are read from now on, whenever a batch leaves the windows known so far."""
        touched = np.unique(np.searchsorted(self.images.firsts, samples, side="right") - 1)
        if self._announced.issuperset(touched.tolist()):
            return
        now, then = order.shards(
            self.nimg + self.batch_size, self._my_streams(order)
        )  # of this batch, some may end a window
        self.images.expect(np.union1d(now, touched), then)
        self._announced = set(now.tolist()) if np.isin(touched, now).all() else set()

    def _my_streams(self, order: Streamed) -> range:
        first = self.rank * self.batch_per_rank
        return range(first // order.batch_per_stream, -(-(first + self.batch_per_rank) // order.batch_per_stream))

    def _window_order(self, seed: int, streams: int | None, window: int | None) -> WindowOrder:
        usual = window_shape(len(self.images.shards), self.batch_size, self.images.version, streams)
        order = WindowOrder(np.diff(self.images.firsts), seed, self.batch_size, usual[0], window or usual[1])
        if (
            self.images.version > 1 or streams
        ):  # part of a run's identity; runs on sets of version 1 know it by less
            order.name = f"window of {order.streams} streams"
        return order


def _check_ranks(batch_size: int, rank: int, world: int) -> None:
    if not 0 <= rank < world:
        raise ShardError(f"rank {rank} of {world}: a rank is 0 to world - 1")
    if batch_size < 1 or batch_size % world:
        raise ShardError(f"batch size {batch_size}: not a multiple of the {world} ranks, each needs an equal part")
