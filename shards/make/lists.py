"""Lists of pictures as rows: text, csv or parquet, read from the beginning or from a place told before."""

import csv
import io
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, NamedTuple

from shards.errors import PassingError, ShardError
from shards.make.address import Where
from shards.make.listing import Mark
from shards.make.ranges import open_stream
from shards.read.remote import shown

URL = ("url", "image_url")  # columns, in any letter case
NAME = ("name", "file_name", "filename", "key")
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
PARQUET, BOM = b"PAR1", b"\xef\xbb\xbf"
BATCH = 1 << 12  # rows of a Parquet file in memory
MARK = 1 << 12  # rows of a text between two marks
Cells = Sequence[Any]


class Row(NamedTuple):
    """One picture of a list: its address, the name it is given, and the other columns."""

    url: str
    name: str
    rest: Sequence[Any]


class Table(NamedTuple):
    """A list: the names of the columns beside address and name, its rows, None for those without an address.

    Marks among the rows say where to begin (`at`) for those behind them. unread: the names of columns of a kind
    that nothing is made of.
    """

    columns: list[str]
    rows: Generator[Row | Mark | None]
    unread: Sequence[str]


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
def open_table(parts: Sequence[Where], at: Any = None, bare: bool = False) -> Iterator[Table]:
    """The rows of a list, those of its parts one after the other; ShardError where one has other columns.

    at: a mark to begin at. bare: without what is in the columns beside address and name.
    """
    with open_stream(parts[0]) as stream:
        first = read_table(parts[0], stream)
    with closing(_rows_of(parts, first, bare, *(at or (0, None)))) as rows:
        yield first._replace(rows=rows)


def _rows_of(
    parts: Sequence[Where], first: Table, bare: bool, number: int, at: Any
) -> Generator[Row | Mark | None]:
    for part in parts[number:]:
        with open_stream(part) as stream, closing((table := read_table(part, stream, at, bare)).rows):
            if (table.columns, table.unread) != (first.columns, first.unread):
                have, wanted = (", ".join((*each.columns, *each.unread)) for each in (table, first))
                raise ShardError(f"{part}: columns {have}; the first part of this list has {wanted}")
            for row in table.rows:
                yield Mark([number, row.at]) if isinstance(row, Mark) else row
        number, at = number + 1, None
        yield Mark([number, at])


def read_table(where: Where, stream: BinaryIO, at: Any = None, bare: bool = False) -> Table:
    """The rows of an open list; ShardError where it is damaged or has no column of addresses. See `open_table`."""
    start = stream.read(len(PARQUET))
    with _damage_told(where):
        file = _Parquet(where, stream) if start == PARQUET else _Text(stream)
    lower = [column.lower() for column in file.columns]
    url = next((lower.index(name) for name in URL if name in lower), None)
    if url is None:
        raise ShardError(f"{where}: no column {' or '.join(URL)}, it has {', '.join(file.columns)}")
    known = [url, *[lower.index(name) for name in NAME if name in lower][:1]]
    others = [i for i in range(len(lower)) if i not in known]
    rows = file.rows(known if bare else known + others, at)
    return Table([file.columns[i] for i in others], _rows(where, rows, len(known)), file.unread)


def _rows(where: Where, rows: Generator[Cells | Mark], known: int) -> Generator[Row | Mark | None]:
    with _damage_told(where), closing(rows):
        for cells in rows:
            yield cells if isinstance(cells, Mark) else _row(cells, known)


@contextmanager
def _damage_told(where: Where) -> Iterator[None]:
    try:
        yield
    except (csv.Error, ValueError, OSError) as error:  # Unicode's and Arrow's are among them
        passes = isinstance(error, OSError) and error.errno is not None  # Arrow's have no number
        kind = PassingError if passes else ShardError
        raise kind(f"{where}: cannot be read as a list of addresses: {error}") from None


def _row(cells: Cells, known: int) -> Row | None:
    """A row of its address, its name if two are known, and others."""
    if not (address := str(cells[0] or "").strip()):
        return None
    name = cells[1] if known > 1 else None
    return Row(address, _plain("" if name is None else str(name)) or name_of(address), cells[known:])


def name_of(url: str) -> str:
    """What a picture is called that has no other name: host and path, without what may be secret."""
    return _plain(shown(url).partition("?")[0].partition("://")[2]) or _plain(shown(url))


def _plain(name: str) -> str:
    return " ".join(name.split())


class _Text:
    """Values between commas or tabs, below a line with their columns; or one address a line."""

    unread: Sequence[str] = ()

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.at = stream, 0
        stream.seek(0)
        start = len(BOM) if stream.read(len(BOM)) == BOM else 0
        with closing(self._lines(start)) as lines:
            first = next((line for line in lines if line.strip()), "")
        self.delimiter = "\t" if "\t" in first else ","
        self.plain = ADDRESS.match(first.strip()) is not None
        self.columns, self.start = (["url"], start) if self.plain else (_fields(first), self.at)

    def _lines(self, at: int) -> Generator[str]:
        """The lines from a byte on; the next one begins at `self.at`."""
        self.stream.seek(at)
        self.at, text = at, io.TextIOWrapper(self.stream, encoding="utf-8", newline="")
        try:
            for line in text:
                self.at += len(line.encode())
                yield line
        finally:
            text.detach()  # or the stream would be closed with it

    def rows(self, chosen: list[int], at: Any) -> Generator[Cells | Mark]:
        """The cells of some columns; a mark is a byte."""
        with closing(self._lines(self.start if at is None else at)) as lines:
            rows = map(_address, lines) if self.plain else csv.reader(lines, delimiter=self.delimiter)
            for count, row in enumerate(rows, 1):
                if row:
                    yield [row[i] if i < len(row) else None for i in chosen]
                if count % MARK == 0:
                    yield Mark(self.at)


def _address(line: str) -> list[str]:
    return [text] if (text := line.strip()) else []


class _Parquet:
    """The columns of a Parquet file that hold texts or numbers; `unread` are the names of the others."""

    def __init__(self, where: Where, stream: BinaryIO) -> None:
        try:
            from pyarrow import parquet, types  # type: ignore[import-untyped]
        except ImportError as error:
            raise ShardError(f"{where}: {error}. Type: pip install 'facegan[parquet]'") from None
        kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)

        def is_read(kind: Any) -> bool:
            kind = kind.value_type if types.is_dictionary(kind) else kind  # what pandas makes of categories
            return any(fits(kind) for fits in kinds)

        stream.seek(0)
        self.file = parquet.ParquetFile(stream)
        read = {field.name: is_read(field.type) for field in self.file.schema_arrow}
        self.columns = [name for name in read if read[name]]
        self.unread: Sequence[str] = [name for name in read if not read[name]]

    def rows(self, chosen: list[int], at: Any) -> Generator[Cells | Mark]:
        """The cells of some columns, the others are not read; a mark is a group of rows."""
        names = [self.columns[i] for i in chosen]
        for group in range(at or 0, self.file.num_row_groups):
            for batch in self.file.iter_batches(BATCH, row_groups=[group], columns=names):
                yield from zip(*(batch[name].to_pylist() for name in names), strict=True)
            yield Mark(group + 1)
