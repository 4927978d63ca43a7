"""Checkpoints: the whole state of a run in one folder, there whole or not at all; safetensors and JSON only."""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from facegan.errors import DiskFullError, FaceganError
from facegan.files import is_disk_full, name_file, sha256_file, sync, sync_folder

STATE, META, MANIFEST = "state.safetensors", "checkpoint.json", "manifest.json"
ATTEMPTS, PAUSE = 4, 2.0  # readings and seconds between them, where a file system says no for a moment
Warn = Callable[[str], None]


class DamagedError(FaceganError):
    """What a checkpoint holds is not what was written: another reading would find the same."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint found on disk, its hashes checked."""

    path: Path
    nimg: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def folder_name(nimg: int) -> str:
    """Name of the checkpoint or snapshot after `nimg` images; sorts as the numbers do."""
    return f"nimg-{nimg:012d}"


def write_checkpoint(root: Path, nimg: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
    """Write `root/nimg-.../`: every file synced, the manifest with their hashes last, then one rename.

    Raises DiskFullError where there is no room; whatever was there before is kept.
    """
    final = root / folder_name(nimg)
    part = root / f".{final.name}.part"
    with disk_full_explained(final):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        state = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        (part / STATE).write_bytes(save(state))
        (part / META).write_text(json.dumps(meta | {"nimg": nimg}, indent=2, allow_nan=False) + "\n")
        manifest = {name: sha256_file(part / name) for name in (STATE, META)}
        for name in manifest:
            sync(part / name)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        sync(part / MANIFEST)
        sync_folder(part)
        if final.exists():  # the same state, saved before
            final.rename(root / f".{final.name}.{secrets.token_hex(4)}.replaced")
        part.rename(final)
        sync_folder(root)
    return final


def newest_checkpoint(root: Path, warn: Warn) -> Checkpoint | None:
    """The newest whole checkpoint under `root`, or None where there is none of any kind; nothing is changed.

    Damaged newer ones are named to `warn`. Raises FaceganError where all are damaged, or one cannot be read at the
    moment.
    """
    folders = checkpoint_folders(root)
    for path in reversed(folders):
        try:
            return await_checkpoint(path)
        except DamagedError as error:
            warn(f"{error}; the one before it is tried")
    if folders:
        raise FaceganError(
            f"{root}: none of its {len(folders)} checkpoints is whole, so the run cannot go on. "
            f"Restore one of them, or begin anew: give another --run-dir, or move {root} away"
        )
    return None


def set_damaged_aside(newest: Checkpoint, warn: Warn) -> None:
    """Rename what is newer than the newest whole checkpoint, and so damaged, to `nimg-....damaged-...`.

    Kept under that name, it is never taken for a good one when old ones are deleted. For the run's owner alone.
    """
    for bad in checkpoint_folders(newest.path.parent):
        if bad.name > newest.path.name:
            bad.rename(aside := bad.with_name(f"{bad.name}.damaged-{secrets.token_hex(4)}"))
            warn(f"{aside}: the damaged checkpoint is kept under this name")


def await_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint, again and again for some seconds where the file system says no or does not show it yet.

    Raises DamagedError, or FaceganError where it still cannot be read: nothing is known of its content then.
    """
    for attempt in range(ATTEMPTS):
        try:
            return read_checkpoint(path)
        except OSError as error:
            if attempt == ATTEMPTS - 1:
                raise FaceganError(
                    f"checkpoint {path} cannot be read ({error}). It may be whole, so the run does not go on "
                    "without it: run the same command again when the file system is well"
                ) from None
            time.sleep(PAUSE)
    raise AssertionError("not reached")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint; DamagedError names the file that is missing, damaged or not a checkpoint's."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        content = {name: (path / name).read_bytes() for name in (STATE, META)}
        for name, data in content.items():
            if hashlib.sha256(data).hexdigest() != manifest[name]:
                raise DamagedError(f"checkpoint {path}: {name} is damaged (its SHA-256 is not the manifest's)")
        meta = json.loads(content[META])
        return Checkpoint(path, int(meta["nimg"]), load(content[STATE]), meta)
    except FileNotFoundError as error:
        if not path.is_dir():
            raise  # a name that this node does not see yet
        raise DamagedError(f"checkpoint {path} is incomplete: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise DamagedError(f"checkpoint {path} is damaged: {error!r}") from None


def below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Of a checkpoint's tensors those called `name/...`, such as a network's, by the rest of their names."""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def checkpoint_folders(root: Path) -> list[Path]:
    """Folders with a checkpoint's name, oldest first; whether they are whole is not looked at."""
    return sorted(p for p in root.glob("nimg-" + "[0-9]" * 12) if p.is_dir())


def prune_checkpoints(root: Path, keep: int, milestones: Callable[[int], bool]) -> None:
    """Delete what is older than the newest `keep`, except milestones; also leftovers of interrupted writes.

    All under a checkpoint's name are whole: written by this start, or what it went on from (`set_damaged_aside`).
    """
    for path in checkpoint_folders(root)[: -max(1, keep)]:
        if not milestones(int(path.name.removeprefix("nimg-"))):
            _remove_folder(path)
    for leftover in root.glob(".nimg-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into a DiskFullError naming `path`; a half folder is removed."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(path.with_name(f".{path.name}.part"), ignore_errors=True)
        if not is_disk_full(error):
            if isinstance(error, OSError):
                name_file(error, path)
            raise
        raise DiskFullError(
            f"no space left to write {path}; what was saved before is kept. "
            "Free some space, then run the same command again"
        ) from None


def _remove_folder(path: Path) -> None:
    """Delete a folder so that a kill in between leaves no half checkpoint under a final name."""
    doomed = path.with_name(f".{path.name}.doomed")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
