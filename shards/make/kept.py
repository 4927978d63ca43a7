"""A file written from its beginning to its end, and kept as far as it came: killed, the next process goes on."""

import json
import os
import tempfile
from pathlib import Path
from typing import IO, Any

from facegan.files import write_json

STEP = 16 << 20  # bytes between two records of how far it came


class Kept:
    """A file to write on, behind what a killed process left.

    path: None for a file without a name, in `folder`, of which nothing is kept. at: the mark (as JSON has it) that
    all there is belongs before; None where there is nothing.
    """

    def __init__(self, path: Path | None, folder: Path | None = None) -> None:
        self.path = path
        self.at: Any
        self.at, self._recorded = _recorded(path) if path else (None, 0)
        self.stream = opened_at(path, self._recorded) if path else nameless(folder)

    def reached(self, at: Any) -> None:
        """Keep what belongs before a mark, if enough of it came since the last."""
        if self.stream.tell() - self._recorded >= STEP:
            self.keep(at)

    def keep(self, at: Any) -> None:
        """Keep what belongs before a mark."""
        self.stream.flush()
        if self.path is None:
            return
        os.fsync(self.stream.fileno())
        self.at, self._recorded = at, self.stream.tell()
        write_json(_record(self.path), {"at": at, "bytes": self._recorded})

    def forget(self) -> None:
        """Remove the record of how far it came."""
        if self.path is not None:
            _record(self.path).unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove all that was kept."""
        self.forget()
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _recorded(path: Path) -> tuple[Any, int]:
    """The last mark, and the bytes before it; a beginning where the file is not as it was recorded."""
    try:
        known = json.loads(_record(path).read_text(encoding="utf-8"))
        at, size = known["at"], int(known["bytes"])
        return (at, size) if path.stat().st_size >= size else (None, 0)
    except (OSError, ValueError, TypeError, KeyError):
        return None, 0


def opened_at(file: Path, size: int) -> IO[bytes]:
    """A file of which so many bytes are known to be whole, to be written on from there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = file.open("r+b" if size else "w+b")
    stream.truncate(size)
    stream.seek(size)
    return stream


def nameless(folder: Path | None) -> IO[bytes]:
    """A new file that is gone when it is closed."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)
