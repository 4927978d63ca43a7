"""A file as an array of bytes, without reading it."""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def map_file(path: Path) -> Bytes:
    """A file's bytes, memory-mapped read-only."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    with path.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
