"""MNIST's idx files (LeCun: big-endian header, then bytes), plain or gzip, as a source of grey pictures."""

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.make.listing import Place, Reader

IMAGES_FILE = re.compile(r"(?P<stem>[A-Za-z0-9_]+)-images[-.]idx3-ubyte(?:\.gz)?")
IMAGES, LABELS = 0x803, 0x801
MAX_BYTES = 1 << 30


def is_images_file(path: Path) -> bool:
    """Whether the name is one of MNIST's image files, like train-images-idx3-ubyte.gz."""
    return IMAGES_FILE.fullmatch(path.name) is not None and path.is_file()


def images_files(path: Path) -> dict[str, Path]:
    """The image files of a folder (or the one file itself) by stem, sorted; a plain file goes before a .gz."""
    files = [path] if path.is_file() else sorted(path.iterdir(), reverse=True)  # "x" comes after "x.gz"
    by_stem = {IMAGES_FILE.fullmatch(file.name)["stem"]: file for file in files if is_images_file(file)}  # type: ignore[index]
    return dict(sorted(by_stem.items()))


def list_idx(path: Path) -> Iterator[tuple[str, Place]]:
    """Name (like t10k-00042.ppm) and place of every picture; `form` is the number of its file."""
    for number, (stem, file) in enumerate(images_files(path).items()):
        count, height, width = read_images(file).shape
        for i in range(count):
            yield f"{stem}-{i:05d}.ppm", Place(i * height * width, height * width, height * width, 0, number)


def read_images(file: Path) -> NDArray[np.uint8]:
    """The pictures of an idx3 file, (n, H, W) uint8."""
    return _read(file, IMAGES, 3)


def read_labels(images_file: Path) -> NDArray[np.uint8] | None:
    """The labels (n,) that belong to an idx3 file, from the idx1 file beside it; None where there is none."""
    name = images_file.name.replace("-images", "-labels").replace("idx3", "idx1").removesuffix(".gz")
    for file in (images_file.with_name(name), images_file.with_name(f"{name}.gz")):
        if file.exists():
            return _read(file, LABELS, 1)
    return None


def _read(file: Path, magic: int, dimensions: int) -> NDArray[np.uint8]:
    head = struct.Struct(f">{1 + dimensions}I")
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            raw = stream.read(MAX_BYTES)
        start, *shape = head.unpack_from(raw)
        if start != magic:
            raise ShardError(
                f"{file}: starts with {start:#x}, an idx file of {dimensions} dimensions with {magic:#x}"
            )
        return np.frombuffer(raw, np.uint8, offset=head.size).reshape(shape)
    except (EOFError, OSError, zlib.error, struct.error, ValueError) as error:
        raise ShardError(f"{file}: not a whole idx file ({error}): fetch it again") from None


class IdxReader(Reader):
    """Pictures of idx files, each as a PGM file, so that they go the same way as all others."""

    def __init__(self, path: Path) -> None:
        self.files = [read_images(file) for file in images_files(path).values()]

    def read(self, name: str, place: Place) -> bytes:
        """One picture as the bytes of a binary PGM."""
        pictures = self.files[place.form]
        picture = pictures[place.offset // place.size]
        head = b"P5 %d %d 255\n" % (pictures.shape[2], pictures.shape[1])
        return head + bytes(picture.data)
