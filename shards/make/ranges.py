"""An object at an address as a file: read by ranges, ahead of need where one read follows the other."""

import io
import os
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from shards.errors import ShardError
from shards.make.address import Address, Where, look, refuse_changed, system_of
from shards.read.remote import attempt, is_refused

FEWEST, MOST = 1 << 17, 8 << 20  # bytes asked for beyond what is needed: doubled while reads follow each other


class RangeFile(io.RawIOBase):
    """A file that asks a server for its parts, and holds the last one.

    Raises ShardError where the server fails, refuses, sends no parts, or has another object than was listed.
    """

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.address = look(address)
        if address.state:
            refuse_changed(address, address.state, self.address.state)
        self.system, self.size = system_of(address), self.address.size
        self._position, self._ahead = 0, FEWEST
        self._start, self._held = 0, b""
        # With its size given, opening asks the server nothing
        self._object = self.system.open(address.url, cache_type="none", size=self.size)

    def recheck(self) -> None:
        """Raise ShardError where the object is not the one that was listed any more."""
        refuse_changed(self.address, self.address.state, look(self.address).state)

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size); fewer where the file ends."""
        stop = min(offset + size, self.size)
        if offset < self._start or stop > self._start + len(self._held):
            self._hold(offset, stop)
        return self._held[offset - self._start : max(stop - self._start, 0)]

    def _hold(self, start: int, stop: int) -> None:
        """Have bytes [start, stop), and some behind them: more each time that reads follow each other."""
        end = self._start + len(self._held)
        follows = self._start <= start <= end + self._ahead
        self._ahead = min(2 * self._ahead, MOST) if follows else FEWEST
        known = self._held[start - self._start :] if self._start <= start < end else b""
        self._held = known + self._fetched(start + len(known), min(max(stop, start + self._ahead), self.size))
        self._start = start

    def _fetched(self, start: int, stop: int) -> bytes:
        found = bytearray()
        while (at := start + len(found)) < stop:
            found += attempt(partial(self._range, at, stop), str(self.address))
        return bytes(found)

    def _range(self, start: int, stop: int, piece: int) -> bytes:
        stop = min(stop, start + piece)
        self._object.seek(start)
        try:
            return bytes(self._object.read(stop - start))[: stop - start]
        except ValueError as error:  # what fsspec makes of a whole file where a part was asked for
            if is_refused(error):
                raise
            raise ShardError(
                f"{self.address}: this server does not send parts of files: download it first, then give the file"
            ) from None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        """Fill a buffer from where the file stands."""
        data = self.read_at(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_stream(where: Where) -> BinaryIO:
    """A file to read, wherever it is."""
    return where.open("rb") if isinstance(where, Path) else cast(BinaryIO, io.BufferedReader(RangeFile(where)))
