"""Lists of addresses as a source: text, csv or parquet with a row a picture, each fetched when it is packed."""

import hashlib
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from facegan.files import disk_full_said, sync, sync_folder
from shards.errors import PassingError, ShardError
from shards.format.transform import MAX_PICTURE_BYTES, PictureError
from shards.make.address import Address, Where, full_name, system_of
from shards.make.claims import made_once
from shards.make.kept import Kept
from shards.make.listing import FileReader, Mark, Place, state_of
from shards.make.lists import open_table
from shards.make.ranges import open_stream
from shards.read.remote import CONNECTIONS, cause_of, failure_types, is_refused, is_remote, shown, status_of

PAUSES = (1.0, 5.0)  # seconds before another attempt
SILENT = 64  # addresses that may fail without any answer before this machine is taken to be without a network
MARK = 1 << 12  # lines between two marks


def addresses_of(parts: Sequence[Where], scratch: Path) -> Path:
    """A list, in one file or in parts, as lines in `scratch`, made once; see `write_addresses`.

    They are known by where the parts are, their bytes, and times or versions: an unchanged list is not read again.
    """
    states = [part.state if isinstance(part, Address) and part.state else state_of(part) for part in parts]
    of = json.dumps([*zip(map(full_name, parts), states, strict=True)])
    target = scratch / f".source-{hashlib.sha256(of.encode()).hexdigest()[:16]}.urls"
    made_once(target, partial(write_addresses, parts, target))
    return target


def write_addresses(parts: Sequence[Where], target: Path) -> None:
    """Write a list as lines of name, tab, address, readable by this user alone: signatures may be in it.

    Killed, it goes on behind what was written.
    """
    part = target.with_name(f"{target.name}.begun")
    with disk_full_said(target):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch(0o600)
        kept = Kept(part)
        try:
            _write_rows(parts, kept)
        except ShardError as error:
            if not isinstance(error, PassingError):  # it would end so again
                kept.drop()
            raise
        sync(part)
        part.replace(target)
        sync_folder(target.parent)
        kept.forget()


def _write_rows(parts: Sequence[Where], kept: Kept) -> None:
    with kept.stream, open_table(parts, kept.at, bare=True) as table:
        for row in table.rows:
            if isinstance(row, Mark):
                kept.reached(row.at)
                continue
            line = f"{row.name}\t{''.join(row.url.split())}\n" if row else "\n"
            kept.stream.write(line.encode("utf-8", "surrogateescape"))


def list_addresses(lines: Where, at: Any = None) -> Iterator[tuple[str, Place] | Mark]:
    """Name and place of each address of the lines that were written; empty lines are rows without one.

    The form of a place is the number of its row among those with an address. at: a mark to begin at.
    """
    offset, row = at or (0, 0)
    with open_stream(lines) as stream:
        stream.seek(offset)
        for count, line in enumerate(stream, 1):
            name, _, url = line[:-1].partition(b"\t")
            crc = zlib.crc32(shown(url.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))
            yield name.decode("utf-8", "surrogateescape"), Place(offset + len(name) + 1, len(url), 0, crc, row)
            offset += len(line)
            row += len(name) > 0
            if count % MARK == 0:
                yield Mark([offset, row])


class AddressReader(FileReader):
    """Pictures fetched from the addresses of a list; what does not come is a picture that cannot be used."""

    threads: int = CONNECTIONS

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answered, self.silent = False, 0

    def read(self, name: str, place: Place) -> bytes:
        """The bytes at one address; ShardError where nothing answers at all."""
        url = self.bytes_at(place.offset, place.stored).decode("utf-8", "surrogateescape")
        for pause in (*PAUSES, None):
            try:
                data = _fetched(url)
                self.answered = True
                break
            except failure_types() as error:
                self._count(cause_of(error), url)
                if pause is None or not _passes(cause_of(error)):
                    raise PictureError("not fetched", _said(cause_of(error))) from None
                time.sleep(pause)
        if len(data) > MAX_PICTURE_BYTES:
            raise PictureError("too large", f"more than {MAX_PICTURE_BYTES:,} bytes, the most that are read")
        return data

    def _count(self, error: BaseException, url: str) -> None:
        self.answered |= status_of(error) > 0 or isinstance(error, FileNotFoundError | PermissionError)
        self.silent += 1
        if not self.answered and self.silent >= SILENT:
            raise ShardError(
                f"{shown(url)}: {_said(error)}; none of the first {SILENT} attempts was answered: "
                "does this machine have a way out? Compute nodes often have none"
            )


def _fetched(url: str) -> bytes:
    """At most one byte more than a picture may have."""
    try:
        readable = is_remote(url)
    except ShardError:
        readable = False
    if not readable:
        raise PictureError("not fetched", f"no address of a kind that is read: {shown(url)[:200]}")
    system = system_of(Address(url))
    try:
        if url.startswith("http"):
            with closing(system.open(url, cache_type="none", size=MAX_PICTURE_BYTES + 1)) as file:
                return bytes(file.read(MAX_PICTURE_BYTES + 1))
        return bytes(system.cat_file(url, start=0, end=MAX_PICTURE_BYTES + 1))
    except ValueError as error:
        raise PictureError("not fetched", shown(f"no address: {error}")) from None


def _passes(error: BaseException) -> bool:
    return not is_refused(error) and not isinstance(error, FileNotFoundError | PermissionError)


def _said(error: BaseException) -> str:
    status = status_of(error)
    return f"HTTP {status}" if status else shown(f"{type(error).__name__}: {error}")[:200]
