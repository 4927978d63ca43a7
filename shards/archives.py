"""Zip and tar files as sources: listed from their directory, each picture read at its place, nothing unpacked."""

import gzip
import hashlib
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from shards.errors import ShardError
from shards.files import whole_file
from shards.listing import MAX_PICTURE_BYTES, PictureError, Place

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
LINK, ENCRYPTED, SPARSE = 1 << 16, 1 << 17, 1 << 18  # forms of entries that hold no picture's bytes
REFUSED = {
    LINK: ("not a file", "a link or a device in the tar"),
    ENCRYPTED: ("unsupported", "encrypted in the zip"),
    SPARSE: ("unsupported", "a sparse file in the tar"),
}
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip entry: signature, ..., lengths of its name and extra field


def recognise(path: Path, scratch: Path) -> tuple[str, Path]:
    """What an archive is by its content ("zip" or "tar"), and the file to read it from."""
    with path.open("rb") as stream:
        magic = stream.read(2)
    if magic == b"\x1f\x8b":
        return "tar", _decompressed(path, scratch)
    if zipfile.is_zipfile(path):
        return "zip", path
    if tarfile.is_tarfile(path):
        return "tar", path
    raise ShardError(
        f"{path}: neither a folder nor a zip, tar, tar.gz or MNIST idx file by its content. "
        "If it came from a download, look into it: it may be an error page or cut short"
    )


def _decompressed(path: Path, scratch: Path) -> Path:
    """A tar.gz as one plain tar in `scratch`, made once: compressed, no picture could be read by its place."""
    target = scratch / f".source-{_ends_sha256(path)[:16]}.tar"
    if target.exists():
        return target
    try:
        with whole_file(target) as part, gzip.open(path) as packed, part.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ShardError(f"{path}: damaged or cut short ({error}): fetch it again") from None
    return target


def _ends_sha256(path: Path, length: int = 1 << 16) -> str:
    """SHA-256 over size, first and last bytes (where gzip keeps the CRC-32): enough to know a file again."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(length)
        stream.seek(max(size - length, 0))
        return hashlib.sha256(b"%d\0" % size + head + stream.read(length)).hexdigest()


def list_zip(path: Path) -> Iterator[tuple[str, Place]]:
    """Name and place of every file in a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ShardError(f"{path}: damaged or cut short ({error}): fetch it again") from None
    for info in infos:
        if not info.is_dir():
            form = ENCRYPTED if info.flag_bits & 1 else info.compress_type
            yield info.filename, Place(info.header_offset, info.compress_size, info.file_size, info.CRC, form)


def list_tar(path: Path) -> Iterator[tuple[str, Place]]:
    """Name and place of every entry of an uncompressed tar that is not a folder.

    Raises ShardError where the tar is damaged: what lies behind the damage would be lost without a word.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
                if not member.isdir():
                    yield member.name, Place(member.offset_data, member.size, member.size, 0, _tar_form(member))
            end = archive.offset
    except tarfile.TarError as error:
        raise ShardError(f"{path}: damaged or cut short ({error}): fetch it again") from None
    with path.open("rb") as stream:
        stream.seek(end)
        if any(stream.read(512)):
            raise ShardError(f"{path}: a damaged header at byte {end:,}; what follows it cannot be read")


def _tar_form(member: tarfile.TarInfo) -> int:
    if member.issparse():
        return SPARSE
    return STORED if member.isreg() else LINK


class ArchiveReader:
    """Reads bytes at places of one file."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDONLY)

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; PictureError where the archive ends before."""
        if size > MAX_PICTURE_BYTES:
            raise PictureError("too large", f"{size:,} bytes, at most {MAX_PICTURE_BYTES:,} are read")
        data = os.pread(self.file, size, offset)
        if len(data) != size:
            raise PictureError("truncated", f"the archive ends {size - len(data)} bytes before the picture does")
        return data


class TarReader(ArchiveReader):
    """Pictures of an uncompressed tar."""

    def read(self, name: str, place: Place) -> bytes:
        """The bytes of one entry."""
        if place.form in REFUSED:
            raise PictureError(*REFUSED[place.form])
        return self.bytes_at(place.offset, place.size)


class ZipReader(ArchiveReader):
    """Pictures of a zip, stored or deflated, checked against their CRC-32."""

    def read(self, name: str, place: Place) -> bytes:
        """The bytes of one entry."""
        if place.form in REFUSED:
            raise PictureError(*REFUSED[place.form])
        signature, *lengths = LOCAL_HEADER.unpack(self.bytes_at(place.offset, LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise PictureError("damaged", "no entry of the zip where its directory says")
        data = self.bytes_at(place.offset + LOCAL_HEADER.size + sum(lengths), place.stored)
        data = _unpack(data, place)
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
