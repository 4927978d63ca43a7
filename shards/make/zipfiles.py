"""Zip files as sources: the central directory read entry by entry, so that memory does not grow with it.

Format: PKWARE's APPNOTE 6.3.10, sections 4.3.7 to 4.3.16. Python's zipfile would keep half a kilobyte an entry.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from shards.errors import ShardError
from shards.format.transform import MAX_PICTURE_BYTES, PictureError
from shards.make.address import Where
from shards.make.listing import ENCRYPTED, REFUSED, FileReader, Mark, Place
from shards.make.ranges import open_stream

END = struct.Struct("<4s4H2LH")  # signature, disks, counts, size and offset of the directory, length of the comment
LOCATOR64_BYTES = 20
END64 = struct.Struct("<4sQ2H2L4Q")  # signature, length, versions, disks, counts, size and offset of the directory
ENTRY = struct.Struct("<4s2B5H3L5H2L")  # of the directory; see _entry
LOCAL = struct.Struct("<4s22xHH")  # header before an entry's bytes: signature, lengths of name and extra field
LONGEST_COMMENT = 0xFFFF
ELSEWHERE = 0xFFFFFFFF  # a 32-bit field whose value is in the zip64 extra field
LARGEST = 1 << 60  # bytes, of what is believed
STORED, DEFLATED = 0, 8
MARK = 1 << 16  # entries between two marks
UNIX, MAC = 3, 19  # made there, a backslash in a name is one; anywhere else it stands between folders


def list_zip(path: Where, at: Any = None) -> Iterator[tuple[str, Place] | Mark]:
    """Name and place of every file in a zip, or behind a mark; ShardError where it is damaged or cut short.

    The directory is read to its end, also where the end record's count is less: macOS's Finder writes it modulo
    65,536, and places modulo 4 GiB.
    """
    with open_stream(path) as stream:
        try:
            directory = _find_directory(stream)
            position, count, before, wraps = at or (directory.start, 0, 0, 0)
            stream.seek(position)
            while stream.tell() < directory.end:
                name, place = _entry(stream)
                wraps += directory.wrapped and place.offset < before
                count, before = count + 1, place.offset
                if not name.endswith("/") or place.size:
                    yield name, place._replace(offset=place.offset + directory.shift + (wraps << 32))
                if count % MARK == 0:
                    yield Mark([stream.tell(), count, before, wraps])
            if stream.tell() != directory.end or count < directory.entries:
                raise ValueError(
                    f"its directory has {count:,} entries, its end record states {directory.entries:,}"
                )
        except (struct.error, ValueError) as error:
            raise ShardError(f"{path}: damaged or cut short ({error}): fetch it again") from None


def count_entries(path: Path) -> int:
    """How many entries a zip's end record states, without reading its directory; 0 where the file is no zip."""
    try:
        with path.open("rb") as stream:
            return _find_directory(stream).entries
    except (OSError, ValueError, struct.error):
        return 0


class _Directory(NamedTuple):
    """Where the directory is, what its end record states, and what to add to offsets where the zip has a prefix."""

    start: int
    end: int
    entries: int
    shift: int
    wrapped: bool  # offsets are stated modulo 4 GiB


def _find_directory(stream: BinaryIO) -> _Directory:
    size = stream.seek(0, os.SEEK_END)
    tail_start = max(size - END.size - LONGEST_COMMENT, 0)
    stream.seek(tail_start)
    end = tail_start + _find_end(stream.read())
    stream.seek(end)
    _, disk, first_disk, _, count, length, offset, _ = END.unpack(stream.read(END.size))
    if disk != first_disk:
        raise ValueError("the last of several parts of one zip: join them first, with `zip -s 0`")
    end64 = _end64(stream, end)
    end, count, length, offset = end64 or (end, count, length, offset)
    start = end - length
    if not 0 <= offset <= start:
        raise ValueError("the directory is not where the end record says")
    shift = start - offset
    wrapped = end64 is None and shift > 0 and shift % (1 << 32) == 0
    return _Directory(start, end, count, 0 if wrapped else shift, wrapped)


def _find_end(tail: bytes) -> int:
    """Where in a zip's last bytes its end record is: the last one whose comment ends with the file, or the last."""
    last = position = tail.rfind(b"PK\5\6")
    while position >= 0:
        if position + END.size <= len(tail):
            *_, comment = END.unpack_from(tail, position)
            if position + END.size + comment == len(tail):
                return position
        position = tail.rfind(b"PK\5\6", 0, position)
    if last < 0:
        raise ValueError("no end record")
    return last


def _end64(stream: BinaryIO, end: int) -> tuple[int, int, int, int] | None:
    """Position of the zip64 end record and its count, length and offset, where there is one."""
    position = end - LOCATOR64_BYTES - END64.size  # not where the locator says: that is wrong behind a prefix
    if position < 0:
        return None
    stream.seek(position)
    signature, *_, count, length, offset = END64.unpack(stream.read(END64.size))
    if stream.read(4) != b"PK\6\7":
        return None
    if signature != b"PK\6\6":
        raise ValueError("no zip64 end record before its locator")
    return position, count, length, offset


def _entry(stream: BinaryIO) -> tuple[str, Place]:
    """The next entry of the directory."""
    signature, _, system, _, flags, form, _, _, crc, stored, size, *lengths, _, _, _, offset = ENTRY.unpack(
        stream.read(ENTRY.size)
    )
    if signature != b"PK\1\2":
        raise ValueError("no entry where the directory should have one")
    name, extra, _ = (stream.read(length) for length in lengths)  # and the comment
    if ELSEWHERE in (size, stored, offset):
        size, stored, offset = _wide(extra, (size, stored, offset))
    if max(size, stored, offset) > LARGEST:
        raise ValueError("an entry is stated to be where no file ends")
    text = name.decode("utf-8", "surrogateescape") if flags & 0x800 else name.decode("cp437")
    if system not in (UNIX, MAC):
        text = text.replace("\\", "/")
    return text, Place(offset, stored, size, crc, ENCRYPTED if flags & 1 else form)


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
