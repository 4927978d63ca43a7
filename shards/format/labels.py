"""Labels as columns beside the side table: a few bytes a sample in NumPy's format, mapped instead of parsed.

A file holds three arrays, one after the other as `np.save` writes them (`np.load` gives the first): a row a sample;
the identities that the rows number, in the order of their first sample; for each attribute, whether the part has a
value of it beside -1 and 1.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facegan.files import sha256_file, whole_file
from shards.errors import ShardError
from shards.format.columns import BAD_HEADER, Ints, SideTable, array_at
from shards.format.mapping import Bytes, map_file

UNKNOWN = -(1 << 15)  # an attribute of a sample of which it is not known
UNKNOWN_BYTE = -(1 << 7)  # the same in a byte
PAIRS = 4  # attributes in a byte where all are -1, 0, 1 or not known: two bits each, the lowest first
MEANING = np.array([-1, 0, 1, UNKNOWN], np.int16)  # of two bits
SHIFTS = np.arange(0, 8, 2, dtype=np.uint8)
Values = NDArray[np.int16]
Blocks = Iterable[tuple[Values, NDArray[np.int32]]]


def row_types(attributes: int) -> list[np.dtype[np.void]]:
    """The rows there can be, the smallest first: attributes of two bits, one byte or two, and the identity."""
    identity = ("identity", "<i4")  # -1 where none is known
    if not attributes:
        return [np.dtype([identity])]
    forms = [("u1", -(-attributes // PAIRS)), ("i1", attributes), ("<i2", attributes)]
    return [np.dtype([("attributes", kind, (count,)), identity]) for kind, count in forms]


class Decoder:
    """Turns the column `attributes` of rows into values.

    says_no: (attributes,) bool, those whose -1 is no, which becomes 0.
    """

    def __init__(self, says_no: NDArray[np.bool_]) -> None:
        self.says_no = says_no
        padded = np.zeros(-(-len(says_no) // PAIRS) * PAIRS, bool)
        padded[: len(says_no)] = says_no
        meanings = np.where(padded[:, None] & (MEANING == -1), 0, MEANING).astype(np.int16)  # (attributes, 4)
        pairs = np.arange(256)[:, None] >> SHIFTS & 3  # (256, PAIRS)
        self._bytes = meanings.reshape(-1, 1, PAIRS, 4)[:, 0, np.arange(PAIRS), pairs]  # (bytes, 256, PAIRS)
        self._first = np.arange(len(self._bytes), dtype=np.int64) * 256  # of each byte's meanings

    def values(self, stored: NDArray[Any]) -> Values:
        """Values (n, attributes) int16."""
        if stored.dtype == np.uint8:  # four of them at once
            fours = self._bytes.reshape(-1).view(np.int64).take(stored + self._first)
            return fours.view(np.int16)[:, : len(self.says_no)]
        values: Values = stored.astype(np.int16)
        if stored.dtype == np.int8:
            values[values == UNKNOWN_BYTE] = UNKNOWN
        values[(values == -1) & self.says_no] = 0
        return values

    def column(self, stored: NDArray[Any], column: int) -> Values:
        """The values of one attribute: (n,)."""
        if stored.dtype == np.uint8:
            meanings = np.ascontiguousarray(self._bytes[column // PAIRS, :, column % PAIRS])
            return meanings.take(stored[:, column // PAIRS])
        return Decoder(self.says_no[[column]]).values(stored[:, [column]])[:, 0]


class LabelWriter:
    """Gathers the labels of some shards from their lines of the side table, then writes them."""

    def __init__(self, attributes: int) -> None:
        self.attributes = attributes
        self._values: list[Values] = [np.empty((0, attributes), np.int16)]
        self._identities: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
        self._codes: dict[Hashable, int] = {None: -1}

    def add(self, lines: bytes) -> None:
        """Add the samples of these lines of JSON."""
        rows = [json.loads(line) for line in lines.splitlines()]
        none = [None] * self.attributes
        known = [[UNKNOWN if value is None else value for value in row["attributes"] or none] for row in rows]
        self._values.append(np.array(known, np.int16).reshape(len(rows), self.attributes))
        codes = [self._codes.setdefault(row["identity"], len(self._codes) - 1) for row in rows]
        self._identities.append(np.array(codes, np.int32))

    def write(self, path: Path) -> SideTable:
        """Write the file, whole or not at all."""
        return write_labels(
            path, self.attributes, self._codes, lambda: zip(self._values, self._identities, strict=True)
        )


def write_labels(
    path: Path, attributes: int, codes: Mapping[Hashable, int], blocks: Callable[[], Blocks]
) -> SideTable:
    """Write a file of labels, whole or not at all.

    blocks: gives values (n, attributes) and numbers of identities (n,), some samples at a time; called twice.
    codes: the number of each identity, in their order, -1 of None; it may be filled by the first call.
    """
    low, high, count, wide = 0, 0, 0, np.zeros(attributes, bool)
    for values, _ in blocks():
        known = values != UNKNOWN
        low = min(low, int(values.min(initial=0, where=known)))
        high = max(high, int(values.max(initial=0, where=known)))
        wide |= (known & (values != -1) & (values != 1)).any(axis=0)
        count += len(values)
    kinds = row_types(attributes)
    kind = kinds[0 if low >= -1 and high <= 1 else 1 if low > UNKNOWN_BYTE and high < -UNKNOWN_BYTE else 2]
    with whole_file(path) as part, part.open("wb") as stream:
        head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(stream, head)
        for values, numbers in blocks():
            rows = np.zeros(len(values), kind)
            rows["identity"] = numbers
            if attributes:
                rows["attributes"] = _stored(values, rows["attributes"].dtype)
            stream.write(rows.data)
        for array in (_told([*codes][1:]), wide):
            np.save(stream, array, allow_pickle=False)
    return SideTable(path.name, path.stat().st_size, sha256_file(path), count)


def _stored(values: Values, kind: np.dtype[Any]) -> NDArray[Any]:
    """Values as a column of this kind has them; see `Decoder`."""
    if kind == np.int16:
        return values
    if kind == np.int8:
        return np.where(values == UNKNOWN, UNKNOWN_BYTE, values).astype(np.int8)
    codes = np.zeros((len(values), -(-values.shape[1] // PAIRS) * PAIRS), np.uint8)
    codes[:, : values.shape[1]] = np.where(values == UNKNOWN, 3, values + 1)
    codes <<= np.tile(SHIFTS, codes.shape[1] // PAIRS)
    packed: Bytes = np.bitwise_or.reduceat(codes, np.arange(0, codes.shape[1], PAIRS), axis=1)
    return packed


def _told(identities: list[Hashable]) -> NDArray[Any]:
    """Identities as numbers where all are whole ones of 64 bits, else in JSON."""
    if all(type(identity) is int for identity in identities):
        try:
            return np.array(identities, "<i8")
        except OverflowError:
            pass
    return np.array([json.dumps(identity).encode("ascii") for identity in identities], "S")


@dataclass(frozen=True)
class LabelFile:
    """A file of labels, of which the rows have not been looked at."""

    path: Path
    bytes: int
    start: int  # the first row's place in the file, in bytes
    kind: np.dtype[np.void]  # of a row
    identities: NDArray[Any]  # those that the rows number
    wide: NDArray[np.bool_]  # of each attribute: whether a value beside -1 and 1 is there


def open_labels(path: Path, table: SideTable, attributes: int) -> LabelFile:
    """What a file of labels is made of; ShardError where that is not what the index says.

    Its rows are not hashed, as pixels are not: `facegan shards verify` does that, and a stage when it fetches it.
    """
    try:
        if (size := path.stat().st_size) != table.bytes:
            raise ValueError(f"{size:,} bytes, the index says {table.bytes:,}")
        data = map_file(path)
        rows, start, end = array_at(data, 0)
        identities, _, end = array_at(data, end)
        wide, _, end = array_at(data, end)
        if rows.shape != (table.samples,) or rows.dtype not in row_types(attributes):
            raise ValueError(f"{rows.shape} rows of {rows.dtype} for {table.samples:,} samples")
        if identities.ndim != 1 or not (identities.dtype == "<i8" or identities.dtype.kind == "S"):
            raise ValueError(f"identities of {identities.dtype}")
        if wide.shape != (attributes,) or wide.dtype != np.bool_ or end != size:
            raise ValueError(f"{wide.shape} of {wide.dtype} for {attributes} attributes, {end:,} of {size:,} bytes")
    except (OSError, EOFError, *BAD_HEADER) as error:
        raise ShardError(
            f"{path}: labels that cannot be read ({error}): `facegan shards verify {path.parent}`"
        ) from None
    return LabelFile(path, size, start, rows.dtype, identities.copy(), wide.copy())


def numbered(parts: list[NDArray[Any]]) -> list[Ints]:
    """Numbers for the identities of some files: equal where they are, in the order of the first of each."""
    if any(part.dtype.kind == "S" for part in parts):
        parts = [part if part.dtype.kind == "S" else part.astype("S20") for part in parts]  # JSON of whole numbers
    told = np.concatenate(parts) if parts else np.empty(0, np.int64)
    _, first, which = np.unique(told, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return np.split(numbers[which], np.cumsum([len(part) for part in parts])[:-1])
