"""Files that appear whole or not at all: temporary name in the same folder, fsync, rename."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facegan.errors import DiskFullError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed, on any error removed.

    Raises DiskFullError where the file system or the quota is full.
    """
    with disk_full_said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            yield part
            sync(part)
            part.replace(path)
            sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


def remove_stale(path: Path) -> None:
    """Remove what killed writers of `path` left behind; only for a file that no other process writes now."""
    for stale in path.parent.glob(f".{path.name}.*.part"):
        stale.unlink(missing_ok=True)


@contextmanager
def disk_full_said(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" and "quota exceeded" into a DiskFullError naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFullError(
            f"{path}: {os.strerror(error.errno or 0)}. Everything finished before is kept: "
            "make room (or choose another folder) and run the same command again"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, an OSError or another library's words for it, says that no space or quota is left."""
    full = isinstance(error, DiskFullError) or getattr(error, "errno", None) in FULL
    return full or "No space left" in str(error) or "quota exceeded" in str(error)


def sync(path: Path) -> None:
    """Flush a file's or a folder's content to the disk, so that it outlives a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
