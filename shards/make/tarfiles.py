"""Tar files as sources: each picture is read at its place; a compressed tar becomes one plain file, never many."""

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from facegan.files import remove_stale, whole_file
from shards.errors import ShardError
from shards.format.png import BLOCK
from shards.format.tar import is_tar, members, read_members
from shards.format.transform import PictureError
from shards.make.address import Where
from shards.make.claims import made_once
from shards.make.listing import LINK, REFUSED, SPARSE, FileReader, Mark, Place
from shards.make.lists import is_list
from shards.make.ranges import RangeFile, open_stream
from shards.make.urls import addresses_of

FORMS = {"file": 0, "link": LINK, "sparse": SPARSE}
MARK = 1 << 10  # entries between two marks
Opener = Callable[[BinaryIO], Any]
OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}


def recognise(path: Where, scratch: Path) -> tuple[str, Where]:
    """What a file is by its content ("zip", "tar" or "urls"), and the file to read it from."""
    with open_stream(path) as stream:
        start = stream.read(BLOCK)
    for magic, opener in OPENERS.items():
        if start.startswith(magic):
            return "tar", _decompressed(path, opener, scratch)
    if start.startswith(b"PK"):
        return "zip", path
    if is_tar(start) or path.name.endswith(".tar"):
        return "tar", path
    if is_list(start):
        return "urls", addresses_of([path], scratch)
    raise ShardError(
        f"{path}: neither a folder nor a zip, tar (plain, gz, bz2 or xz), MNIST idx file or list of addresses (one "
        "a line, or csv or parquet with a column url) by its content. "
        "If it came from a download, look into it: it may be an error page or cut short. "
        "Repack 7z, rar and zst files as a zip or tar"
    )


def _decompressed(path: Where, opener: Opener, scratch: Path) -> Path:
    """A packed tar as one plain tar in `scratch`, made once: compressed, no picture could be read by its place."""
    target = scratch / f".source-{_ends_sha256(path)[:16]}.tar"
    made_once(target, partial(_decompress, path, opener, target))
    return target


def _decompress(path: Where, opener: Opener, target: Path) -> None:
    remove_stale(target)
    try:
        with whole_file(target) as part, open_stream(path) as stream, part.open("wb") as plain:
            shutil.copyfileobj(opener(stream), plain, 1 << 20)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise ShardError(f"{path}: damaged or cut short ({error}): fetch it again") from None
    except OSError as error:  # what bz2 says of damaged bytes has no number
        if error.errno is not None:
            raise
        raise ShardError(f"{path}: damaged or cut short ({error}): fetch it again") from None


def _ends_sha256(path: Where, length: int = 1 << 16) -> str:
    """SHA-256 over size, first and last bytes (where gzip keeps the CRC-32): enough to know a file again."""
    with open_stream(path) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        head = stream.read(length)
        stream.seek(max(size - length, 0))
        return hashlib.sha256(b"%d\0" % size + head + stream.read(length)).hexdigest()


def list_tar(path: Where, at: int = 0) -> Iterator[tuple[str, Place] | Mark]:
    """Name and place of every entry of an uncompressed tar that is not a folder, from a mark on.

    There is none behind the first link: which bytes a hard link has is told by all that stands before it.

    Raises ShardError where the tar is damaged: what lies behind the damage would be lost without a word.
    """
    found = members(path, at) if isinstance(path, Path) else read_members(RangeFile(path), str(path), at)
    linked, before = False, -1
    for count, member in enumerate(found, 1):
        if member.form != "folder":
            yield member.name, Place(member.offset, member.size, member.size, 0, FORMS[member.form])
        linked = linked or member.form == "link" or member.offset <= before
        before = member.offset
        if not linked and count % MARK == 0:
            yield Mark(member.end)


class TarReader(FileReader):
    """Pictures of an uncompressed tar."""

    def read(self, name: str, place: Place) -> bytes:
        """The bytes of one entry."""
        if place.form in REFUSED:
            raise PictureError(*REFUSED[place.form])
        return self.bytes_at(place.offset, place.size)
