"""Opens a set where it lies: a folder, an address, or a stage that its shards are copied to."""

from pathlib import Path

from shards.errors import ShardError
from shards.format.index import NAME, ShardIndex, load_index, read_summary
from shards.read import node
from shards.read import stage as staging
from shards.read.files import Folder
from shards.read.remote import LocalSource, RemoteSource, is_remote
from shards.read.sets import ShardSet


def open_set(
    path: str | Path,
    resolution: int | None = None,
    stage: Path | None = None,
    stage_limit: int | None = None,
    progress: staging.Progress | None = None,
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
        return staging.open_staged(LocalSource(folder), target, stage_limit, progress)
    return ShardSet(index, folder, Folder(folder))


def _open_remote(
    address: str,
    resolution: int | None,
    stage: Path | None,
    limit: int | None,
    progress: staging.Progress | None,
) -> ShardSet:
    """The set at an address OUT or OUT/64; see `open_staged` and `shards.open_set`."""
    folder = stage or node.slurm_folder()
    if folder is None:
        raise ShardError(f"{address}: give --stage DIR, a folder on a local disk to copy the shards to")
    try:
        opened = staging.open_staged(RemoteSource(address), folder, limit, progress)
    except FileNotFoundError:
        if resolution is None:
            raise ShardError(f"{address}: no {NAME} there; give the address of one set, or a resolution") from None
        return _open_remote(f"{address.rstrip('/')}/{resolution}", None, folder, limit, progress)
    if resolution not in (None, opened.height):
        raise ShardError(f"{address}: images of {opened.height} px, resolution {resolution} was asked for")
    return opened


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
