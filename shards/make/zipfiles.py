"""Zip files as sources: the central directory read entry by entry, so that memory does not grow with it.

Format: PKWARE's APPNOTE 6.3.10, sections 4.3.7 to 4.3.16. Python's zipfile would keep half a kilobyte an entry.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shards.errors import ShardError
from shards.format.transform import MAX_PICTURE_BYTES, PictureError
from shards.make.listing import ENCRYPTED, REFUSED, FileReader, Place

END = struct.Struct("<4s4H2LH")  # signature, disks, counts, size and offset of the directory, length of the comment
LOCATOR64_BYTES = 20
END64 = struct.Struct("<4sQ2H2L4Q")  # signature, length, versions, disks, counts, size and offset of the directory
ENTRY = struct.Struct("<4s6H3L5H2L")  # of the directory; see _entry
LOCAL = struct.Struct("<4s22xHH")  # header before an entry's bytes: signature, lengths of name and extra field
LONGEST_COMMENT = 0xFFFF
ELSEWHERE = 0xFFFFFFFF  # a 32-bit field whose value is in the zip64 extra field
STORED, DEFLATED = 0, 8


def list_zip(path: Path) -> Iterator[tuple[str, Place]]:
    """Name and place of every file in a zip; ShardError where it is damaged or cut short."""
    with path.open("rb") as stream:
        try:
            count, start, shift = _find_directory(stream)
            stream.seek(start)
            for _ in range(count):
                name, place = _entry(stream, shift)
                if not name.endswith("/"):
                    yield name, place
        except (struct.error, ValueError) as error:
            raise ShardError(f"{path}: damaged or cut short ({error}): fetch it again") from None


def _find_directory(stream: BinaryIO) -> tuple[int, int, int]:
    """Count of entries, offset of the directory, and what to add to offsets where the zip has a prefix."""
    size = stream.seek(0, os.SEEK_END)
    tail_start = max(size - END.size - LONGEST_COMMENT, 0)
    stream.seek(tail_start)
    position = stream.read().rfind(b"PK\5\6")
    if position < 0:
        raise ValueError("no end record")
    end = tail_start + position
    stream.seek(end)
    *_, count, length, offset, _ = END.unpack(stream.read(END.size))
    end, count, length, offset = _end64(stream, end, (count, length, offset))
    start = end - length
    if not 0 <= offset <= start:
        raise ValueError("the directory is not where the end record says")
    return count, start, start - offset


def _end64(stream: BinaryIO, end: int, plain: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Position of the zip64 end record and its count, length and offset; the plain ones where there is none."""
    position = end - LOCATOR64_BYTES - END64.size  # not where the locator says: that is wrong behind a prefix
    if position < 0:
        return end, *plain
    stream.seek(position)
    signature, *_, count, length, offset = END64.unpack(stream.read(END64.size))
    if stream.read(4) != b"PK\6\7":
        return end, *plain
    if signature != b"PK\6\6":
        raise ValueError("no zip64 end record before its locator")
    return position, count, length, offset


def _entry(stream: BinaryIO, shift: int) -> tuple[str, Place]:
    """The next entry of the directory."""
    (
        signature,
        _,
        _,
        flags,
        form,
        _,
        _,
        crc,
        stored,
        size,
        name_length,
        extra_length,
        comment_length,
        *_,
        offset,
    ) = ENTRY.unpack(stream.read(ENTRY.size))
    if signature != b"PK\1\2":
        raise ValueError("no entry where the directory should have one")
    name = stream.read(name_length)
    extra = stream.read(extra_length)
    stream.seek(comment_length, os.SEEK_CUR)
    if ELSEWHERE in (size, stored, offset):
        size, stored, offset = _wide(extra, (size, stored, offset))
    text = name.decode("utf-8", "surrogateescape") if flags & 0x800 else name.decode("cp437")
    return text, Place(offset + shift, stored, size, crc, ENCRYPTED if flags & 1 else form)


def _wide(extra: bytes, fields: tuple[int, int, int]) -> list[int]:
    """Size, stored size and offset with the 64-bit values of the extra field 1 in place of those marked so."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{fields.count(ELSEWHERE)}Q", extra, 4))
            return [next(values) if field == ELSEWHERE else field for field in fields]
        extra = extra[4 + length :]
    return list(fields)


class ZipReader(FileReader):
    """Pictures of a zip, stored or deflated, checked against their CRC-32."""

    def read(self, name: str, place: Place) -> bytes:
        """The bytes of one entry."""
        if place.form in REFUSED:
            raise PictureError(*REFUSED[place.form])
        signature, *lengths = LOCAL.unpack(self.bytes_at(place.offset, LOCAL.size))
        if signature != b"PK\3\4":
            raise PictureError("damaged", "no entry of the zip where its directory says")
        data = _unpack(self.bytes_at(place.offset + LOCAL.size + sum(lengths), place.stored), place)
        if len(data) != place.size or zlib.crc32(data) != place.crc:
            raise PictureError("damaged", "the CRC-32 in the zip does not fit")
        return data


def _unpack(data: bytes, place: Place) -> bytes:
    if place.form == STORED:
        return data
    if place.form != DEFLATED:
        raise PictureError("unsupported", f"compression method {place.form} in the zip")
    if place.size > MAX_PICTURE_BYTES:
        raise PictureError("too large", f"{place.size:,} bytes, at most {MAX_PICTURE_BYTES:,} are read")
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, place.size + 1)
    except zlib.error as error:
        raise PictureError("damaged", f"in the zip: {error}") from None
