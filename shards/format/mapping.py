"""Files as arrays of bytes, without reading them: mapped read-only, no descriptor kept.

The C library is called because Python's mmap (before 3.13) keeps a descriptor open for each mapping, and cannot put
a mapping at a chosen place.
"""

import ctypes
import errno
import mmap
import os
import weakref
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]
PROT_NONE, MAP_FIXED, MAP_NORESERVE = 0, 0x10, 0x4000 if os.uname().sysname == "Linux" else 0x40
RESERVED = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def map_file(path: Path) -> Bytes:
    """A file's bytes, memory-mapped read-only for as long as an array over them lives."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        return _array(_mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, stream.fileno(), path), size)


def reserve(size: int) -> Bytes:
    """Address space for `size` bytes that takes no memory; to be touched only where a file is mapped."""
    return _array(_mmap(None, size, PROT_NONE, RESERVED, -1, "address space"), size)


def map_at(space: Bytes, offset: int, path: Path) -> None:
    """Map a whole file into reserved space at `offset`, a multiple of the page."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if offset + size > space.size:
            raise ValueError(f"{path}: {size} bytes do not fit at {offset} of {space.size}")
        address = space.ctypes.data + offset
        _mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED, stream.fileno(), path)


def unmap_at(space: Bytes, offset: int, size: int) -> None:
    """Give back what was mapped there; the space stays reserved."""
    _mmap(space.ctypes.data + offset, size, PROT_NONE, RESERVED | MAP_FIXED, -1, "address space")


def will_need(space: Bytes, starts: Ints, sizes: Ints | int) -> None:
    """Have the system begin to read so many bytes from each of these offsets; nothing is waited for."""
    begins = starts + space.ctypes.data
    pages = begins - begins % mmap.PAGESIZE
    for page, size in zip(pages.tolist(), (begins - pages + sizes).tolist(), strict=True):
        _libc.madvise(page, size, mmap.MADV_WILLNEED)


class _Memory:
    """Bytes at an address, for NumPy (its array interface), which keeps this alive as long as they are seen."""

    def __init__(self, address: int, size: int) -> None:
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "data": (address, True), "shape": (size,)}
        # Not at the interpreter's end: a thread may still be reading, and the system unmaps all the same
        weakref.finalize(self, _libc.munmap, address, size).atexit = False


def _array(address: int, size: int) -> Bytes:
    return np.asarray(_Memory(address, size))


def _mmap(address: int | None, size: int, protection: int, flags: int, file: int, where: Path | str) -> int:
    start = _libc.mmap(address, size, protection, flags, file, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        code = ctypes.get_errno()
        why = "see `ulimit -v`"
        if code == errno.ENODEV:
            why = "its file system cannot map files: give --stage DIR, a folder on a local disk"
        raise OSError(code, f"{os.strerror(code)}: {size:,} bytes could not be mapped ({why})", str(where))
    return int(start)
