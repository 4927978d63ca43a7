"""Checkpoints: the whole state of a run in one folder, there whole or not at all; safetensors and JSON only."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from facegan.errors import DiskFullError, FaceganError
from facegan.files import is_disk_full, sync

STATE, META, MANIFEST = "state.safetensors", "checkpoint.json", "manifest.json"
Warn = Callable[[str], None]


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
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, part / STATE)
        (part / META).write_text(json.dumps(meta | {"nimg": nimg}, indent=2, allow_nan=False) + "\n")
        manifest = {name: _sha256(part / name) for name in (STATE, META)}
        for name in manifest:
            sync(part / name)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        sync(part / MANIFEST)
        sync(part)
        if final.exists():  # a damaged one, or the same state saved before: kept until the new one is in place
            final.rename(root / f"{final.name}.replaced-{os.getpid()}")
        part.rename(final)
        sync(root)
    return final


def newest_checkpoint(root: Path, warn: Warn) -> Checkpoint | None:
    """The newest whole checkpoint under `root`; each damaged one passed over is named to `warn` and kept."""
    for path in reversed(checkpoint_folders(root)):
        try:
            return read_checkpoint(path)
        except FaceganError as error:
            warn(f"{error}; it is kept, and the one before it is tried")
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint; raises FaceganError naming the file that is missing, damaged or not a checkpoint's."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        for name in (STATE, META):
            if _sha256(path / name) != manifest[name]:
                raise FaceganError(f"checkpoint {path}: {name} is damaged (its SHA-256 is not the manifest's)")
        meta = json.loads((path / META).read_text())
        return Checkpoint(path, int(meta["nimg"]), load_file(path / STATE), meta)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise FaceganError(f"checkpoint {path} is damaged or incomplete: {error!r}") from None


def checkpoint_folders(root: Path) -> list[Path]:
    """Folders with a checkpoint's name, oldest first; whether they are whole is not looked at."""
    return sorted(p for p in root.glob("nimg-" + "[0-9]" * 12) if p.is_dir())


def prune_checkpoints(root: Path, keep: int, milestones: Callable[[int], bool]) -> None:
    """Delete what is older than the newest `keep`, except milestones; also leftovers of interrupted writes."""
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
