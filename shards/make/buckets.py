"""A folder of a bucket as a source: its objects listed once, each read whole and compared with what was listed."""

import hashlib
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from shards.errors import ShardError
from shards.format.transform import MAX_PICTURE_BYTES, PictureError
from shards.make.address import Address, look, objects_below, refuse_changed, system_of, version_of
from shards.make.listing import Mark, Place, Reader
from shards.read.remote import CONNECTIONS, attempt

MARK = 1000  # objects between two marks
UNSORTED = "--x-s3"  # the end of the names of Amazon's directory buckets


def list_bucket(folder: Address, after: str = "") -> Iterator[tuple[str, Place] | Mark]:
    """Name below the folder, and size and version of every object; ShardError where it cannot be listed.

    after: the name before a mark. There are none where a store does not give names sorted by their bytes.
    """
    if folder.url.startswith("http"):
        raise ShardError(f"{folder}: a web server does not list folders: give a zip, a tar or a list of addresses")
    last, known, count = b"", after.encode(), 0
    is_sorted = not folder.url.split("/")[2].endswith(UNSORTED)
    for name, facts in objects_below(folder, after):
        before, last = last, name.encode()
        is_sorted &= before < last
        if after and not is_sorted:
            raise ShardError(f"{folder}: its objects do not come sorted by name: run again, which lists it anew")
        if last <= known:
            continue
        yield name, Place(0, facts["size"], facts["size"], _crc(_content(facts)))
        count += 1
        if is_sorted and count % MARK == 0:
            yield Mark(name)


def _content(facts: dict[str, Any]) -> str:
    """What tells an object's bytes: their MD5 where the store says it (GCS does so beside its version)."""
    digest = facts.get("md5Hash")
    return f'"{b64decode(digest).hex()}"' if digest else version_of(facts)


def _crc(version: str) -> int:
    return zlib.crc32(version.encode())


class BucketReader(Reader):
    """Pictures that are objects of their own."""

    threads: int = CONNECTIONS

    def __init__(self, folder: Address) -> None:
        self.folder, self.system = folder, system_of(folder)

    def read(self, name: str, place: Place) -> bytes:
        """The bytes of one object; ShardError where it is gone, or is not the one that was listed."""
        if place.size > MAX_PICTURE_BYTES:
            raise PictureError("too large", f"{place.size:,} bytes, at most {MAX_PICTURE_BYTES:,} are read")
        if not place.size:
            return b""
        address = self.folder.below(name)
        try:
            data = bytes(attempt(lambda piece: self.system.cat_file(address.url), str(address)))
        except FileNotFoundError:
            raise ShardError(f"{address}: was listed and is gone: run again with another OUT") from None
        refuse_changed(address, [place.size, place.crc], [len(data), self._crc_of(data, address, place)])
        return data

    def _crc_of(self, data: bytes, address: Address, place: Place) -> int:
        """A version is mostly the MD5 of the bytes; where it is something else, the store is asked for it."""
        found = _crc(f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
        return found if found == place.crc or len(data) != place.size else _crc(look(address).version)
