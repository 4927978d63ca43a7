"""A set of 10^6 shards and 10^9 samples, and what it costs to open, verify, read and resume, on two cores.

    python bench/drill.py --data /scratch/drill      some minutes; makes the set there once, 4 GB of file names
    python bench/drill.py --shards 10000             a hundredth of it

The shards are sparse files, so they take no room and their pixels are black; their columns are made up but true:
the hash of a sparse file is computed once and holds for all. The commands are the real ones.
"""

import argparse
import dataclasses
import gc
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from loader import machine  # noqa: E402
from rows import Row, alone, command, timed  # noqa: E402

import shards  # noqa: E402
from facegan.files import sha256_file  # noqa: E402
from shards.format.columns import Shard, Shards, SideTable  # noqa: E402
from shards.format.index import NAME  # noqa: E402
from shards.format.labels import row_types  # noqa: E402
from shards.format.png import Geometry  # noqa: E402
from shards.make.annotations import annotate  # noqa: E402
from shards.make.catalogue import (  # noqa: E402
    CATALOGUE,
    pictures,
    read_catalogue,
    remove_catalogues,
    write_catalogue,
)
from shards.make.collecting import collect  # noqa: E402
from shards.make.groups import (  # noqa: E402
    Group,
    count_groups,
    group_path,
    names_of,
    rejects_path,
    write_group,
)
from shards.make.listing import Place  # noqa: E402
from shards.make.parts import FOLDER  # noqa: E402
from shards.make.plan import Plan  # noqa: E402

GEOMETRY = Geometry(64, 64, 3)
SAMPLES = 1000  # of a shard
ATTRIBUTES = tuple(f"A{number}" for number in range(40))
LINE, SLICES = 100, 1000  # bytes of a line of the side table; elements of the preprocess
NAMES = 10**6  # of a source that is listed
CHECKED = 100  # shards in a slice of the check
WORLD, BATCH = 512, 65_536
STAGE = 4 * 10**9  # bytes
STAGED = 2  # ranks that read through a stage


def make(folder: Path, count: int) -> None:
    """The set as the elements of a preprocess leave it: sparse files, a plan, a summary a group of shards."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    size = GEOMETRY.shard_bytes(SAMPLES)
    if not (folder / f"train-{count - 1:05d}.tar").exists():
        for number in range(count):
            sparse(folder / f"train-{number:05d}.tar", size)
    fixed = {"shard_size": SAMPLES, "size": [64, 64], "channels": 3, "json": 0, "crop": "none", "filter": "none"}
    source = {"name": "drill", "kind": "folder", "stamp": None}
    plan = Plan(
        fixed | {"pictures": count * SAMPLES}, {"train": count * SAMPLES}, list(ATTRIBUTES), source, SLICES, "0"
    )
    plan.write(folder)
    sha256 = {bytes: hashlib.sha256(b"\0" * bytes).hexdigest() for bytes in (size,)}
    for number in range(count_groups(plan)):
        names = names_of(plan, number)
        samples = len(names) * SAMPLES
        table = SideTable(f"samples-{number:05d}.jsonl", samples * LINE, "", samples)
        if table.bytes not in sha256:
            sha256[table.bytes] = hashlib.sha256(b"\0" * table.bytes).hexdigest()
        sparse(folder / table.name, table.bytes)
        rows = Shards.of(Shard(name, "train", SAMPLES, size, sha256[size]) for name in names)
        rejects_path(group_path(folder, number)).touch()
        table = dataclasses.replace(table, sha256=sha256[table.bytes])
        labels = write_labels(folder / f"labels-{number:05d}.npy", samples, sha256)
        write_group(group_path(folder, number), Group(rows, table, {}, 0, labels=labels))


def write_labels(path: Path, samples: int, sha256: dict[int, str]) -> SideTable:
    """Labels of which only the ends take room: all attributes are no, all samples of one identity."""
    kind = row_types(len(ATTRIBUTES))[0]
    with path.open("wb") as stream:
        shape = {"descr": kind.descr, "fortran_order": False, "shape": (samples,)}
        np.lib.format.write_array_header_1_0(stream, shape)
        stream.seek(samples * kind.itemsize, os.SEEK_CUR)
        np.save(stream, np.array([7]))
        np.save(stream, np.zeros(len(ATTRIBUTES), bool))
    size = path.stat().st_size
    if size not in sha256:
        sha256[size] = sha256_file(path)
    return SideTable(path.name, size, sha256[size], samples)


def sparse(path: Path, size: int) -> None:
    """A file of zeros that takes no room."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.ftruncate(file, size)
    os.close(file)


