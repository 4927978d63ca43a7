"""Opens a set where it lies: a folder, an address, or a stage that its shards are copied to."""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facegan.files import private_folder, sha256_file
from shards.errors import ShardError
from shards.format.columns import Table
from shards.format.index import MAX_INDEX_BYTES, NAME, ShardIndex, columns_of, load_index, read_summary
from shards.read import node
from shards.read.files import Folder
from shards.read.locks import LOCK_FILE, Locks
from shards.read.remote import LocalSource, RemoteSource, Source, is_remote, read_whole
from shards.read.sets import ShardSet
from shards.read.stage import Progress, Stage


def open_set(
    path: str | Path,
    resolution: int | None = None,
    stage: Path | None = None,
    stage_limit: int | None = None,
    progress: Progress | None = None,
) -> ShardSet:
    """Open the set in a folder OUT or OUT/64, or at an address https://, s3:// or gs://.

    resolution: height of the images, needed where OUT holds sets of several sizes.
    stage: node-local folder to copy the shards to, checked by hash, once for all ranks of the node. Without it
        a set at an address, or on a network file system, is staged to $SLURM_TMPDIR where that is set.
    stage_limit: the most bytes the stage may hold; below the size of the set, shards come and go.
    progress: called with the number of bytes of each piece fetched.

    Nothing is read but the index and the sizes of the files. Raises ShardError where there is no set, where the
    index is damaged, or a file is missing or has another size.
    """
    if is_remote(str(path)):
        return _open_remote(str(path), resolution, stage, stage_limit, progress)
    folder, index = find_set(Path(path), resolution)
    target = stage or node.automatic_folder(folder)
    if target is not None:
        return open_staged(LocalSource(folder), target, stage_limit, progress)
    return ShardSet(index, folder, Folder(folder))


def _open_remote(
    address: str,
    resolution: int | None,
    stage: Path | None,
    limit: int | None,
    progress: Progress | None,
) -> ShardSet:
    """The set at an address OUT or OUT/64; see `open_staged` and `shards.open_set`."""
    folder = stage or node.slurm_folder()
    if folder is None:
        raise ShardError(f"{address}: give --stage DIR, a folder on a local disk to copy the shards to")
    try:
        opened = open_staged(RemoteSource(address), folder, limit, progress)
    except FileNotFoundError:
        if resolution is None:
            raise ShardError(f"{address}: no {NAME} there; give the address of one set, or a resolution") from None
        return _open_remote(f"{address.rstrip('/')}/{resolution}", None, folder, limit, progress)
    if resolution not in (None, opened.height):
        raise ShardError(f"{address}: images of {opened.height} px, resolution {resolution} was asked for")
    return opened


def open_staged(source: Source, folder: Path, limit: int | None, progress: Progress | None = None) -> ShardSet:
    """The set at `source`, its shards staged into a subfolder of `folder` that is this user's own.

    Without a limit, or with one that the set fits in, a split is fetched whole when it is opened. With a smaller
    limit (bytes, over all splits) shards come ahead of need and go when they are done with.
    Raises ShardError where there is no set, or no room for it.
    """
    index, place, locks = _fetch_index(source, private_folder(folder))
    stage = Stage(source, place, locks, index, limit, progress or (lambda count: None))
    if not stage.partial:
        node.make_room(place, stage.missing())
    return ShardSet(index, place, stage)


def _fetch_index(source: Source, folder: Path) -> tuple[ShardIndex, Path, Locks]:
    """Fetch and check the index, into the subfolder of `folder` for data of that fingerprint."""
    raw = read_whole(source, NAME, MAX_INDEX_BYTES)
    with _alone(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".index-") as scratch:
        (Path(scratch) / NAME).write_bytes(raw)
        try:
            summary = read_summary(Path(scratch) / NAME)
            columns = columns_of(summary)
            if columns is not None:
                kept = folder / re.sub(r"\W", "", str(summary.get("fingerprint")))[:16] / columns.name
                _obtain(source, columns, kept, Path(scratch) / columns.name)
            index = load_index(Path(scratch))
        except ShardError as error:
            raise ShardError(str(error).replace(scratch, source.address)) from None
        place = folder / index.fingerprint[:16]
        locks = Locks(place)
        os.utime(place / LOCK_FILE)
        for file in (*([columns.name] if columns else []), NAME):  # the index last, as ever
            (Path(scratch) / file).replace(place / file)
    return index, place, locks


def _obtain(source: Source, columns: Table, kept: Path, wanted: Path) -> None:
    """The columns of a set as `wanted`: the file `kept` once more, so that ranks share its pages, or fetched."""
    is_whole = kept.is_file() and kept.stat().st_size == columns.bytes and sha256_file(kept) == columns.sha256
    if is_whole and not kept.is_symlink():
        with suppress(OSError):
            wanted.hardlink_to(kept)
    if not wanted.exists():
        wanted.write_bytes(read_whole(source, columns.name, MAX_INDEX_BYTES))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of the node at a time, where its file system has locks."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def find_set(path: Path, resolution: int | None = None) -> tuple[Path, ShardIndex]:
    """The folder of the set meant by `path` (OUT/64, or OUT and a resolution where it holds several), its index."""
    folders = [path] if (path / NAME).exists() else sorted(entry.parent for entry in path.glob(f"*/{NAME}"))
    heights = {folder: read_summary(folder / NAME).get("height") for folder in folders}
    fitting = [folder for folder, height in heights.items() if resolution in (None, height)]
    if len(fitting) == 1:
        return fitting[0], load_index(fitting[0])
    if not folders:
        load_index(path)  # raises, and says how a set comes to be
    have = ", ".join(f"{folder.name} ({height} px)" for folder, height in heights.items())
    if not fitting:
        raise ShardError(f"{path}: no set of resolution {resolution}; there is {have}")
    raise ShardError(f"{path}: several sets ({have}); give one of these folders, or a resolution")
