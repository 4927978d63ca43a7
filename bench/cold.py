"""Shuffled batches of a set that is on the disk and not in memory: with and without announcing the next batch.

    python bench/cold.py             150 shards of 13 MB, 30 batches of 128 a round, in turns; under a minute
    python bench/cold.py --data DIR  on the disk of that folder
    python bench/cold.py --members jpeg --shards 300     decoded members, as a site with a slow file system has them

Before each round the set's pages are given back to the system. Stored PNG has random bytes and made-up columns.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import numpy as np  # noqa: E402
from loader import machine  # noqa: E402
from loader_peers import build_ours  # noqa: E402

import shards  # noqa: E402
from shards.format.columns import Shard, Shards  # noqa: E402
from shards.format.index import Record, ShardIndex, Source, Split  # noqa: E402
from shards.format.png import Geometry  # noqa: E402

GEOMETRY, SAMPLES, BATCH, BATCHES = Geometry(64, 64, 3), 1000, 128, 30


def make_encoded(folder: Path, members: str, count: int) -> None:
    """A set of as many shards of a few noisy pictures, encoded."""
    noise = np.random.default_rng(0)
    pictures = [noise.integers(low, low + 64, (64, 64, 3), np.uint8) for low in range(0, 192, 8)]
    build_ours(members)(folder, pictures, [], count * SAMPLES)
    for path in folder.glob("*.tar"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def make(folder: Path, count: int) -> None:
    """The set: shards of random bytes on the disk, and their index."""
    size = GEOMETRY.shard_bytes(SAMPLES)
    rows = [Shard(f"train-{number:05d}.tar", "train", SAMPLES, size, "0" * 64) for number in range(count)]
    for row in rows:
        with (folder / row.name).open("wb") as stream:
            stream.write(os.urandom(size))
            os.fsync(stream.fileno())
    total = count * SAMPLES
    ShardIndex(
        members="stored-png", height=64, width=64, channels=3, shards=Shards.of(rows), shard_size=SAMPLES,
        splits={"train": Split(total, count)}, source=Source("cold", "folder", total, "0" * 64),
        record=Record(GEOMETRY.stride, GEOMETRY.pixels, GEOMETRY.row),
    ).write(folder)  # fmt: skip


def forget(folder: Path) -> None:
    """Give the pages of the set back to the system; nothing may have them mapped."""
    for path in folder.glob("*.tar"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(folder: Path, seed: int, announced: bool) -> float:
    """Images a second."""
    forget(folder)
    images: Any = shards.open_set(folder).split("train")
    if not announced:
        images.will_need = lambda places: None
    stream = shards.Stream(images, BATCH, seed=seed)
    begun = time.perf_counter()
    for _ in range(BATCHES):
        next(stream)
    return BATCH * BATCHES / (time.perf_counter() - begun)


def main() -> None:
    """Make the set, measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--members", default="png", choices=("png", "jpeg", "webp"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="facegan-cold-", dir=options.data) as scratch:
        if options.members == "png":
            make(Path(scratch), options.shards)
        else:
            make_encoded(Path(scratch) / "set", options.members, options.shards)
        rounds = [
            [
                rate(next(Path(scratch).rglob("index.json")).parent, 2 * number + index, announced)
                for index, announced in enumerate((False, True))
            ]
            for number in range(options.rounds)
        ]
    print(f"{machine()}; {options.shards} shards of {SAMPLES} images as {options.members} on disk\n")
    print("| 64 px, cold | images/s |\n|---|---:|")
    for name, rates in zip(("as faults come", "next batch announced"), zip(*rounds, strict=True), strict=True):
        print(f"| {name} | {statistics.median(rates):,.0f} |")
    ratios = sorted(announced / plain for plain, announced in rounds)
    middle, span = statistics.median(ratios), f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
    print(f"\nRatio, median of {len(ratios)} pairs: {middle:.1f} ({span})")


if __name__ == "__main__":
    main()
