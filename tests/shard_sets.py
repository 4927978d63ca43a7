"""Small sets of shards for the tests of their readers, made without the writer."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from facegan.files import sha256_file
from shards.format.columns import Shard, Shards
from shards.format.index import Record, ShardIndex, Source, Split
from shards.format.png import END, Geometry, encode_records


def pictures(count: int, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Images (count, height, width, channels) uint8 of random pixels."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def make_set(
    folder: Path,
    sizes: Mapping[str, Iterable[int]],
    height: int = 8,
    width: int = 8,
    channels: int = 3,
    version: int = 2,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Write a stored-PNG set with shards of these sizes a split; returns each split's images.

    Keys are the split's first letter and the number in the split: t000012.
    """
    folder.mkdir(parents=True, exist_ok=True)
    geometry, shards, images = Geometry(height, width, channels), [], {}
    for split, counts in sizes.items():
        counts = list(counts)
        images[split] = pictures(sum(counts), height, width, channels, seed=len(split) + seed)
        firsts = np.cumsum([0, *counts])
        for number, count in enumerate(counts):
            span = range(firsts[number], firsts[number] + count)
            keys = [f"{split[0]}{position:06d}" for position in span]
            path = folder / f"{split}-{number:05d}.tar"
            records = encode_records(geometry, images[split][span.start : span.stop], keys) if count else b""
            path.write_bytes(bytes(records) + END)
            shards.append(Shard(path.name, split, count, path.stat().st_size, sha256_file(path)))
    write_index(folder, shards, geometry, version)
    return images


def write_index(folder: Path, shards: list[Shard], geometry: Geometry, version: int = 2) -> ShardIndex:
    """Write the index of stored-PNG shards."""
    splits: dict[str, Split] = {}
    for shard in shards:
        before = splits.get(shard.split, Split(0, 0))
        splits[shard.split] = Split(before.samples + shard.samples, before.shards + 1)
    index = ShardIndex(
        members="stored-png",
        height=geometry.height,
        width=geometry.width,
        channels=geometry.channels,
        splits=splits,
        shards=Shards.of(shards),
        version=version,
        source=Source("test", "folder", sum(shard.samples for shard in shards), "0" * 64),
        shard_size=max(shard.samples for shard in shards),
        record=Record(geometry.stride, geometry.pixels, geometry.row),
    )
    index.write(folder)
    return index


def encode(image: np.ndarray, form: str, **options: int) -> bytes:
    """A picture (H, W, C) as bytes of a JPEG, PNG or WEBP file."""
    stream = io.BytesIO()
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    picture.save(stream, form, **options)
    return stream.getvalue()


def write_tar(path: Path, entries: Iterable[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> None:
    """Write a tar with Python's own module: one plain file an entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in entries:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
