"""CelebA's annotation files: where people have them, and their rows, in the authors' form or as csv (Kaggle's)."""

import gzip
import io
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shards.errors import ShardError
from shards.make.address import Where

ATTRIBUTES, PARTITION, IDENTITY = "list_attr_celeba", "list_eval_partition", "identity_celeba"  # in any letter case
KINDS = (ATTRIBUTES, PARTITION, IDENTITY)
ENDINGS = (".txt", ".txt.gz", ".csv", ".csv.gz")  # the first that is there is read
SUBFOLDERS = ("Anno", "Eval")  # of the authors' own folder
HEADINGS = {"image_id", "image", "image_name", "file", "file_name", "filename", "name", "id"}  # above the names
NAMES = {f"{kind}{ending}": kind for kind in KINDS for ending in ENDINGS}


@dataclass(frozen=True)
class Table:
    """One annotation file: its name for messages, and how to open it."""

    where: str
    open: Callable[[], BinaryIO]


def kind_of(name: str) -> str | None:
    """Which of KINDS a file is by its name, in any letter case."""
    return NAMES.get(name.rpartition("/")[2].lower())


def find_files(source: Where, folder: Path | None) -> dict[str, Path]:
    """The files of each kind that are in `folder`, or beside a source: around it, and in Anno and Eval there.

    Nothing is looked for beside an address.

    Raises ShardError where `folder` has none.
    """
    above = [source.absolute().parent] if isinstance(source, Path) else []
    if above and "celeb" in source.name.lower():  # CelebA/Img/img_align_celeba.zip, or a folder in one of its name
        above.append(above[0].parent)
    places = [folder] if folder else above
    files = _files_in([place / name for place in places for name in ("", *SUBFOLDERS)])
    if folder and not files:
        raise ShardError(f"{folder}: none of {', '.join(KINDS)} (.txt or .csv, or with .gz) in it")
    return files


def _files_in(folders: list[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in folders:
        try:
            names = {path.name.lower(): path for path in folder.iterdir()}
        except OSError:
            continue  # such as a folder above that others may not look into
        for name, kind in NAMES.items():
            if name in names and names[name].is_file():
                files.setdefault(kind, names[name])
    return files


def rows(table: Table) -> Iterator[list[str]]:
    """The fields of each line that has any, separated by blanks, commas or semicolons.

    Line ends, byte order marks, UTF-16, quotes and double blanks do not matter. Raises ShardError where the file is
    damaged.
    """
    try:
        with table.open() as stream, _text(stream) as text:
            for line in text:
                separator = next((mark for mark in ",;" if mark in line), None)
                fields = [field.strip().strip('"') for field in line.split(separator)]
                if any(fields):
                    yield fields
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise ShardError(f"{table.where}: cannot be read: {error}") from None


def _text(stream: BinaryIO) -> io.TextIOWrapper:
    if stream.read(2) == b"\x1f\x8b":
        stream.seek(0)
        stream = io.BytesIO(gzip.GzipFile(fileobj=stream).read())
    stream.seek(0)
    marked = stream.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE)
    stream.seek(0)
    return io.TextIOWrapper(stream, encoding="utf-16" if marked else "utf-8-sig")


def attribute_rows(table: Table) -> tuple[list[str], int | None, Iterator[list[str]]]:
    """The attributes' names, how many rows the file says it has, and the rows."""
    lines = rows(table)
    first = next(lines, [])
    stated = int(first[0]) if len(first) == 1 and first[0].isdecimal() and len(first[0]) < 12 else None
    if stated is not None:
        names = next(lines, [])
    else:
        names = first[1:] if first and first[0].lower() in HEADINGS else []
    if not names or not all(names):
        raise ShardError(
            f"{table.where}: expected the count of pictures in line 1 and the attributes' names in line 2, or a "
            "csv that begins with image_id and their names"
        )
    return names, stated, lines


def value_rows(table: Table) -> Iterator[list[str]]:
    """The rows of a file with one value a picture, without a heading."""
    lines = rows(table)
    first = next(lines, [])
    if first and _is_picture(first[0]):
        yield first
    yield from lines


def _is_picture(field: str) -> bool:
    return "." in field
