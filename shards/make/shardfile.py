"""A tar being written: stored-PNG records of one length, or members of their own."""

import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from facegan.files import whole_file
from shards.format.members import EXTENSIONS, Form, Row
from shards.format.png import BLOCK, END, Geometry, blank_records, encode_records, ustar_header

BATCH = 32  # images resized and appended in one call: fits the cache, and larger batches were not faster
FLUSH = 4 << 20  # bytes written between two reminders to the disk


class ShardFile:
    """A tar being written, hashed on the way; `rows` say where each encoded member lies."""

    def __init__(self, stream: BinaryIO, geometry: Geometry, form: Form) -> None:
        self.stream, self.geometry, self.form = stream, geometry, form
        self.records = blank_records(geometry, BATCH if form.is_stored else 0)
        self.rows: list[Row] = []
        self.digest = hashlib.sha256()
        self.bytes = self.samples = self.flushed = 0

    def add(self, images: NDArray[np.uint8], keys: list[str], texts: list[bytes] | None) -> None:
        """Append images (n, H, W, C), at most BATCH, as n samples; `texts` are their attribute members."""
        if self.form.is_stored:
            records = encode_records(self.geometry, images, keys, texts, self.records[: len(images)])
            self._write(records.reshape(-1).data)
        else:
            for i, (image, key) in enumerate(zip(images, keys, strict=True)):
                self._add_encoded(image, key, texts[i] if texts else None)
        self.samples += len(images)

    def _add_encoded(self, image: NDArray[np.uint8], key: str, text: bytes | None) -> None:
        picture = self.form.encode(image)
        self.rows.append((self.bytes + BLOCK, len(picture), zlib.crc32(picture), key.encode("ascii")))
        self._write_member(f"{key}{EXTENSIONS[self.form.members]}", picture)
        if text is not None:
            self._write_member(f"{key}.json", text)

    def _write_member(self, name: str, body: bytes) -> None:
        self._write(memoryview(ustar_header(name, len(body)) + body + bytes(-len(body) % BLOCK)))

    def end(self) -> None:
        """Append the end mark of a tar."""
        self._write(memoryview(END))

    def _write(self, data: memoryview) -> None:
        self.stream.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        if self.bytes - self.flushed >= FLUSH:
            self._start_flush()

    def _start_flush(self) -> None:
        """Have the disk begin: Linux starts to write what it may forget, so the sync at the end waits less."""
        self.stream.flush()
        os.posix_fadvise(self.stream.fileno(), self.flushed, self.bytes - self.flushed, os.POSIX_FADV_DONTNEED)
        self.flushed = self.bytes


@contextmanager
def shard_file(path: Path, geometry: Geometry, form: Form) -> Iterator[ShardFile]:
    """A new tar at `path`, whole or absent; absent too where no sample came."""
    with whole_file(path) as part, part.open("wb") as stream:
        shard = ShardFile(stream, geometry, form)
        yield shard
        shard.end()
    if not shard.samples:
        path.unlink()
