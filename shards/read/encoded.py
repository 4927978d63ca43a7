"""Images of encoded members, ours or anybody's WebDataset: JPEG, PNG or WebP, decoded in threads."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

import numpy as np

from facegan.cores import usable_cores
from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.index import ShardIndex, Transform
from shards.format.mapping import Bytes, will_need
from shards.format.png import Geometry
from shards.format.transform import MAX_PICTURE_BYTES, Crop, PictureError, decode, parse_crop, resize
from shards.read.files import Files
from shards.read.images import Images
from shards.read.members import MemberRows

WARM = 16  # batches: a well announced one waits for nothing, and the disk is still behind the next
SQUARE = "square"  # the crop "as large a centred square as the picture has"


class EncodedImages(Images):
    """Images behind compressed members: the same numbers, order and interface as stored ones, decoder included.

    A sample that cannot be decoded is a ShardError that names shard and sample. Anybody's pictures are cropped and
    resized as the index says; those of our own sets were before they were encoded.
    """

    def __init__(self, index: ShardIndex, split: str, files: Files, folder: Path) -> None:
        Geometry(index.height, index.width, index.channels)  # checks the bounds
        super().__init__(index, split, files)
        self.transform = None if index.encoding else index.transform
        self.members = MemberRows(index, files)
        firsts = np.cumsum(index.shards.samples) - index.shards.samples
        self._rows = firsts[index.shards.numbers(split)]  # of the member table, where each shard's begin
        self._waits, self._calls_since_wait = getrusage(RUSAGE_SELF).ru_majflt, WARM

    def gather_at(self, places: Ints) -> Bytes:
        """See `Images.gather_at`."""
        out = np.empty((len(places), self.height, self.width, self.channels), np.uint8)
        shards, numbers = self.locate(places)
        samples = list(zip(out, shards.tolist(), numbers.tolist(), strict=True))
        step = max(1, -(-len(samples) // (4 * self._workers)))
        parts = [samples[start : start + step] for start in range(0, len(samples), step)]
        with self.mapped.lock:
            self.mapped.need(shards)
            for _ in self._pool.map(self._decode, parts):
                pass
        return out

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`."""
        return [self._key(shard, place) for shard, place in zip(*self.locate(indices), strict=True)]

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`."""
        if self.files.partial:
            with self.mapped.lock:
                self.mapped.keep(now)
        super().expect(now, then)

    @cached_property
    def _workers(self) -> int:
        return usable_cores()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._workers, thread_name_prefix="decode")

    def will_need(self, places: Ints) -> None:
        """See `Images.will_need`; only after batches that waited for a disk: decoding is slow from memory too."""
        if self.files.partial or not self._is_cold():
            return
        shards, numbers = self.locate(places)
        members = [
            self._member(shard, number) for shard, number in zip(shards.tolist(), numbers.tolist(), strict=True)
        ]
        offsets, sizes = (np.array([int(member[name]) for member in members]) for name in ("offset", "size"))
        whole = (
            (offsets >= 0) & (sizes > 0) & (offsets + sizes <= self.shards.bytes[shards])
        )  # the others are told when read
        with self.mapped.lock:
            self.mapped.need(shards)
            will_need(self.mapped.bytes, (self.mapped.starts[shards] + offsets)[whole], sizes[whole])

    def _is_cold(self) -> bool:
        """Whether this process waited for a disk since the last call, or in one of the WARM calls before."""
        waits = getrusage(RUSAGE_SELF).ru_majflt
        self._calls_since_wait = 0 if waits > self._waits else self._calls_since_wait + 1
        self._waits = waits
        return self._calls_since_wait <= WARM

    def _decode(self, samples: list[tuple[Bytes, int, int]]) -> None:
        for out, shard, place in samples:
            try:
                out[...] = fit(decode(self._bytes(shard, place), self.channels), self.transform, out.shape)
            except PictureError as error:
                where = f"{self.shards[shard].name}: sample {self._key(shard, place)}"
                raise ShardError(
                    f"{where}: {error.reason} ({error.detail}): damaged since it was indexed"
                ) from None

    def _bytes(self, shard: int, place: int) -> bytes:
        member, length = self._member(shard, place), self.shards[shard].bytes
        offset, size = int(member["offset"]), int(member["size"])
        if offset < 0 or not 0 < size <= MAX_PICTURE_BYTES or offset + size > length:
            raise PictureError("not in the tar", f"{size:,} bytes at byte {offset:,}, the tar has {length:,}")
        start = int(self.mapped.starts[shard]) + offset
        return self.mapped.bytes[start : start + size].tobytes()

    def _key(self, shard: int, place: int) -> str:
        return bytes(self._member(shard, place)["key"]).decode("utf-8", "replace")

    def _member(self, shard: int, place: int) -> np.void:
        return np.void(self.members.rows(int(self._rows[shard]) + place, 1)[0])


def fit(image: Bytes, transform: Transform | None, shape: tuple[int, ...]) -> Bytes:
    """Crop and resize a decoded picture (h, w, C) to the set's shape (H, W, C); PictureError where it cannot."""
    if transform is not None and transform.crop != "none":
        side = min(image.shape[:2])
        crop = Crop(SQUARE, side, side) if transform.crop == SQUARE else parse_crop(transform.crop)
        cut = np.array(crop.cut(image), order="C")  # a copy: Pillow's pixels may not be written
        image = resize(cut[None], *shape[:2])[0]
    if image.shape != shape:
        size = "x".join(str(side) for side in image.shape[:2])
        raise PictureError("another size", f"{size} pixels, the set has {shape[0]}x{shape[1]}")
    return image
