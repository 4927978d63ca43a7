"""Reads the files of a set from an address or a slow file system: in pieces, patiently, continuing what was cut."""

import errno
import logging
import os
import random
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any, Protocol, TypeVar

from shards.errors import PassingError, ShardError

SCHEMES = {"https": "aiohttp", "http": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}  # and the package that reads it
CONNECTIONS = 16  # of a process that reads small objects
PIECE = 8 << 20  # bytes asked for at once; halved after each failure, so that a poor line gets somewhere
ATTEMPTS = 8  # in a row without a byte gained
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
CONNECT, QUIET, WHOLE = 15.0, 60.0, 300.0  # seconds for a connection, without a byte, for one answer
PASSING = {408, 425, 429}  # HTTP states of 400 and above, below 500, that are worth another attempt
GONE = {404, 410}
FINAL = {errno.EINVAL, errno.ENOSYS, errno.EPERM}  # what s3fs makes of requests that no other attempt will change
HOPELESS = {"InvalidUrlClientError", "ParamValidationError", "TooManyRedirects"}  # what the address is to blame for
WITHOUT_NAME = {"NoCredentialsError", "PartialCredentialsError"}  # of botocore: nobody to ask as
STATELESS = ("Forbidden: ", "Bad Request: ", "Bucket is requester pays")  # so gcsfs tells of what was refused
GOOGLE_LOGIN = "type: gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key's file"
FAILURES = {
    "aiohttp": "ClientError",
    "gcsfs.retry": "HttpError",
    "google.auth.exceptions": "GoogleAuthError",
    "botocore.exceptions": "BotoCoreError",
}


T = TypeVar("T")


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
        self.system = file_system(self.address)

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
        kinds = ", ".join(f"{kind}://" for kind in SCHEMES)
        raise ShardError(f"{shown(address)}: sets are read from {kinds} or a folder")
    return True


def file_system(address: str) -> Any:
    """What reads an address, with time limits; ShardError where the package for it is missing."""
    is_remote(address)
    scheme = address.partition("://")[0]
    try:
        import fsspec.core  # type: ignore[import-untyped]

        options: dict[str, Any] = {}
        if SCHEMES[scheme] == "aiohttp":
            from aiohttp import ClientTimeout

            limits = ClientTimeout(total=WHOLE, sock_connect=CONNECT, sock_read=QUIET)
            plain = {"Accept-Encoding": "identity"}  # packed on the way, the bytes would lie elsewhere
            options = {"client_kwargs": {"timeout": limits}, "headers": plain}
        if SCHEMES[scheme] == "s3fs":
            options = {"config_kwargs": {"max_pool_connections": CONNECTIONS, "read_timeout": QUIET}}
        if SCHEMES[scheme] == "gcsfs":
            _use_plain_google()
        return fsspec.core.url_to_fs(address, skip_instance_cache=True, use_listings_cache=False, **options)[0]
    except ImportError as error:
        raise ShardError(f"{shown(address)}: {error}. Type: pip install {SCHEMES[scheme]}") from None


def _use_plain_google() -> None:
    """Keep gcsfs, which is not imported yet, from asking for each bucket's kind by gRPC, and from telling of it.

    Who is anonymous may not ask: each request then waited for one more refusal, and warned. What fails is ours to
    tell (gcsfs logs it with a traceback). Both can be had back: by this variable, and by its own GCSFS_DEBUG.
    """
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    log = logging.getLogger("gcsfs")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)


def shown(text: str) -> str:
    """A text without what makes an address secret: passwords, and queries (signatures are there)."""
    return re.sub(r"\?[^\s'\")>\]]+", "?...", re.sub(r"(\w://)[^/\s'\"?]*@", r"\1", text))


def fetch(source: Source, name: str, size: int, part: Path, progress: Callable[[int], None]) -> None:
    """Append to `part` what it lacks of a file of `size` bytes.

    Cut connections, server errors and time-outs are tried again after a growing pause, from the byte reached.
    Raises ShardError where the file does not exist, is refused, or nothing comes any more.
    """
    with part.open("ab") as out:
        while (start := out.tell()) < size:
            try:
                data = attempt(partial(_read_piece, source, name, start, size), f"{source.address}/{name}")
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
    where = f"{source.address}/{name}"
    size = int(attempt(lambda piece: source.size(name), where))
    if size > limit:
        raise ShardError(f"{source.address}/{name}: {size:,} bytes, at most {limit:,} were expected")
    data = b""
    while len(data) < size:
        data += attempt(partial(_read_piece, source, name, len(data), size), where)
    return data[:size]


def _read_piece(source: Source, name: str, start: int, size: int, piece: int) -> bytes:
    return source.read(name, start, min(start + piece, size))


def attempt(read: Callable[[int], T], where: str) -> T:
    """Call `read(piece)` until it gives something; see `fetch` for what is tried again. `where` is for messages.

    Raises FileNotFoundError where there is no such file, FileExistsError where there may not be one, ShardError
    where it is refused or nothing comes any more.
    """
    for failures in range(ATTEMPTS):
        reason = "nothing came"
        try:
            found = read(max(PIECE >> failures, 1 << 16))
            if found or found == 0:
                return found
        except failure_types() as error:
            reason = _passing(error, where)
        except ValueError as error:
            if not is_refused(error):
                raise
            reason = _passing(error, where)
        sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures) * random.uniform(0.5, 1.0))
    raise PassingError(
        f"{shown(where)}: {ATTEMPTS} attempts in a row failed, the last with: {reason}. "
        "What came so far is kept; run the same command again to continue"
    )


def failure_types() -> tuple[type[BaseException], ...]:
    """What the libraries in use raise when a connection or a server fails.

    One that another thread is still importing has raised nothing yet, and may lack its types.
    """
    kinds = (getattr(sys.modules.get(module), name, None) for module, name in FAILURES.items())
    return OSError, *(kind for kind in kinds if kind is not None)


def status_of(error: BaseException) -> int:
    """The HTTP state that an error tells of, 0 where it tells of none."""
    status = getattr(error, "status", None) or getattr(error, "code", None) or 0
    return status if isinstance(status, int) else 0


def is_refused(error: BaseException) -> bool:
    """Whether a server has said no in a way that asking again will not change."""
    if isinstance(error, OSError | ValueError) and str(error).startswith(STATELESS):
        return True
    return 400 <= status_of(error) < 500 and status_of(error) not in PASSING


def cause_of(error: BaseException) -> BaseException:
    """What happened, where fsspec says of any failure at all that there is no such file."""
    cause = error.__cause__
    told = isinstance(error, FileNotFoundError) and isinstance(cause, failure_types())
    return cause if told and cause is not None and status_of(cause) not in GONE else error


def _passing(error: BaseException, where: str) -> str:
    """What to say of a failure that may pass; any other is raised."""
    error = cause_of(error)
    if isinstance(error, FileNotFoundError | FileExistsError):
        raise error
    said = shown(f"{type(error).__name__}: {error}")
    if type(error).__name__ in WITHOUT_NAME:
        raise PassingError(
            f"{shown(where)}: no credentials to ask with: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY; for a public bucket FSSPEC_S3_ANON=true"
        ) from None
    refused = is_refused(error) or type(error).__name__ in HOPELESS
    if type(error).__name__ == "RefreshError" or (status_of(error) == 401 and where.startswith("gs:")):
        said, refused = f"{said}: {GOOGLE_LOGIN}", True
    if refused or isinstance(error, PermissionError) or getattr(error, "errno", None) in FINAL:
        raise PassingError(f"{shown(where)}: refused: {said}") from None
    return said
