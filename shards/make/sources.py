"""Where pictures come from: a folder, a zip, a tar or MNIST's idx files, listed in one order, read in place."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from shards.errors import PassingError, ShardError
from shards.format.transform import EXTENSIONS, MAX_PICTURE_BYTES, PictureError
from shards.make.address import Address, Where, look
from shards.make.buckets import BucketReader, list_bucket
from shards.make.collecting import begun_in, collect
from shards.make.idx import IdxReader, is_images_file, list_idx
from shards.make.listing import Listing, Mark, Place, Reader, Seen, as_found, is_hidden, patiently, state_of
from shards.make.tarfiles import TarReader, list_tar, recognise
from shards.make.urls import AddressReader, addresses_of, list_addresses
from shards.make.zipfiles import ZipReader, list_zip

PART = ".parquet"  # of a list in a folder
Identity = tuple[int, int]  # of a folder, whatever its name
Entry = tuple[str, Place] | Seen | Mark
ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zip")
HINTS = {
    ".tar": "WebDataset's tars in a folder here become a set where they lie: facegan shards index FOLDER. "
    "To crop and resize the pictures of a tar, give the tar itself",
    **dict.fromkeys(ARCHIVES[1:], "Give one of the archives itself"),
    **dict.fromkeys((".csv", ".tsv"), "Give one list of addresses itself, or join them to one"),
}


def list_source(path: Where, scratch: Path, kept: Path | None = None) -> Listing:
    """List the pictures of `path`, whatever it is, sorted by name.

    kept: a folder for what is listed of a folder, zip or tar, so that the same call goes on where it was killed.

    A compressed tar has no places to read from: it is first decompressed into one file in `scratch`, never
    into many. Raises ShardError where there is no picture, or where a folder or archive cannot be read.
    """
    if isinstance(path, Address):
        listing = _list_address(look(path), scratch, kept)
    elif not path.exists():
        raise ShardError(f"{path}: there is no such file or folder")
    else:
        listing = _list_folder(path, scratch, kept) if path.is_dir() else _list_file(path, scratch, kept)
    if not len(listing):
        others = ", ".join(f"{count} {kind}" for kind, count in sorted(listing.left_out.items()))
        hints = (HINTS[kind] for kind in HINTS if kind in listing.left_out and listing.kind in ("folder", "bucket"))
        hint = next((f". {hint}" for hint in hints), "")
        raise ShardError(f"{path}: no picture ({' '.join(EXTENSIONS)}) in it, only: {others or 'nothing'}{hint}")
    return listing


def open_reader(kind: str, path: Where) -> Reader:
    """What reads the pictures of a listing of this kind."""
    readers: dict[str, Callable[[Any], Reader]] = {
        "folder": FolderReader,
        "zip": ZipReader,
        "tar": TarReader,
        "idx": IdxReader,
        "bucket": BucketReader,
        "urls": AddressReader,
    }
    return readers[kind](path)


def _list_file(path: Path, scratch: Path, kept: Path | None) -> Listing:
    if is_images_file(path):
        return collect("idx", path, list_idx(path), scratch)
    return _list_archive(path, scratch, kept)


def _list_address(address: Address, scratch: Path, kept: Path | None) -> Listing:
    if not (address.is_folder or address.url.endswith("/")):
        return _list_archive(address, scratch, kept)
    return _list_tree("bucket", address, lambda at: list_bucket(address, at or ""), scratch, kept)


def _list_archive(path: Where, scratch: Path, kept: Path | None) -> Listing:
    kind, opened = recognise(path, scratch)
    if kind == "urls":
        return _list_lines(opened, scratch, kept)
    begun = begun_in(kept)
    entries = list_zip(opened, begun.at) if kind == "zip" else list_tar(opened, begun.at or 0)
    return collect(kind, opened, entries, scratch, begun)


def _list_folder(path: Path, scratch: Path, kept: Path | None) -> Listing:
    if any(is_images_file(entry) for entry in path.iterdir()):
        return collect("idx", path, list_idx(path), scratch)
    written = _identity(scratch.stat()) if scratch.exists() else None  # changes all the time, where it is in there
    listing = _list_tree("folder", path, lambda at: _walk(path, "", frozenset(), written, at), scratch, kept)
    if listing.kind != "folder":
        return listing
    return replace(listing, seen={name: state_of(path / name) for name, _ in listing.tables.values()})


def _list_tree(
    kind: str, path: Where, entries_from: Callable[[Any], Iterator[Entry]], scratch: Path, kept: Path | None
) -> Listing:
    """A folder, by its entries from a mark on; of lists of addresses in parts, where there is nothing else."""
    begun, parts = begun_in(kept), list[str]()
    is_new = begun.at is None
    listing = collect(kind, path, _noted(parts, entries_from(begun.at)), scratch, begun)
    if not len(listing) and not is_new:  # what was noted before is not known
        return _list_tree(kind, path, entries_from, scratch, None)
    if parts and not len(listing) and listing.left_out.keys().isdisjoint(ARCHIVES):
        return _list_parts(path, sorted(parts), listing.left_out, scratch, kept)
    return listing


def _noted(parts: list[str], entries: Iterator[Entry]) -> Iterator[Entry]:
    """The entries of a folder; the names of Parquet files among them are noted."""
    for entry in entries:
        if not isinstance(entry, Seen | Mark) and entry[0].lower().endswith(PART) and not is_hidden(entry[0]):
            parts.append(entry[0])
        yield entry


def _list_lines(lines: Where, scratch: Path, kept: Path | None) -> Listing:
    """A list of addresses by the lines that were made of it; what is kept is of this very list."""
    begun = begun_in(kept and kept / lines.name)
    return collect("urls", lines, list_addresses(lines, begun.at), scratch, begun)


def _list_parts(path: Where, names: list[str], others: Counter[str], scratch: Path, kept: Path | None) -> Listing:
    """A folder that has a list of addresses in it, in parts, and no pictures."""
    parts = [path.absolute() / name if isinstance(path, Path) else path.below(name) for name in names]
    seen = {part.url if isinstance(part, Address) else str(part): state_of(part) for part in parts}
    lines = addresses_of([as_found(*part) for part in seen.items()], scratch)
    left_out = Counter({kind: count for kind, count in others.items() if kind != PART})
    listing = _list_lines(lines, scratch, kept)
    return replace(listing, seen=seen, left_out=listing.left_out + left_out)


def _identity(facts: os.stat_result) -> Identity:
    return facts.st_dev, facts.st_ino


def _walk(
    root: Path, folder: str, parents: frozenset[Identity], written: Identity | None, at: str | None = None
) -> Iterator[Entry]:
    """Names of all files below root/folder, with `/` between; links are followed, loops are not.

    Each folder is told with its time before it is read, but for hidden ones and what is `written` to; its files
    come before the folders in it, these by name. `at`: the folder that was the last to be read, this one or below.
    """
    known, reached = at is not None, (at or "")[len(folder) :].partition("/")[0]
    path = root / folder
    facts = path.stat()
    here = _identity(facts)
    if not known and not is_hidden(folder) and written not in (here, *parents):
        yield Seen(folder, facts.st_mtime_ns)
    if here in parents:
        return
    below = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    below.append(entry.name)
                elif not known:
                    yield f"{folder}{entry.name}", Place()
    except OSError as error:
        if not is_hidden(folder[:-1]):
            raise PassingError(f"{path}: cannot be listed: {error.strerror}") from None
        yield folder, Place()  # nobody else may look into it: counted as one that is hidden
    if not known:
        yield Mark(folder)
    for name in sorted(below):
        if name >= reached:
            last = at if known and name == reached else None
            yield from _walk(root, f"{folder}{name}/", parents | {here}, written, last)


class FolderReader(Reader):
    """Pictures that are files of their own."""

    def __init__(self, path: Path) -> None:
        self.path = os.fspath(path)

    def read(self, name: str, place: Place) -> bytes:
        """The bytes of one file."""
        return patiently(lambda: _read_path(f"{self.path}/{name}"))


def _read_path(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # not to wait for ever on a named pipe that is called .jpg
    try:
        return _read_file(file)
    finally:
        os.close(file)


def _read_file(file: int) -> bytes:
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode):
        raise PictureError("not a file", stat.filemode(facts.st_mode))
    if facts.st_size > MAX_PICTURE_BYTES:
        raise PictureError("too large", f"{facts.st_size:,} bytes, at most {MAX_PICTURE_BYTES:,} are read")
    return os.read(file, facts.st_size)
