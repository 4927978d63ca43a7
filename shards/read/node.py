"""The folder of a node that shards are staged into: one a user, closed to others, cleaned of what nobody reads."""

import os
import secrets
import shutil
import time
from pathlib import Path

from shards.errors import ShardError
from shards.read.locks import IN_USE, LOCK_FILE, Locks

NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "panfs", "wekafs", "9p"}
UNUSED_DAYS = 14.0  # then a set goes, whether its room is needed or not


def slurm_folder() -> Path | None:
    """The node-local folder that Slurm made for this job, if it made one."""
    folder = os.environ.get("SLURM_TMPDIR")
    return Path(folder) if folder else None


def automatic_folder(folder: Path) -> Path | None:
    """Where a set in a mounted folder is staged unasked: in $SLURM_TMPDIR, if the folder is on a network."""
    return slurm_folder() if slurm_folder() and file_system_of(folder) in NETWORK_FILE_SYSTEMS else None


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that a folder lies on, as Linux names it; "" where that cannot be found out."""
    if not mounts.exists():
        return ""
    fields = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    kinds = {each[4]: each[each.index("-") + 1] for each in fields if "-" in each}
    here = folder.resolve()
    return next((kinds[str(parent)] for parent in (here, *here.parents) if str(parent) in kinds), "")


def make_room(place: Path, needed: int) -> None:
    """Remove sets beside `place` that nobody reads: those unused for UNUSED_DAYS, and the oldest if room lacks.

    Raises ShardError where `needed` bytes are not free after that.
    """
    others = [
        path for path in place.parent.iterdir() if path.is_dir() and path != place and (path / LOCK_FILE).exists()
    ]
    for old in sorted(others, key=_last_used):
        if time.time() - _last_used(old) > UNUSED_DAYS * 86400 or needed > _free(place):
            _remove_unused(old)
    if needed > (free := _free(place)):
        raise ShardError(
            f"{place}: the set needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free: give --stage-gb, "
            "so that shards come and go, or another --stage folder"
        )


def _free(place: Path) -> int:
    return shutil.disk_usage(place).free


def _last_used(place: Path) -> float:
    """When a set was last opened."""
    try:
        return (place / LOCK_FILE).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove_unused(place: Path) -> None:
    """Remove a set, unless a process reads it or begins to."""
    locks = Locks(place)
    try:
        locks.free(IN_USE)
        if locks.try_alone(IN_USE):
            doomed = place.with_name(f".{place.name}.{secrets.token_hex(4)}")  # its name is free at once
            place.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
    finally:
        locks.close()
