"""The pictures of a source in one fixed order, with the place of each in its archive, in little memory."""

import errno
import hashlib
import os
import re
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.format.transform import EXTENSIONS, MAX_PICTURE_BYTES, PictureError
from shards.make.address import Address, Where, look
from shards.make.folders import TIME, Times
from shards.make.ranges import RangeFile
from shards.make.sorting import Distinct, name_bytes
from shards.read.remote import is_remote

PLAIN_STEM = re.compile(r"[A-Za-z0-9_-]{1,90}")
LFW_NAME = re.compile(r"(?:.*/)?([^/]+)/\1_\d{4}\.\w+", re.DOTALL)

# Jupyter's, desktops' and other hidden things; what macOS packs; thumbnails and bins of NAS and Windows.
HIDDEN = re.compile(
    r"(?:^|/)(?:\.+[^./]|(?:__MACOSX|[@#](?:eaDir|Recycle|snapshot)|\$RECYCLE\.BIN|System Volume Information)"
    r"(?:/|$))",
    re.IGNORECASE,
)

LINK, ENCRYPTED, SPARSE = 1 << 16, 1 << 17, 1 << 18  # forms of entries that hold no picture's bytes
REFUSED = {
    LINK: ("not a file", "a link or a device in the tar"),
    ENCRYPTED: ("unsupported", "encrypted in the zip"),
    SPARSE: ("unsupported", "a sparse file in the tar"),
}

HIDDEN_FILE = "hidden"

PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO, errno.ENOTCONN}
BLOCK = 1 << 18  # names looked at together
PAUSES = (0.1, 2.0)  # seconds before another attempt

