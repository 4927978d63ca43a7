"""Stored-PNG records: one tar member an image, every pixel at a place that a formula gives.

A record is `ustar header | PNG | padding [| ustar header | JSON | padding]`, all of one length in a set. The
PNG (ISO/IEC 15948) has filter 0 and one stored deflate block a row (RFC 1951, 3.2.4), so its rows lie
uncompressed at a fixed stride and a memory-mapped shard is an array.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError

try:  # SIMD checksums, a fifth of zlib's time (6 against 26 us for a 64 px and a 128 px image); same values
    from isal.isal_zlib import adler32, crc32
except ImportError:
    from zlib import adler32, crc32

BLOCK = 512  # of a tar
END = bytes(2 * BLOCK)  # two zero blocks close a tar
NAME_BYTES = 100  # room for a member's name in a ustar header
ROW_HEAD = 6  # five bytes of stored-block head, one filter byte
HEAD = 8 + 25 + 8 + 2  # signature, IHDR, head of IDAT, zlib's head
TAIL = 4 + 4 + 12  # Adler-32, CRC-32 of IDAT, IEND
MAX_SIDE = 21_844  # 3 * side + 1 still fits in one stored block


@dataclass(frozen=True)
class Geometry:
    """Where everything lies in a record of a set: height, width and channels of its images, in pixels.

    `json` is the length of the attribute member in bytes, 0 where there is none.
    """

    height: int
    width: int
    channels: int
    json: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.height <= MAX_SIDE and 1 <= self.width <= MAX_SIDE):
            raise ShardError(f"images of {self.height}x{self.width}: each side must be 1 to {MAX_SIDE} pixels")
        if self.channels not in (1, 3):
            raise ShardError(f"{self.channels} channels: expected 1 (grey) or 3 (RGB)")

    @property
    def row(self) -> int:
        """Bytes from a row's first pixel to the next row's."""
        return ROW_HEAD + self.channels * self.width

    @property
    def png(self) -> int:
        """Bytes of the PNG file."""
        return HEAD + self.height * self.row + TAIL

    @property
    def pixels(self) -> int:
        """Offset of the first pixel in a record."""
        return BLOCK + HEAD + ROW_HEAD

    @property
    def stride(self) -> int:
        """Bytes of a record, a multiple of 512."""
        return member_bytes(self.png) + (member_bytes(self.json) if self.json else 0)

    def shard_bytes(self, samples: int) -> int:
        """Bytes of a shard of `samples` records."""
        return samples * self.stride + len(END)

    def view(self, records: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The pixels (n, H, W, C) inside the bytes of n whole records, without a copy."""
        count = records.size // self.stride
        return np.lib.stride_tricks.as_strided(
            records.reshape(-1)[self.pixels if count else 0 :],
            shape=(count, self.height, self.width, self.channels),
            strides=(self.stride, self.row, self.channels, 1),
        )


def member_bytes(size: int) -> int:
    """Bytes that a tar member of `size` bytes takes, header and padding included."""
    return BLOCK + size + -size % BLOCK


def encode_records(
    geometry: Geometry,
    images: NDArray[np.uint8],
    keys: Sequence[str],
    texts: Sequence[bytes] | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Encode images (n, H, W, C) uint8 as n records, (n, stride) uint8.

    `keys` are the members' names without extension; `texts` the attribute members, where the geometry has
    room for them (shorter ones are padded with spaces, which JSON allows). `out`: n records to write into, once
    made by blank_records; they may have been used before.
    """
    count = len(images)
    records = blank_records(geometry, count) if out is None else out
    width = geometry.channels * geometry.width
    filtered = np.empty((count, geometry.height, 1 + width), np.uint8)
    filtered[:, :, 0] = 0
    filtered[:, :, 1:] = images.reshape(count, geometry.height, width)
    geometry.view(records)[...] = images
    for record, data, key in zip(records, filtered, keys, strict=True):
        _seal(record, geometry, adler32(data), key)
    if geometry.json:
        _write_texts(records, geometry, keys, texts or [])
    return records


def blank_records(geometry: Geometry, count: int) -> NDArray[np.uint8]:
    """Records (count, stride) of black images, lacking what _seal fills in."""
    return np.tile(_template(geometry), (count, 1))


def _seal(record: NDArray[np.uint8], geometry: Geometry, adler: int, key: str) -> None:
    """Fill in what depends on the sample: the PNG's two checksums and the tar header's name and checksum."""
    end = BLOCK + geometry.png - TAIL
    memory = record.data
    struct.pack_into(">I", memory, end, adler)
    struct.pack_into(">I", memory, end + 4, crc32(memory[BLOCK + 37 : end + 4]))
    memory[:BLOCK] = ustar_header(f"{key}.png", geometry.png)


def _write_texts(
    records: NDArray[np.uint8], geometry: Geometry, keys: Sequence[str], texts: Sequence[bytes]
) -> None:
    start = member_bytes(geometry.png)
    for record, key, text in zip(records, keys, texts, strict=True):
        if len(text) > geometry.json:
            raise ShardError(f"{key}: attributes of {len(text)} bytes, the set has room for {geometry.json}")
        body = text.ljust(geometry.json)
        memory = record.data
        memory[start : start + BLOCK] = ustar_header(f"{key}.json", geometry.json)
        memory[start + BLOCK : start + BLOCK + len(body)] = body


@cache
def _template(geometry: Geometry) -> NDArray[np.uint8]:
    """A record of a black image without header and checksums."""
    kind = {1: 0, 3: 2}[geometry.channels]
    head = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", geometry.width, geometry.height, 8, kind, 0, 0, 0)
    )
    line = 1 + geometry.channels * geometry.width
    block = struct.pack("<HH", line, line ^ 0xFFFF) + bytes(line)
    rows = b"\0" + (block + b"\0") * (geometry.height - 1)
    rows = rows[:-1] + b"\1" + block  # the last block says that it is the last
    head += struct.pack(">I", 2 + len(rows) + 4) + b"IDAT\x78\x01"
    png = head + rows + bytes(8) + _chunk(b"IEND", b"")
    return np.frombuffer((bytes(BLOCK) + png).ljust(geometry.stride, b"\0"), np.uint8)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def ustar_header(name: str, size: int) -> bytes:
    """The POSIX ustar header of a plain file: mode 644, owner and time 0, so that equal input is equal bytes."""
    encoded = name.encode("ascii")
    if len(encoded) > NAME_BYTES:
        raise ShardError(f"member name {name!r}: longer than the {NAME_BYTES} bytes of a ustar header")
    rest, total = _header_template(size)
    checksum = b"%06o\0 " % (total + sum(encoded))
    return encoded.ljust(NAME_BYTES, b"\0") + rest[:48] + checksum + rest[56:]


@cache
def _header_template(size: int) -> tuple[bytes, int]:
    """What follows the name in a header, and the sum of its bytes with the checksum field as spaces."""
    rest = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 0 + b" " * 8 + b"0"
    rest = (rest.ljust(157, b"\0") + b"ustar\x0000").ljust(BLOCK - NAME_BYTES, b"\0")
    return rest, sum(rest)
