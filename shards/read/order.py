"""Which picture is read at which position: keyed permutations, computed entry by entry, nothing stored.

Position p of the endless stream means epoch p // N and entry p % N of that epoch's shuffle, so the whole
state of a stream is one integer, and any position is found in constant time.

Two orders share this interface:

- `GlobalOrder`: one permutation of all N samples an epoch. For sets that lie on a local disk.
- `WindowOrder`: for sets beyond local disk. The set is cut into S streams of consecutive shards (S is
  fixed by the data set and the batch size, never by the ranks); each global batch takes the same number
  of samples from every stream, in the stream's turn, so rank r of W reads about S / W streams and stages
  only their shards. Within a stream the shards are shuffled every epoch and taken a window of
  several at a time; the samples of a window are shuffled together. An epoch still holds every sample
  exactly once, batches still cross its border, and the global batches still do not depend on W.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError

Ints = NDArray[np.int64]

MAX_STREAMS = 4096
ROUNDS, ROUNDS_SMALL, SMALL = 8, 24, 4096  # a tiny domain mixes slowly; the statistical test found both numbers
MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))
HALF = np.uint64(32)


class Order(Protocol):
    """Where to look for position p: `at(positions)` gives sample numbers in [0, samples)."""

    name: str
    samples: int

    def at(self, positions: Ints) -> Ints:
        """The sample read at each position (int64, any shape (n,), 0 <= position)."""
        ...


class Permutation:
    """A bijection of range(n) chosen by `key`, as a function: O(1) memory, entries in any order.

    A generalised Feistel network on Z_a x Z_b, a * b just above n, with cycle walking (Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, section 5). The round function is a
    multiply-xorshift hash instead of a cipher: a shuffle has to look random, not to keep a secret.
    """

    def __init__(self, n: int, *key: int) -> None:
        if n < 1:
            raise ShardError(f"a permutation needs at least one entry, got {n}")
        left = math.isqrt(n - 1) + 1
        self.n = np.uint64(n)
        self.sides = np.uint64(left), np.uint64(-(-n // left))
        rounds = ROUNDS if n > SMALL else ROUNDS_SMALL
        self.keys = np.frombuffer(hashlib.shake_128(repr(key).encode()).digest(8 * rounds), "<u8")

    def __call__(self, entries: Ints, keys: NDArray[np.uint64] | None = None) -> Ints:
        """The images of `entries` (int64 in [0, n), (m,)) under the permutation.

        keys: (rounds, m) of other permutations of as many entries, one an entry, in place of this one's.
        """
        keys = self.keys if keys is None else keys
        out = self._rounds(entries.astype(np.uint64), keys)
        while (outside := out >= self.n).any():  # a share of at most 1 / sqrt(n) walks on
            out[outside] = self._rounds(out[outside], keys[:, outside] if keys.ndim > 1 else keys)
        return out.astype(np.int64)

    def _rounds(self, entries: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high, low = np.divmod(entries, self.sides[0])
        for key, other in zip(keys[::2], keys[1::2], strict=True):
            low = _add(low, _hash(high, key, self.sides[0]), self.sides[0])
            high = _add(high, _hash(low, other, self.sides[1]), self.sides[1])
        return high * self.sides[0] + low


def _hash(value: NDArray[np.uint64], key: NDArray[np.uint64] | np.uint64, side: np.uint64) -> NDArray[np.uint64]:
    """A number in [0, side) for each value; the top half of the hash, scaled (no slow modulo)."""
    mixed = (value ^ key) * MIX[0]
    mixed ^= mixed >> HALF
    mixed *= MIX[1]
    mixed >>= HALF
    mixed *= side
    mixed >>= HALF
    return mixed


def _add(value: NDArray[np.uint64], step: NDArray[np.uint64], side: np.uint64) -> NDArray[np.uint64]:
    step += value
    return np.asarray(np.minimum(step, step - side))  # below `side` the difference wraps to a larger one


class GlobalOrder:
    """One keyed permutation of all samples an epoch."""

    name = "global"

    def __init__(self, samples: int, seed: int) -> None:
        if samples < 1:
            raise ShardError("a stream needs at least one sample; this split is empty")
        self.samples = samples
        self.seed = seed

    def at(self, positions: Ints) -> Ints:
        """The sample read at each position: a function of (seed, position) alone."""
        epochs, entries = np.divmod(positions, self.samples)
        if epochs.size and epochs.min() == epochs.max():
            return Permutation(self.samples, self.seed, int(epochs.flat[0]))(entries)
        known, rows = np.unique(epochs.reshape(-1), return_inverse=True)  # of a small set there may be thousands
        each = [Permutation(self.samples, self.seed, epoch) for epoch in known.tolist()]
        if not each:
            return entries
        keys = np.stack([permutation.keys for permutation in each], axis=1)
        return each[0](entries.reshape(-1), keys[:, rows]).reshape(positions.shape)


class Window(NamedTuple):
    """Some pieces of shards, shuffled together: entries [start, start + samples) of a stream's epoch."""

    start: int
    pieces: Ints  # (pieces,) first sample of each
    ends: Ints  # (pieces,) running total of their lengths
    permutation: Permutation

    def at(self, entries: Ints) -> Ints:
        """The sample at each entry of the stream's epoch that lies in this window."""
        shuffled = self.permutation(entries - self.start)
        piece = np.searchsorted(self.ends, shuffled, side="right")
        before = np.concatenate(([0], self.ends))
        return np.asarray(self.pieces[piece] + shuffled - before[piece])


