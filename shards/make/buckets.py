"""A folder of a bucket as a source: its objects listed once, each read whole and compared with what was listed."""

import hashlib
import zlib
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from shards.errors import ShardError
from shards.format.transform import MAX_PICTURE_BYTES, PictureError
from shards.make.address import Address, look, objects_below, refuse_changed, system_of, version_of
from shards.make.listing import Place, Reader
from shards.read.remote import CONNECTIONS, attempt


def list_bucket(folder: Address) -> Iterator[tuple[str, Place]]:
    """Name below the folder, and size and version of every object; ShardError where it cannot be listed."""
    if folder.url.startswith("http"):
        raise ShardError(f"{folder}: a web server does not list folders: give a zip, a tar or a list of addresses")
    for name, facts in objects_below(folder):
        yield name, Place(0, facts["size"], facts["size"], _crc(_content(facts)))


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
        address = Address(f"{self.folder.url.rstrip('/')}/{name}")
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
