"""Members of their own length: how images become JPEG or WebP, and the table of where each lies in its tar."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, features

from facegan.files import sha256_file, whole_file
from shards.errors import ShardError
from shards.format.columns import SideTable
from shards.format.mapping import Bytes, map_file

NAME = "members.bin"  # the table
MAX_KEY_BYTES = 255
FIXED_BYTES = 8 + 8 + 4  # of a row, the key aside
EXTENSIONS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
MAX_WEBP_SIDE = 16383  # pixels, of the format; JPEG's is more than `Geometry` has
QUALITY, LOSSLESS = 95, 100  # where none was asked for; the quality of a WebP that keeps every pixel
Row = tuple[int, int, int, bytes]  # offset, size, CRC-32, key
Piece = Callable[[], NDArray[np.void]]  # gives the rows of one shard


@dataclass(frozen=True)
class Form:
    """What an image becomes in a tar: stored PNG, or JPEG or WebP of a quality from 1 to 100."""

    members: str = "png"
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.members not in EXTENSIONS:
            raise ShardError(f"--members {self.members}: expected {', '.join(EXTENSIONS)}")
        if self.members == "png" and self.quality is not None:
            raise ShardError(
                "--quality is of JPEG and WebP: stored PNG keeps every pixel; add --members jpeg or webp"
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ShardError(f"--quality {self.quality}: expected 1 to 100")
        if self.quality is None and not self.is_stored:
            object.__setattr__(self, "quality", QUALITY)

    @property
    def is_stored(self) -> bool:
        """Whether all records have one length, so that a shard is an array."""
        return self.members == "png"

    def refuse_larger(self, height: int, width: int) -> None:
        """Raise ShardError where images of this size cannot become such members."""
        if self.members == "webp" and max(height, width) > MAX_WEBP_SIDE:
            raise ShardError(
                f"--members webp: {height}x{width} pixels, a side has at most {MAX_WEBP_SIDE:,}: use jpeg or png"
            )

    def codec(self) -> dict[str, str]:
        """Name and version of what encodes, where its package's version does not say it: simplejpeg's does."""
        return {"libwebp": features.version("webp") or "unknown"} if self.members == "webp" else {}

    def encode(self, image: Bytes) -> bytes:
        """An image (H, W, C) uint8 as the file that a member holds.

        JPEG keeps the colours at full resolution (4:4:4); WebP halves it, but for quality 100, which is lossless.
        The bytes are those of one version of simplejpeg (which brings libjpeg-turbo) or of libwebp.
        """
        quality = self.quality or QUALITY
        if self.members == "jpeg":
            colours = ("GRAY", "Gray") if image.shape[2] == 1 else ("RGB", "444")
            data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, *colours, fastdct=False)
            return data
        # Lossless, `quality` is effort: more than this makes it one percent smaller and takes three times as long
        effort = {"lossless": True, "quality": 50, "method": 2}
        options = effort if quality == LOSSLESS else {"quality": quality, "method": 4}
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))).save(
            stream, "WEBP", **options
        )
        return stream.getvalue()


def member_type(key_bytes: int) -> np.dtype[np.void]:
    """A row of the member table: where a sample's picture lies in its tar, its CRC-32 and its key (UTF-8)."""
    return np.dtype([("offset", "<i8"), ("size", "<i8"), ("crc", "<u4"), ("key", f"S{key_bytes}")])


def write_members(path: Path, rows: Sequence[Row]) -> None:
    """Write a member table."""
    np.array(rows, member_type(max([1, *(len(row[3]) for row in rows)]))).tofile(path)


def part_name(number: int) -> str:
    """The name of a part of a large set's table."""
    return f"members-{number:05d}.bin"


def write_member_table(path: Path, pieces: Sequence[Piece]) -> SideTable:
    """Write the table of some shards from their own rows, `pieces`, which are asked for one after the other."""
    width = max(piece().dtype["key"].itemsize for piece in pieces)
    samples = 0
    with whole_file(path) as part, part.open("wb") as stream:
        for piece in pieces:  # one at a time: there may be thousands
            rows = piece()
            stream.write(rows.astype(member_type(width)).data)
            samples += len(rows)
    return SideTable(path.name, path.stat().st_size, sha256_file(path), samples)


def read_members(path: Path, count: int) -> NDArray[np.void]:
    """A member table of `count` rows, memory-mapped: rows and nothing else, there is no header to parse."""
    return rows_of(map_file(path) if path.exists() else np.empty(0, np.uint8), count, path)


def rows_of(data: Bytes, count: int, path: Path) -> NDArray[np.void]:
    """The rows of a member table in the bytes of a file; ShardError where they cannot be."""
    width, rest = divmod(data.size, max(count, 1))
    if rest or not 1 <= width - FIXED_BYTES <= MAX_KEY_BYTES:
        raise ShardError(f"{path}: {data.size:,} bytes are no table of {count:,} members")
    return data.view(member_type(width - FIXED_BYTES))