class WindowOrder:
    """Streams of shards, each shuffled within a window of shards; see the module's docstring.

    `sizes` are the samples of each shard in the split's order. Position p is place p % B of its batch and
    so belongs to stream (p % B) // (B / S). How many positions of epoch e a stream has follows from that,
    and the stream takes as many consecutive samples of the set: its part of the set moves by less than a
    batch from one epoch to the next, which is why every epoch is exact for any N, B and S. Memory is a few
    numbers a shard, nothing a sample.
    """

    name = "window"

    def __init__(self, sizes: Sequence[int] | Ints, seed: int, batch_size: int, streams: int, window: int) -> None:
        if streams < 1 or batch_size % streams:
            raise ShardError(f"batch size {batch_size} is not a multiple of the {streams} streams of shards")
        if np.sum(sizes) < 1 or window < 1:
            raise ShardError(f"the window order needs samples and a window, got {np.sum(sizes)} and {window}")
        self.firsts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        self.samples = int(self.firsts[-1])
        self.seed, self.batch_size, self.streams, self.window = seed, batch_size, streams, window
        self.batch_per_stream = batch_size // streams  # samples of one stream in a batch
        self._windows = lru_cache(maxsize=4 * streams)(self._plan)

    def at(self, positions: Ints) -> Ints:
        """The sample read at each position: a function of (seed, batch size, position) alone."""
        epochs = positions // self.samples
        streams = positions % self.batch_size // self.batch_per_stream
        out = np.empty_like(positions)
        together = epochs * self.streams + streams
        sorted_by_stream = np.argsort(together, kind="stable")
        for mine in np.split(sorted_by_stream, np.flatnonzero(np.diff(together[sorted_by_stream])) + 1):
            if not len(mine):
                continue
            epoch, stream = int(epochs[mine[0]]), int(streams[mine[0]])
            entries = self._taken(positions[mine], stream) - self._taken(epoch * self.samples, stream)
            out[mine] = self._in_stream(epoch, stream, entries)
        return out

    def shards(self, position: int, streams: range) -> tuple[Ints, Ints]:
        """The shards of the windows in which these streams read at `position`, and of the windows after.

        What a node has to have on its disk, and what it should fetch next.
        """
        now, then = zip(*(self._current_and_next(position, stream) for stream in streams), strict=True)
        return np.unique(np.concatenate(now)), np.unique(np.concatenate(then))

    def _current_and_next(self, position: int, stream: int) -> tuple[Ints, Ints]:
        epoch = position // self.samples
        entry = int(self._taken(position, stream) - self._taken(epoch * self.samples, stream))
        windows: list[Window] = []
        while len(windows) < 2:
            windows += [w for w in self._windows(epoch, stream) if w.start + int(w.ends[-1]) > entry]
            epoch, entry = epoch + 1, 0
        now, then = (np.searchsorted(self.firsts, w.pieces, side="right") - 1 for w in windows[:2])
        return now, then

    def _taken(self, position: Ints | int, stream: Ints | int) -> Ints:
        """How many positions before `position` belong to `stream`."""
        batch, place = np.divmod(position, self.batch_size)
        share = self.batch_per_stream
        return np.asarray(batch * share + np.clip(place - stream * share, 0, share))

    def _part(self, epoch: int, stream: int) -> tuple[int, int]:
        """The samples [first, last) of the set that `stream` reads in `epoch`."""
        start, stop = epoch * self.samples, (epoch + 1) * self.samples
        streams = np.arange(stream + 1)
        edges = np.cumsum(self._taken(stop, streams) - self._taken(start, streams))
        return int(edges[-2]) if stream else 0, int(edges[-1])

    def _plan(self, epoch: int, stream: int) -> list[Window]:
        first, last = self._part(epoch, stream)
        if first == last:
            return []
        inside = slice(*np.searchsorted(self.firsts, (first + 1, last)))  # of a million shards, those of the stream
        edges = np.unique(np.concatenate(([first], self.firsts[inside], [last])))
        order = Permutation(len(edges) - 1, self.seed, epoch, stream)(np.arange(len(edges) - 1))
        starts, lengths = edges[:-1][order], np.diff(edges)[order]
        windows, done = [], 0
        for number, at in enumerate(range(0, len(order), self.window)):
            ends = np.cumsum(lengths[at : at + self.window])
            key = (self.seed, epoch, stream, number)
            windows.append(Window(done, starts[at : at + self.window], ends, Permutation(int(ends[-1]), *key)))
            done += int(ends[-1])
        return windows

    def _in_stream(self, epoch: int, stream: int, entries: Ints) -> Ints:
        windows = self._windows(epoch, stream)
        number = np.searchsorted([window.start for window in windows], entries, side="right") - 1
        out = np.empty_like(entries)
        for each in np.unique(number).tolist():
            out[number == each] = windows[each].at(entries[number == each])
        return out


def window_shape(shards: int, batch_size: int, version: int = 2, streams: int | None = None) -> tuple[int, int]:
    """Streams and window (in shards) for a set of that many shards: a batch mixes about a quarter of them.

    As many streams as divide the batch, at most MAX_STREAMS and one for eight shards; fixed by the data and the
    batch, not by the number of ranks, so that the order outlives a change of machines. version: of the set's
    index; those of version 1 had at most 64 streams, a power of two, and keep their order. streams: asked for.
    """
    most = max(1, shards // 8)
    if streams is None and version == 1:
        streams = math.gcd(1 << (min(64, most).bit_length() - 1), batch_size)
    if streams is None:
        streams = next(n for n in range(min(MAX_STREAMS, most, batch_size), 0, -1) if batch_size % n == 0)
    return streams, min(8, max(2, shards // (4 * streams)))
