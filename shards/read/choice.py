"""Some of a split's samples, kept as a bit each."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from shards.format.columns import Ints

WORD = 64  # bits
ONE = np.uint64(1)


class Choice:
    """Some of the numbers from 0 on, ascending: two bits of memory for each there could be, whatever is chosen.

    words: (n,) uint64; number i is chosen where bit i % 64 of word i // 64 is set.
    """

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words
        self._before = np.concatenate(([0], np.cumsum(np.bitwise_count(words), dtype=np.int64)))

    @classmethod
    def all(cls, count: int) -> "Choice":
        """The first `count` numbers."""
        words = np.full(-(-count // WORD), ~np.uint64(0), "<u8")
        if count % WORD:
            words[-1] >>= np.uint64(WORD - count % WORD)
        return cls(words)

    @classmethod
    def of(cls, numbers: Ints) -> "Choice":
        """These numbers, in any order."""
        words = np.zeros(int(numbers.max(initial=-1)) // WORD + 1, "<u8")
        np.bitwise_or.at(words, numbers // WORD, ONE << (numbers % WORD).astype(np.uint64))
        return cls(words)

    @classmethod
    def where(cls, masks: Iterable[NDArray[np.bool_]]) -> "Choice":
        """The numbers that the masks say, each going on where the one before it ends."""
        words, rest = [np.empty(0, "<u8")], np.empty(0, bool)
        for mask in (*masks, np.zeros(WORD - 1, bool)):
            bits = np.concatenate([rest, mask])
            whole = len(bits) // WORD * WORD
            words.append(np.packbits(bits[:whole], bitorder="little").view("<u8"))
            rest = bits[whole:]
        return cls(np.concatenate(words))

    def without(self, numbers: Ints) -> "Choice":
        """All of these but `numbers`."""
        words, numbers = self.words.copy(), numbers[numbers < WORD * len(self.words)]
        np.bitwise_and.at(words, numbers // WORD, ~(ONE << (numbers % WORD).astype(np.uint64)))
        return Choice(words)

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, places: Ints) -> Ints:
        """The chosen numbers at these places (int64, any shape, from 0 to below the length), of the same shape."""
        at = np.searchsorted(self._before, places, side="right") - 1
        words, left = self.words[at], places - self._before[at]  # set bits still to be passed
        numbers = at * WORD
        for half in (32, 16, 8, 4, 2, 1):
            passed = np.bitwise_count(words & ((ONE << np.uint64(half)) - ONE))
            beyond = left >= passed
            left -= passed * beyond
            step = beyond * half
            numbers += step
            words >>= step.astype(np.uint64)
        return numbers

    def before(self, numbers: Ints) -> Ints:
        """How many chosen numbers are below each of `numbers`."""
        at, bits = np.divmod(np.minimum(numbers, WORD * len(self.words)), WORD)
        words = np.append(self.words, np.uint64(0))[at] & ((ONE << bits.astype(np.uint64)) - ONE)
        return np.asarray(self._before[at] + np.bitwise_count(words), np.int64)
