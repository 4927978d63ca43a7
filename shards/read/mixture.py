"""Several sets read as one, each with its own share of the images."""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.columns import Ints, Shards
from shards.format.mapping import Bytes
from shards.read.images import Images
from shards.read.mapped import MAX_MAPPINGS
from shards.read.order import GlobalOrder, Order, WindowOrder, window_shape

MAX_PERIOD = 1000  # shares as fine as a thousandth
FEW = 64  # images
SPLITMIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


class MixtureOrder:
    """Positions shared out among sets, each of which is read in the very order that it has alone.

    Shares are whole numbers w of a period P, such as 3 and 1 of 4. Each P positions that follow each other hold w
    samples of each set, in a turn shuffled by (seed, their number), so it is known how many each set has given
    before any position: nothing is carried along, and a position is found in constant time, on any rank. Every
    sample of a set comes once in each pass of that set; small sets pass more often. A sample's number is that in
    `MixedImages`.

    samples: an "epoch" of the whole, as many images as the sets have together.

    Raises ShardError for shares that are not above 0, or finer than 1 / MAX_PERIOD.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[Fraction | int], seed: int) -> None:
        self.weights = whole_weights(shares)
        self.period = sum(self.weights)
        self.name = f"mixture of {':'.join(map(str, self.weights))}"
        self.orders: list[Order] = [GlobalOrder(size, seed) for size in sizes]
        self.firsts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        self.samples = int(self.firsts[-1])
        self.key = np.frombuffer(hashlib.sha256(f"mixture {seed}".encode()).digest()[:8], "<u8")[0]

    def at(self, positions: Ints) -> Ints:
        """The sample read at each position: a function of (seed, position) alone."""
        return self._at(*np.divmod(positions, self.period))

    def _at(self, blocks: Ints, slots: Ints) -> Ints:
        """The sample at these places of periods, which have the numbers `blocks`."""
        known, rows = np.unique(blocks, return_inverse=True)
        turns = self._turns(known)
        read = turns[rows, slots]
        out = np.empty_like(blocks)
        for number, (order, weight) in enumerate(zip(self.orders, self.weights, strict=True)):
            mine = read == number
            given = np.cumsum(turns == number, axis=1)[rows[mine], slots[mine]] - 1
            out[mine] = self.firsts[number] + order.at(blocks[mine] * weight + given)
        return out

    def _turns(self, blocks: Ints) -> NDArray[np.intp]:
        """The set read at each place of these blocks: (blocks, period)."""
        places = blocks[:, None].astype(np.uint64) * np.uint64(self.period) + np.arange(
            self.period, dtype=np.uint64
        )
        mixed = places * np.uint64(0x9E3779B97F4A7C15) + self.key
        for shift, factor in SPLITMIX:  # Steele et al. 2014, "Fast splittable pseudorandom number generators"
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        turn = np.argsort(mixed, axis=1, kind="stable")
        return np.repeat(np.arange(len(self.weights)), self.weights)[turn]


class MixtureInStreams(MixtureOrder):
    """The same for sets beyond local disk: each is cut into the S streams of a `WindowOrder`, of which S is shared.

    A batch takes B / S images from every stream, and it is each P of a stream that follow each other which hold w
    of each set: period number n of stream s counts as number n S + s of all. So each set is read in the order that
    it has alone with these streams and a batch of w S: each sample once in each pass, and by a rank only those of
    its streams. A set with less than FEW images for each stream is shuffled as one instead, and had whole by all.

    sizes: of each set, the samples of each shard, in the split's order. streams: by default as `window_shape` has
        it for the set with the most shards.

    Raises ShardError also where the batch is no multiple of the streams.
    """

    def __init__(
        self,
        sizes: Sequence[Ints],
        shares: Sequence[Fraction | int],
        seed: int,
        batch_size: int,
        streams: int | None = None,
    ) -> None:
        super().__init__([int(each.sum()) for each in sizes], shares, seed)
        self.streams, _ = window_shape(max(map(len, sizes)), batch_size, streams=streams)
        if batch_size % self.streams:
            raise ShardError(f"batch size {batch_size} is not a multiple of the {self.streams} streams of shards")
        self.batch_size, self.batch_per_stream = batch_size, batch_size // self.streams
        self.name += f" in {self.streams} streams"
        self.counts = [len(each) for each in sizes]
        for number, each in enumerate(sizes):
            if each.sum() >= FEW * self.streams:
                _, window = window_shape(len(each), batch_size, streams=self.streams)
                batch = self.weights[number] * self.streams
                self.orders[number] = WindowOrder(each, seed, batch, self.streams, window)

    def at(self, positions: Ints) -> Ints:
        """The sample read at each position: a function of (seed, batch size, position) alone."""
        batches, places = np.divmod(positions, self.batch_size)
        streams, places = np.divmod(places, self.batch_per_stream)
        periods, slots = np.divmod(batches * self.batch_per_stream + places, self.period)
        return self._at(periods * self.streams + streams, slots)

    def shards(self, position: int, streams: range) -> tuple[Ints, Ints]:
        """See `WindowOrder.shards`; the shards of all sets, those of the second numbered behind those of the first.

        position: the first of a batch.
        """
        periods, slot = divmod(position // self.batch_size * self.batch_per_stream, self.period)
        turns = self._turns(periods * self.streams + np.arange(streams.start, streams.stop))
        now, then, first = [], [], 0
        for number, (order, weight) in enumerate(zip(self.orders, self.weights, strict=True)):
            found = [(np.arange(self.counts[number]), np.empty(0, np.int64))]  # of a set that is shuffled as one
            if isinstance(order, WindowOrder):
                given = np.count_nonzero(turns[:, :slot] == number, axis=1).tolist()
                ahead, places = zip(*(divmod(each, weight) for each in given), strict=True)
                found = [
                    order.shards(
                        ((periods + more) * self.streams + stream) * weight + place, range(stream, stream + 1)
                    )
                    for stream, more, place in zip(streams, ahead, places, strict=True)
                ]
            now += [first + each for each, _ in found]
            then += [first + each for _, each in found]
            first += self.counts[number]
        return np.unique(np.concatenate(now)), np.unique(np.concatenate(then))


class MixedImages(Images):
    """The images of several sets, those of the second numbered behind those of the first, and so on; shards alike.

    Raises ShardError where they are of unlike size or channels.
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts, first = list(parts), parts[0]
        self.height, self.width, self.channels = first.height, first.width, first.channels
        self.split, self.version = first.split, first.version
        self.files = next((part.files for part in parts if part.files.partial), first.files)  # is it one of all?
        self.shards = Shards.of(())
        self.starts = np.concatenate(([0], np.cumsum([len(part) for part in parts], dtype=np.int64)))
        before = zip(parts, self.starts[:-1], strict=True)
        self.firsts = np.concatenate(([0], *(part.firsts[1:] + start for part, start in before)))
        shapes = [f"{part.height}x{part.width}x{part.channels}" for part in parts]
        if len(set(shapes)) > 1:
            raise ShardError(
                f"sets of one size can be mixed, these are {', '.join(shapes)} (height, width, channels)"
            )
        for part in parts:  # a process may map so many in all
            part.mapped.limit = MAX_MAPPINGS // len(parts)

    def gather_at(self, places: Ints) -> Bytes:
        """See `Images.gather_at`."""
        out = np.empty((len(places), self.height, self.width, self.channels), np.uint8)
        for rows, part, numbers in self._by_part(places):
            out[rows] = part.gather(numbers)
        return out

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`; sets may have the same ones."""
        keys = np.empty(len(indices), object)
        for rows, part, numbers in self._by_part(indices):
            keys[rows] = part.keys(numbers)
        return list(keys)

    def will_need(self, places: Ints) -> None:
        """See `Images.will_need`."""
        for _, part, numbers in self._by_part(places):
            part.will_need(part.places(numbers))

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`."""
        first = 0
        for part in self.parts:
            stop = first + len(part.firsts) - 1
            part.expect(*(each[(first <= each) & (each < stop)] - first for each in (now, then)))
            first = stop

    def _by_part(self, indices: Ints) -> list[tuple[Ints, Images, Ints]]:
        """For each part with some of these samples: which of them those are, the part, their numbers in it."""
        which = np.searchsorted(self.starts, indices, side="right") - 1
        numbers = indices - self.starts[which]
        rows = [np.flatnonzero(which == number) for number in range(len(self.parts))]
        return [(row, part, numbers[row]) for row, part in zip(rows, self.parts, strict=True) if len(row)]


def whole_weights(shares: Sequence[Fraction | int]) -> list[int]:
    """The smallest whole numbers in the ratio of these shares; see `MixtureOrder`."""
    fractions = [Fraction(share) for share in shares]
    if min(fractions) <= 0:
        raise ShardError(f"shares of a mixture are above 0, got {', '.join(map(str, shares))}")
    whole = [int(each * math.lcm(*(other.denominator for other in fractions))) for each in fractions]
    weights = [each // math.gcd(*whole) for each in whole]
    if sum(weights) > MAX_PERIOD:
        raise ShardError(
            f"shares {', '.join(map(str, shares))} are {':'.join(map(str, weights))} in whole numbers: expected "
            f"such that add up to at most {MAX_PERIOD:,}; round them"
        )
    return weights
