"""Locks on the files of a stage: one byte each of one lock file, so that a process needs one descriptor for all.

They are the kernel's locks of an open file (Linux, `F_OFD_SETLK`): gone with the process that held them. Threads of
a process do not exclude each other by them.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path

from shards.errors import ShardError

LOCK_FILE = ".lock"  # its time of change is when the set was last opened
IN_USE, ROOM, FIRST_FILE = 0, 1, 2  # bytes: somebody reads the set; room is being counted; two for each file
_FREE, _SHARED, _ALONE = fcntl.F_UNLCK, fcntl.F_RDLCK, fcntl.F_WRLCK
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL}


class Locks:
    """The lock file of a set's folder; `IN_USE` is held, shared, for as long as this object lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while True:  # until the folder is not one that another process just removed
            folder.mkdir(exist_ok=True)
            self._handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self.share(IN_USE)
            if os.fstat(self._handle).st_nlink:
                return
            self.close()

    def close(self) -> None:
        """Free all of them."""
        os.close(self._handle)

    def share(self, number: int) -> None:
        """Hold a byte together with others."""
        self._set(_SHARED, number, wait=True)

    def alone(self, number: int) -> None:
        """Hold a byte alone; waits until nobody else holds it."""
        self._set(_ALONE, number, wait=True)

    def try_alone(self, number: int, count: int = 1) -> bool:
        """Hold `count` bytes from `number` alone, if nobody else holds any of them now; 0 is all that follow."""
        return self._set(_ALONE, number, wait=False, count=count)

    def free(self, number: int) -> None:
        """Hold a byte no more."""
        self._set(_FREE, number, wait=False)

    def _set(self, kind: int, number: int, wait: bool, count: int = 1) -> bool:
        command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
        try:
            fcntl.fcntl(self._handle, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, number, count, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            if error.errno in _WITHOUT_LOCKS:
                raise ShardError(
                    f"{self.folder}: its file system has no locks ({error.strerror}), which the ranks of a node "
                    "need to share a stage: give --stage DIR, a folder on a local disk"
                ) from None
            raise
        return True
