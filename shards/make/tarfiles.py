"""Tar files as sources: each picture is read at its place; a compressed tar becomes one plain file, never many."""

import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from facegan.files import whole_file
from shards.errors import ShardError
from shards.format.transform import PictureError
from shards.make.listing import LINK, REFUSED, SPARSE, FileReader, Place

STORED = 0


def recognise(path: Path, scratch: Path) -> tuple[str, Path]:
    """What an archive is by its content ("zip" or "tar"), and the file to read it from."""
    with path.open("rb") as stream:
        magic = stream.read(2)
    if magic == b"\x1f\x8b":
        return "tar", _decompressed(path, scratch)
    if magic == b"PK":
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


class TarReader(FileReader):
    """Pictures of an uncompressed tar."""

    def read(self, name: str, place: Place) -> bytes:
        """The bytes of one entry."""
        if place.form in REFUSED:
            raise PictureError(*REFUSED[place.form])
        return self.bytes_at(place.offset, place.size)
