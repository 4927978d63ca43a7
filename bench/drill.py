"""A set of 10^6 shards and 10^9 samples, and what it costs to open, verify, read and resume, on two cores.

    python bench/drill.py --data /scratch/drill      some minutes; makes the set there once, 4 GB of file names
    python bench/drill.py --shards 10000             a hundredth of it

The shards are sparse files, so they take no room and their pixels are black; their columns are made up but true:
the hash of a sparse file is computed once and holds for all. The commands are the real ones.
"""

import argparse
import hashlib
import multiprocessing
import os
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
Row = tuple[str, float, float, float | None, float]  # what; s; processor s; MiB of its own; MiB with mapped files


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
    """A row: seconds by the clock and of the processors (each of `times`), memory of this process afterwards."""
    clock, busy = time.perf_counter(), time.process_time()
    yield
    seconds = (time.perf_counter() - clock) / times, (time.process_time() - busy) / times
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.endswith("kB")}
    rows.append((what, *seconds, kib["RssAnon"] / 1024, (kib["RssAnon"] + kib["RssFile"]) / 1024))


def read(folder: Path, rows: list[Row], ranks: int) -> None:
    """Open on all ranks one after the other, read as one of them, resume."""
    with timed(rows, "the index, loaded for the first time"):
        index = shards.load_index(folder)
    with timed(rows, f"open and first batch, one of {ranks} ranks of {WORLD}, one after the other", ranks):
        for rank in range(0, WORLD, WORLD // ranks):
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
    with timed(rows, f"20 batches of {BATCH // WORLD}, one shuffle of all samples"):
        for _ in range(20):
            next(shuffled)


def command(rows: list[Row], *arguments: str) -> None:
    """A row of a command: clock, processors, its peak memory."""
    begun = time.perf_counter()
    words = [sys.executable, "-m", "jobs", *arguments]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"facegan {' '.join(arguments)} ended with {process.returncode}")
    shown = " ".join(argument if not argument.startswith("/") else "DIR" for argument in arguments)
    seconds = time.perf_counter() - begun, used.ru_utime + used.ru_stime
    rows.append((f"`facegan {shown}`", *seconds, None, used.ru_maxrss / 1024))


def drill(folder: Path, count: int, ranks: int) -> list[Row]:
    """Make the set where it is not there yet; use it."""
    rows: list[Row] = []
    if not (folder / NAME).exists():
        with timed(rows, "made: sparse files, columns, fingerprint"):
            maker = multiprocessing.get_context("fork").Process(target=make, args=(folder, count))
            maker.start()  # in a process of its own: its memory is no rank's
            maker.join()
    command(rows, "shards", "info", str(folder))
    command(rows, "shards", "verify", str(folder), "--slice", f"7/{max(1, count // 100)}")
    read(folder, rows, ranks)
    return rows


def main() -> None:
    """Parse the options, make the set where it is not there yet, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10**6)
    parser.add_argument("--ranks", type=int, default=WORLD, help="open on so many of the 512")
    parser.add_argument("--data", type=Path, help="keep the set here between runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="facegan-drill-") as scratch:
        rows = drill((options.data or Path(scratch)).absolute(), options.shards, options.ranks)
    print(f"{machine()}; {options.shards:,} shards, {options.shards * SAMPLES:,} samples\n")
    print("| | s | processor s | own MiB | with mapped files MiB |\n|---|---:|---:|---:|---:|")
    for what, clock, busy, own, peak in rows:
        print(f"| {what} | {clock:,.2f} | {busy:,.2f} | {'-' if own is None else f'{own:,.0f}'} | {peak:,.0f} |")


if __name__ == "__main__":
    main()
