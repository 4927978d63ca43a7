"""Lists of addresses as a source: text, csv or parquet with a row a picture, each fetched when it is packed."""

import csv
import hashlib
import io
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from facegan.files import remove_stale, whole_file
from shards.errors import ShardError
from shards.format.transform import MAX_PICTURE_BYTES, PictureError
from shards.make.address import Address, Where, system_of
from shards.make.claims import made_once
from shards.make.listing import FileReader, Place
from shards.make.ranges import open_stream
from shards.read.remote import CONNECTIONS, cause_of, failure_types, is_refused, is_remote, shown, status_of

URL = ("url", "image_url")  # columns, in any letter case
NAME = ("name", "file_name", "filename", "key")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
PAUSES = (1.0, 5.0)  # seconds before another attempt
SILENT = 64  # addresses that may fail without any answer before this machine is taken to be without a network
PARQUET = b"PAR1"
BATCH = 1 << 12  # rows of a Parquet file in memory


class Row(NamedTuple):
    """One picture of a list: its address, the name it is given, and the other columns."""

    url: str
    name: str
    rest: Sequence[Any]


class Table(NamedTuple):
    """A list: the names of the columns beside address and name, its rows, None for those without an address.

    unread: the names of columns of a kind that nothing is made of.
    """

    columns: list[str]
    rows: Iterator[Row | None]
    unread: list[str]


def is_list(start: bytes) -> bool:
    """Whether a file that begins so is a list of addresses: Parquet, or text with one or a column of them."""
    if start.startswith(PARQUET):
        return True
    first = start.decode("utf-8-sig", "ignore").lstrip().partition("\n")[0]
    return ADDRESS.match(first) is not None or any(name in _fields(first.lower()) for name in URL)


def _fields(line: str) -> list[str]:
    """The names of the columns, none where a line has no fields; in quotes the separator may be part of one."""
    try:
        fields = next(csv.reader([line.strip("\r\n")], delimiter="\t" if "\t" in line else ","), [])
    except csv.Error:
        return []
    return [field.strip().strip('"') for field in fields]


@contextmanager
def open_table(parts: Sequence[Where]) -> Iterator[Table]:
    """The rows of a list, those of its parts one after the other; ShardError where one has other columns."""
    with open_stream(parts[0]) as stream:
        first = read_table(parts[0], stream)
        yield first._replace(rows=chain(first.rows, _rows_of(parts[1:], first)))


def _rows_of(parts: Sequence[Where], first: Table) -> Iterator[Row | None]:
    for part in parts:
        with open_stream(part) as stream:
            table = read_table(part, stream)
            if (table.columns, table.unread) != (first.columns, first.unread):
                have, wanted = (", ".join((*each.columns, *each.unread)) for each in (table, first))
                raise ShardError(f"{part}: columns {have}; the first part of this list has {wanted}")
            yield from table.rows


def read_table(where: Where, stream: BinaryIO) -> Table:
    """The rows of an open list; ShardError where it is damaged or has no column of addresses."""
    start = stream.read(len(PARQUET))
    stream.seek(0)
    with _damage_told(where):
        columns, rows, unread = _parquet(where, stream) if start == PARQUET else (*_text(stream), [])
    lower = [column.lower() for column in columns]
    url = next((lower.index(name) for name in URL if name in lower), None)
    if url is None:
        raise ShardError(f"{where}: no column {' or '.join(URL)}, it has {', '.join(columns)}")
    name = next((lower.index(name) for name in NAME if name in lower), None)
    others = [i for i in range(len(columns)) if i not in (url, name)]
    return Table([columns[i] for i in others], _rows(where, (_row(row, url, name, others) for row in rows)), unread)


def _rows(where: Where, rows: Iterator[Row | None]) -> Iterator[Row | None]:
    with _damage_told(where):
        yield from rows


@contextmanager
def _damage_told(where: Where) -> Iterator[None]:
    try:
        yield
    except (csv.Error, ValueError, OSError) as error:  # Unicode's and Arrow's are among them
        raise ShardError(f"{where}: cannot be read as a list of addresses: {error}") from None


def _row(row: Sequence[Any], url: int, name: int | None, others: list[int]) -> Row | None:
    if len(row) <= url or not (address := str(row[url] or "").strip()):
        return None
    known = row[name] if name is not None and name < len(row) and row[name] is not None else None
    rest = [row[i] if i < len(row) else None for i in others]
    return Row(address, _plain("" if known is None else str(known)) or name_of(address), rest)


def name_of(url: str) -> str:
    """What a picture is called that has no other name: host and path, without what may be secret."""
    return _plain(shown(url).partition("?")[0].partition("://")[2]) or _plain(shown(url))


def _plain(name: str) -> str:
    return " ".join(name.split())


def _text(stream: BinaryIO) -> tuple[list[str], Iterator[Sequence[Any]]]:
    """Columns and rows of csv, of tab-separated values, or of one address a line."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    first = text.readline()
    while first and not first.strip():
        first = text.readline()
    if ADDRESS.match(first.strip()):
        return ["url"], ([line.strip()] for line in chain([first], text) if line.strip())
    rows = csv.reader(text, delimiter="\t" if "\t" in first else ",")
    return _fields(first), (row for row in rows if row)


def _parquet(where: Where, stream: BinaryIO) -> tuple[list[str], Iterator[Sequence[Any]], list[str]]:
    """Columns and rows, and the names of the columns that hold neither texts nor numbers."""
    try:
        from pyarrow import parquet, types  # type: ignore[import-untyped]
    except ImportError as error:
        raise ShardError(f"{where}: {error}. Type: pip install 'facegan[parquet]'") from None
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)

    def is_read(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind  # what pandas makes of categories
        return any(fits(kind) for fits in kinds)

    file = parquet.ParquetFile(stream)
    read = {field.name: is_read(field.type) for field in file.schema_arrow}
    names = [name for name in read if read[name]]
    batches = (
        zip(*(batch[name].to_pylist() for name in names), strict=True)
        for batch in file.iter_batches(BATCH, columns=names)
    )
    return names, (row for batch in batches for row in batch), [name for name in read if not read[name]]


def addresses_of(parts: Sequence[Where], scratch: Path) -> Path:
    """A list, in one file or in parts, as lines in `scratch`, made once; see `write_addresses`."""
    digest = hashlib.sha256()
    for part in parts:
        with open_stream(part) as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())  # type: ignore[arg-type]
    target = scratch / f".source-{digest.hexdigest()[:16]}.urls"
    made_once(target, partial(write_addresses, parts, target))
    return target


def write_addresses(parts: Sequence[Where], target: Path) -> None:
    """Write a list as lines of name, tab, address, readable by this user alone: signatures may be in it."""
    remove_stale(target)
    with open_table(parts) as table, whole_file(target) as part:
        part.touch(0o600)
        with part.open("wb") as out:
            for row in table.rows:
                line = f"{row.name}\t{''.join(row.url.split())}\n" if row else "\n"
                out.write(line.encode("utf-8", "surrogateescape"))


def list_addresses(lines: Where) -> Iterator[tuple[str, Place]]:
    """Name and place of each address of the lines that were written; empty lines are rows without one.

    The form of a place is the number of its row among those with an address.
    """
    offset = row = 0
    with open_stream(lines) as stream:
        for line in stream:
            name, _, url = line[:-1].partition(b"\t")
            crc = zlib.crc32(shown(url.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))
            yield name.decode("utf-8", "surrogateescape"), Place(offset + len(name) + 1, len(url), 0, crc, row)
            offset += len(line)
            row += len(name) > 0


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