def listing(folder: Path, rows: list[Row], count: int) -> None:
    """What the first slice of a preprocess does for all, and what every slice does."""
    target, names = folder.parent / f"{CATALOGUE}drill.json", (f"{number:09d}.jpg" for number in range(count))
    with timed(rows, f"a source of {count:,} names listed, once for all slices"):
        listed = collect("folder", folder, ((name, Place()) for name in names), folder.parent)
        write_catalogue(target, listed, annotate(listed, folder, None, None))
        del listed
    with timed(rows, f"a slice's own {SAMPLES:,} of them"):
        pictures(target, read_catalogue(target), "train", count // 2, count // 2 + SAMPLES)
    remove_catalogues(folder.parent)


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
    shuffled = shards.Stream(images, BATCH, seed=0, rank=3, world=WORLD, order="global")
    with timed(rows, f"20 batches of {BATCH // WORLD}, one shuffle of all samples"):
        for _ in range(20):
            next(shuffled)


def stage(folder: Path, rows: list[Row]) -> None:
    """Read as some ranks of a node that has room for a part of the set alone, each in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".stage-") as place:
        for rank in range(0, WORLD, WORLD // STAGED):
            what = f"open through a stage of {STAGE / 1e9:g} GB and first batch, rank {rank} of {WORLD}"
            alone(rows, what, read_staged, folder, Path(place), BATCH, rank, WORLD)


def read_staged(folder: Path, place: Path, batch: int, rank: int, world: int) -> None:
    """What a training does with `--stage` and `--stage-gb` until it has its first batch."""
    images = shards.open_set(folder, stage=place, stage_limit=STAGE).split("train")
    next(shards.Stream(images, batch, seed=0, rank=rank, world=world))


def label(folder: Path, rows: list[Row]) -> None:
    """Labels of some samples, and those that meet a condition."""
    opened = shards.open_set(folder)
    gc.collect()  # unmaps what was read before
    with timed(rows, "labels opened"):
        labels = opened.labels("train")
    numbers = np.random.default_rng(0).integers(0, len(labels), (16, 8000))
    with timed(rows, "those of 1,000 batches of 128, one shuffle of all samples"):
        for some in numbers:
            labels[some]
    with timed(rows, "`--where` with one condition"):
        opened.choose("train", "A3=0")


def drill(folder: Path, count: int, ranks: int, names: int = NAMES) -> list[Row]:
    """Make the set where it is not there yet; close it, use it."""
    rows: list[Row] = []
    (folder / NAME).unlink(missing_ok=True)
    make(folder, count)
    command(rows, "shards", "index", str(folder))
    command(rows, "shards", "info", str(folder))
    command(rows, "shards", "verify", str(folder), "--slice", f"7/{count // CHECKED}")
    read(folder, rows, ranks)
    stage(folder, rows)
    label(folder, rows)
    listing(folder, rows, names)
    return rows


def main() -> None:
    """Parse the options, make the set where it is not there yet, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10**6)
    parser.add_argument("--ranks", type=int, default=WORLD, help="open on so many of the 512")
    parser.add_argument("--names", type=int, default=NAMES, help="of a source that is listed")
    parser.add_argument("--data", type=Path, help="keep the set here between runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="facegan-drill-") as scratch:
        rows = drill((options.data or Path(scratch)).absolute(), options.shards, options.ranks, options.names)
    print(f"{machine()}; {options.shards:,} shards, {options.shards * SAMPLES:,} samples\n")
    print("| | s | processor s | own MiB | with mapped files MiB |\n|---|---:|---:|---:|---:|")
    for label, clock, busy, own, peak in rows:
        print(f"| {label} | {clock:,.2f} | {busy:,.2f} | {own:,.0f} | {peak:,.0f} |")


if __name__ == "__main__":
    main()
