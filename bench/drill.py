"""A set of 10^6 shards and 10^9 samples, and what it costs to open, verify, read and resume, on two cores.

    python bench/drill.py --data /scratch/drill      some minutes; makes the set there once, 4 GB of file names
    python bench/drill.py --shards 10000             a hundredth of it

The shards are sparse files, so they take no room and their pixels are black; their columns are made up but true:
the hash of a sparse file is computed once and holds for all. The commands are the real ones.
"""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from loader import machine  # noqa: E402

import shards  # noqa: E402
from shards.format.columns import Shards, row_type  # noqa: E402
from shards.format.index import NAME, Record, ShardIndex, Source, Split  # noqa: E402
from shards.format.png import Geometry  # noqa: E402

GEOMETRY = Geometry(64, 64, 3)
SAMPLES = 1000  # of a shard
WORLD, BATCH = 512, 65_536
SLICES = 10_000  # of the check
Row = tuple[str, str, str]


def make(folder: Path, count: int) -> None:
    """The set: sparse files, then the index as closing a set writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    size = GEOMETRY.shard_bytes(SAMPLES)
    names = np.char.mod(b"train-%05d.tar", np.arange(count))
    for name in names.tolist():
        file = os.open(folder / name.decode(), os.O_CREAT | os.O_WRONLY, 0o644)
        os.ftruncate(file, size)
        os.close(file)
    rows = np.zeros(count, row_type(names.dtype.itemsize))
    rows["name"], rows["samples"], rows["bytes"] = names, SAMPLES, size
    rows["sha256"] = np.frombuffer(hashlib.sha256(bytes(size)).digest(), np.uint8)
    ShardIndex(
        members="stored-png", height=64, width=64, channels=3, shards=Shards(rows, ("train",)), shard_size=SAMPLES,
        splits={"train": Split(count * SAMPLES, count)},
        source=Source("drill", "folder", count * SAMPLES, "0" * 64),
        record=Record(GEOMETRY.stride, GEOMETRY.pixels, GEOMETRY.row),
    ).write(folder)  # fmt: skip


@contextmanager
def timed(rows: list[Row], what: str, times: int = 1) -> Iterator[None]:
    """A row: seconds of wall clock (each of `times`), and the process's peak memory by then."""
    start = time.perf_counter()
    yield
    passed = (time.perf_counter() - start) / times
    rows.append((what, f"{passed:,.3f}", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f}"))


def read(folder: Path, rows: list[Row]) -> None:
    """Open on all ranks one after the other, read as one of them, resume."""
    with timed(rows, "imports and the index, once a process"):
        index = shards.load_index(folder)
    ranks = range(0, WORLD, max(1, WORLD // 64))
    with timed(
        rows, f"open and first batch, a rank of {WORLD} ({len(ranks)} of them, one after the other)", len(ranks)
    ):
        for rank in ranks:
            images = shards.open_set(folder).split("train")
            next(shards.Stream(images, BATCH, seed=0, rank=rank, world=WORLD, order="window"))
    stream = shards.Stream(images, BATCH, seed=0, rank=3, world=WORLD, order="window")
    with timed(rows, f"1,000 batches of {BATCH // WORLD}, {stream.order.name}"):
        for _ in range(1000):
            next(stream)
    with timed(rows, "resume after three epochs, first batch"):
        stream.seek(3 * sum(split.samples for split in index.splits.values()) // BATCH * BATCH)
        next(stream)
    shuffled = shards.Stream(images, BATCH, seed=0, rank=3, world=WORLD)
    with timed(rows, f"1,000 batches of {BATCH // WORLD}, one shuffle of all samples"):
        for _ in range(1000):
            next(shuffled)


def command(rows: list[Row], *arguments: str) -> None:
    """A row of a command's wall clock and peak memory."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "jobs", *arguments], cwd=ROOT, capture_output=True, check=False)
    passed = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr.decode())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    words = " ".join(argument if not argument.startswith("/") else "DIR" for argument in arguments)
    rows.append((f"`facegan {words}`", f"{passed:,.3f}", f"{peak:,.0f}"))


def main() -> None:
    """Parse the options, make the set where it is not there yet, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10**6)
    parser.add_argument("--data", type=Path, help="keep the set here between runs")
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="facegan-drill-") as scratch:
        folder = options.data or Path(scratch)
        if not (folder / NAME).exists():
            with timed(rows, "made: sparse files, columns, fingerprint"):
                make(folder, options.shards)
        command(rows, "shards", "info", str(folder))
        command(rows, "shards", "verify", str(folder), "--slice", f"7/{SLICES}")
        read(folder, rows)
    print(f"{machine()}; {options.shards:,} shards, {options.shards * SAMPLES:,} samples\n")
    print("| | s | peak MiB |\n|---|---:|---:|")
    print("\n".join(f"| {what} | {seconds} | {peak} |" for what, seconds, peak in rows))


if __name__ == "__main__":
    main()
