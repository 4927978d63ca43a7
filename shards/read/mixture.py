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
from shards.read.order import GlobalOrder

MAX_PERIOD = 1000  # shares as fine as a thousandth
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
        self.orders = [GlobalOrder(size, seed) for size in sizes]
        self.firsts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        self.samples = int(self.firsts[-1])
        self.key = np.frombuffer(hashlib.sha256(f"mixture {seed}".encode()).digest()[:8], "<u8")[0]

    def at(self, positions: Ints) -> Ints:
        """The sample read at each position: a function of (seed, position) alone."""
        blocks, slots = np.divmod(positions, self.period)
        known, rows = np.unique(blocks, return_inverse=True)
        turns = self._turns(known)
        read = turns[rows, slots]
        out = np.empty_like(positions)
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


class MixedImages(Images):
    """The images of several sets, those of the second numbered behind those of the first, and so on.

    Raises ShardError where they are of unlike size or channels, or a stage holds only some shards of one.
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts, first = list(parts), parts[0]
        self.height, self.width, self.channels = first.height, first.width, first.channels
        self.split, self.files, self.version = first.split, first.files, first.version
        self.shards = Shards.of(())
        self.firsts = np.concatenate(([0], np.cumsum([len(part) for part in parts], dtype=np.int64)))
        shapes = [f"{part.height}x{part.width}x{part.channels}" for part in parts]
        if len(set(shapes)) > 1:
            raise ShardError(
                f"sets of one size can be mixed, these are {', '.join(shapes)} (height, width, channels)"
            )
        if any(part.files.partial for part in parts):
            raise ShardError(
                "sets can be mixed where a stage holds all of them: raise --stage-gb to the bytes of all together"
            )

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

    def _by_part(self, indices: Ints) -> list[tuple[Ints, Images, Ints]]:
        """For each part with some of these samples: which of them those are, the part, their numbers in it."""
        which, numbers = self.locate(indices)
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
