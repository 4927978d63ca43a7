"""Files that appear whole or not at all (temporary name in the same folder, fsync, rename), and lines of JSON."""

import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from facegan.errors import DiskFullError, FaceganError

STALE = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part", re.DOTALL)  # as whole_file names them
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}  # CIFS, some FUSE: there is nothing to do


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
            sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def remove_stale(path: Path) -> None:
    """Remove what killed writers of `path` left behind; only for a file that no other process writes now."""
    for stale in path.parent.glob(f".{path.name}.*.part"):
        stale.unlink(missing_ok=True)


def remove_stale_of(folder: Path, names: Container[str]) -> None:
    """`remove_stale` for many files of one folder, which is read once: it may hold a million."""
    for entry in os.scandir(folder) if folder.is_dir() else ():
        match = STALE.fullmatch(entry.name)
        if match and match[1] in names:
            Path(entry.path).unlink(missing_ok=True)


@contextmanager
def disk_full_said(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" and "quota exceeded" into a DiskFullError naming `path`.

    Any other error of the system's that names no file names `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            name_file(error, path)
            raise
        raise DiskFullError(
            f"{path}: {os.strerror(error.errno or 0)}. Everything finished before is kept: "
            "make room (or choose another folder) and run the same command again"
        ) from error


def name_file(error: OSError, path: Path) -> None:
    """Let an error of the system's that names no file name `path`; without a number its words are a library's."""
    if error.errno and not error.filename:
        error.filename = str(path)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, an OSError or another library's words for it, says that no space or quota is left."""
    full = isinstance(error, DiskFullError) or getattr(error, "errno", None) in FULL
    return full or "No space left" in str(error) or "quota exceeded" in str(error)


def sync_folder(path: Path) -> None:
    """Flush a folder's names to the disk, where its file system can."""
    try:
        sync(path)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def sync(path: Path) -> None:
    """Flush a file's content to the disk, so that it outlives a power loss."""
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


def home() -> Path:
    """The user's home; a private folder for temporary files where there is none to write to (`docker --user`)."""
    with suppress(RuntimeError):
        if os.access(folder := Path.home(), os.W_OK):
            return folder
    return private_folder(Path(tempfile.gettempdir()))


def private_folder(parent: Path) -> Path:
    """This user's folder in one that others use as well, made with mode 0700.

    Raises FaceganError where something else has its name, or another user owns it.
    """
    folder = parent / f"facegan-{os.geteuid()}"
    parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "no folder"
        raise FaceganError(
            f"{folder}: {kind} of user {facts.st_uid}, expected one of user {os.geteuid()}, who works here: "
            "remove it, or give another folder (--stage, HOME)"
        )
    if stat.S_IMODE(facts.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file, or none that holds an object."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, in order; none where there is no file.

    A line is there once its newline is: what a killed writer left of its last one is passed over.
    Raises FaceganError with file and number where any other line is no JSON object.
    """
    try:
        stream = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with stream:
        for number, line in enumerate(stream, 1):
            if line.endswith(b"\n"):
                yield _object(line, f"{path}, line {number}")


def last_json_line(path: Path, most: int = 1 << 16) -> dict[str, Any]:
    """The last whole line of a file that may be growing; empty where its last `most` bytes hold none."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - most))
            lines = [line for line in stream if line.endswith(b"\n")]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return _object(lines[-1], f"{path}, last line") if lines else {}


def append_json_line(path: Path, value: dict[str, Any]) -> None:
    """Add a line, whole or not at all; half a line that a killed writer left is cut off first. One writer a file.

    Raises DiskFullError where there is no room.
    """
    rest = memoryview((json.dumps(value, allow_nan=False) + "\n").encode())
    with disk_full_said(path), path.open("a+b", buffering=0) as file:
        end = _end_of_lines(file)
        file.truncate(end)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(end)
            raise


def _end_of_lines(file: FileIO) -> int:
    """Where the last whole line ends."""
    size = file.seek(0, os.SEEK_END)
    for length in (min(1, size), size):
        file.seek(size - length)
        place = file.read(length).rfind(b"\n")
        if place >= 0:
            return size - length + place + 1
    return 0


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FaceganError(f"{where}: not JSON ({error}); remove the line") from None
    if not isinstance(value, dict):
        raise FaceganError(f"{where}: expected a JSON object, found {type(value).__name__}; remove the line")
    return value
