"""Reads the files of a set from an address or a slow file system: in pieces, patiently, continuing what was cut."""

import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from shards.errors import ShardError

SCHEMES = {"https": "aiohttp", "http": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}  # and the package that reads it
PIECE = 8 << 20  # bytes asked for at once; halved after each failure, so that a poor line gets somewhere
ATTEMPTS = 8  # in a row without a byte gained
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
PASSING = {408, 425, 429}  # HTTP states of 400 and above, below 500, that are worth another attempt
FAILURES = {"aiohttp": "ClientError", "gcsfs.retry": "HttpError", "botocore.exceptions": "BotoCoreError"}


class Source(Protocol):
    """A folder of files, wherever it is."""

    address: str

    def size(self, name: str) -> int:
        """Bytes of a file; FileNotFoundError where it does not exist."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file; fewer where it ends, or the whole file where ranges are not understood."""
        ...


class LocalSource:
    """A folder of a mounted file system."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder)

    def size(self, name: str) -> int:
        """See `Source.size`."""
        return (self.folder / name).stat().st_size

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Source.read`."""
        with (self.folder / name).open("rb") as stream:
            return os.pread(stream.fileno(), stop - start, start)


class RemoteSource:
    """A folder at https://, s3:// or gs://, read through fsspec."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.system = _file_system(self.address)

    def size(self, name: str) -> int:
        """See `Source.size`; ShardError where the server does not say."""
        size = self.system.info(f"{self.address}/{name}").get("size")
        if size is None:
            raise ShardError(f"{self.address}/{name}: the server does not say how large it is")
        return int(size)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """See `Source.read`."""
        return bytes(self.system.cat_file(f"{self.address}/{name}", start=start, end=stop))


def is_remote(address: str) -> bool:
    """Whether this is an address rather than a path; ShardError where it is of a kind that is not read."""
    scheme, colon, _ = address.partition("://")
    if not colon:
        return False
    if scheme not in SCHEMES or "::" in address:
        raise ShardError(f"{address}: sets are read from {', '.join(f'{s}://' for s in SCHEMES)} or a folder")
    return True


def _file_system(address: str) -> Any:
    is_remote(address)
    try:
        import fsspec.core  # type: ignore[import-untyped]

        return fsspec.core.url_to_fs(address, skip_instance_cache=True, use_listings_cache=False)[0]
    except ImportError as error:
        package = SCHEMES[address.partition("://")[0]]
        raise ShardError(f"{address}: {error}. Type: pip install {package}") from None


def fetch(source: Source, name: str, size: int, part: Path, progress: Callable[[int], None]) -> None:
    """Append to `part` what it lacks of a file of `size` bytes.

    Cut connections, server errors and time-outs are tried again after a growing pause, from the byte reached.
    Raises ShardError where the file does not exist, is refused, or nothing comes any more.
    """
    with part.open("ab") as out:
        while (start := out.tell()) < size:
            try:
                data = attempt(partial(_read_piece, source, name, start, size), source, name)
            except FileNotFoundError:
                raise ShardError(f"{source.address}/{name}: in the index, but not there") from None
            if len(data) == size:  # a server that does not understand ranges sends everything
                data = data[start:]
            out.write(data[: size - start])
            progress(len(data))
        out.flush()
        os.fsync(out.fileno())


def read_whole(source: Source, name: str, limit: int) -> bytes:
    """A small file's bytes; FileNotFoundError where there is none, ShardError where it is larger than `limit`."""
    size = int(attempt(lambda piece: b"%d" % source.size(name), source, name))
    if size > limit:
        raise ShardError(f"{source.address}/{name}: {size:,} bytes, at most {limit:,} were expected")
    data = b""
    while len(data) < size:
        data += attempt(partial(_read_piece, source, name, len(data), size), source, name)
    return data[:size]


def _read_piece(source: Source, name: str, start: int, size: int, piece: int) -> bytes:
    return source.read(name, start, min(start + piece, size))


def attempt(read: Callable[[int], bytes], source: Source, name: str) -> bytes:
    """Call `read(piece)` until it gives at least one byte; see `fetch` for what is tried again."""
    for failures in range(ATTEMPTS):
        reason: object = "nothing came"
        try:
            data = read(max(PIECE >> failures, 1 << 16))
            if data:
                return data
        except _failures() as error:
            _give_up_if_final(error, source, name)
            reason = f"{type(error).__name__}: {error}"
        time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) * random.uniform(0.5, 1.0))
    raise ShardError(
        f"{source.address}/{name}: {ATTEMPTS} attempts in a row failed, the last with: {reason}. "
        "What came so far is kept; run the same command again to continue"
    )


def _failures() -> tuple[type[BaseException], ...]:
    """What the libraries in use raise when a connection or a server fails."""
    loaded = [(sys.modules[module], name) for module, name in FAILURES.items() if module in sys.modules]
    return OSError, *(getattr(module, name) for module, name in loaded)


def _give_up_if_final(error: BaseException, source: Source, name: str) -> None:
    if isinstance(error, FileNotFoundError):
        raise error
    status = getattr(error, "status", None) or getattr(error, "code", None) or 0
    refused = isinstance(status, int) and 400 <= status < 500 and status not in PASSING
    if refused or isinstance(error, PermissionError):
        raise ShardError(f"{source.address}/{name}: refused: {error}") from None