PLACE = np.dtype([("offset", "<i8"), ("stored", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("form", "<u4")])
PLACE_STRUCT = struct.Struct("<qqqII")


State = list[int | str] | None


def state_of(where: Where) -> State:
    """Bytes (of a file) and time: others where it, or the names in it, have changed; None where it is gone.

    Of an address what `look` finds there, and its errors.
    """
    if isinstance(where, Address):
        return [*(look(where).state or ())]
    try:
        facts = where.stat()
    except OSError:
        return None
    return [0 if stat.S_ISDIR(facts.st_mode) else facts.st_size, facts.st_mtime_ns]


def as_found(name: str, state: State) -> Where:
    """A part of a list by its full name; of an address no other object is read than was found."""
    return Address(name, (int(state[0]), str(state[1]))) if state and is_remote(name) else Path(name)


class Place(NamedTuple):
    """Where a picture lies in its archive: bytes `stored` at `offset`, `size` when unpacked (by `form`).

    form: how it is packed; of a list of addresses its row there.
    """

    offset: int = 0
    stored: int = 0
    size: int = 0
    crc: int = 0
    form: int = 0


class Seen(NamedTuple):
    """A folder that is about to be read, as it was then; its name ends in `/`; that of the source is empty."""

    folder: str
    time: int  # nanoseconds


class Mark(NamedTuple):
    """All entries before it have been given; a source that is asked to begin `at` it gives those behind it."""

    at: Any  # as JSON has it


class Reader(Protocol):
    """Gives the bytes of one picture after the other; each process opens its own."""

    threads: int = 0  # that may read at the same time, and are worth it

    def read(self, name: str, place: Place) -> bytes:
        """The picture's bytes; PictureError where they cannot be had."""

    def recheck(self) -> None:
        """Raise ShardError where what is read from is known to have changed since it was listed."""


def patiently(read: Callable[[], bytes]) -> bytes:
    """What `read` gives, tried again where a network file system stumbles; PictureError where it stays so."""
    for attempt, pause in enumerate(PAUSES):
        try:
            return read()
        except OSError as error:
            refused_once = error.errno == errno.EACCES and not attempt  # NFS, while a ticket is renewed
            if error.errno not in PASSING and not refused_once:
                raise PictureError("unreadable", error.strerror or str(error)) from None
            time.sleep(pause)
    try:
        return read()
    except OSError as error:
        raise PictureError("unreadable", f"{error.strerror or error} ({len(PAUSES) + 1} attempts)") from None


class FileReader(Reader):
    """Reads bytes at places of one file."""

    def __init__(self, path: Where) -> None:
        self.path = path
        self.remote = RangeFile(path) if isinstance(path, Address) else None
        self.file = -1 if isinstance(path, Address) else os.open(path, os.O_RDONLY)

    def recheck(self) -> None:
        """See `Reader.recheck`; a file of this machine is looked at where a shard of it is finished."""
        if self.remote is not None:
            self.remote.recheck()

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; PictureError where the archive ends before, or cannot be read."""
        if size > MAX_PICTURE_BYTES:
            raise PictureError("too large", f"{size:,} bytes, at most {MAX_PICTURE_BYTES:,} are read")
        remote = self.remote
        data = remote.read_at(offset, size) if remote else patiently(lambda: self._read(offset, size))
        if len(data) != size:
            raise PictureError("truncated", f"the archive ends {size - len(data)} bytes before the picture does")
        return data

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self.file, size, offset)
        except OSError as error:
            if error.errno == errno.ESTALE:  # this handle is good for nothing any more
                fresh = os.open(str(self.path), os.O_RDONLY)
                os.dup2(fresh, self.file)
                os.close(fresh)
            raise


@dataclass(frozen=True)
class Listing:
    """All pictures of a source, sorted by name; `places` (n,) of dtype PLACE says where each lies."""

    kind: str  # folder, zip, tar, idx
    path: Where  # what a reader opens
    names: Sequence[str]
    places: NDArray[np.void]
    left_out: Counter[str] = field(default_factory=Counter)  # files that are no pictures, by extension
    tables: dict[str, tuple[str, Place]] = field(default_factory=dict)  # of these, annotation files by kind
    seen: dict[str, State] = field(default_factory=dict)  # of a folder: such files in it; of a list: all its parts
    folders: tuple[Sequence[str], Times] = ((), np.empty(0, TIME))  # and the folders, by name
    scratch: Path | None = None  # folder for what memory should not hold
    kept: Path | None = None  # folder for what a process that goes on should find

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the names and, for archives, the sizes and CRC-32s that their directory states.

        It says whether two listings are the same, without opening a picture. What was in the pictures goes
        into the set's own source fingerprint while they are read.
        """
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name_bytes(name) + b"\0")
        for column in ("size", "crc"):
            for start in range(0, len(self), BLOCK):
                digest.update(self.places[column][start : start + BLOCK].tobytes())
        return digest.hexdigest()

    @cached_property
    def has_plain_stems(self) -> bool:
        """Whether every stem is made of letters, digits, _ and - and none comes twice (by hashes of 64 bits)."""
        with closing(Distinct(self.scratch)) as distinct:
            names = iter(self.names)
            while some := [stem(name) for name in islice(names, BLOCK)]:
                if not all(map(PLAIN_STEM.fullmatch, some)):
                    return False
                distinct.add(np.fromiter(map(_hash, some), np.uint64, len(some)))
            return distinct.all()

    @property
    def is_lfw(self) -> bool:
        """Whether all pictures lie as in Labeled Faces in the Wild: Name/Name_0001.jpg."""
        return all(LFW_NAME.fullmatch(name) for name in self.names)


def why_left_out(kind: str, name: str) -> str | None:
    """Why an entry is not one of the pictures; None where it is one, as all addresses of a list are taken to be."""
    if kind == "urls":
        return None if name else "rows without an address"
    if is_hidden(name):
        return HIDDEN_FILE
    extension = os.path.splitext(name)[1].lower()  # noqa: PTH122 - names are no paths of this machine
    return None if extension in EXTENSIONS else extension or "without extension"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def is_hidden(name: str) -> bool:
    """Whether a file, or any folder that it lies in, is hidden or one that programs keep copies in."""
    return HIDDEN.search(name) is not None


def stem(name: str) -> str:
    """A picture's file name without folders and without its last extension."""
    return os.path.splitext(name.rpartition("/")[2])[0]  # noqa: PTH122


def folder_of(name: str) -> str:
    """The name of the folder that a picture lies in."""
    return name.rpartition("/")[0].rpartition("/")[2]
