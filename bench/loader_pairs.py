"""The loader beside the fastest that install from the registry, in turns, so that ratios hold on a busy machine.

    pip install loaderx datasets spdl          missing ones are named
    python bench/loader_pairs.py               64 and 128 px, 9 rounds: some three minutes
    python bench/loader_pairs.py --labels      ours, with 40 attributes and identities, and without

Shuffled uint8 batches of 128 from 16,000 pictures, warm page cache. Each loader lives in a process of its own; in a
round each is asked in turn for batches for a short while. Two rates are taken: by the clock, and by the processor
time of all threads of the loader's process, which other work on the machine disturbs less. A row's rate is the
median of its rounds, its ratio the median of the rounds' ratios. Drivers are as the packages' documentation has
them. `memmap` is no loader but the limit: `np.memmap(file)[indices]`, indices drawn beforehand.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from loader import ALLOCATOR, machine  # noqa: E402
from loader_peers import BATCH, SHARD, build_ours, build_raw_tars, open_ours  # noqa: E402

COUNT = 16_000
Rates = dict[str, list[list[float]]]  # of each loader, by round: by the clock, by processor time
Open = Callable[[Path, int], Iterator[Any]]


def draw(size: int) -> np.ndarray:
    """The pictures, (COUNT, size, size, 3) uint8 of noise: nothing here is compressed."""
    return np.random.default_rng(size).integers(0, 256, (COUNT, size, size, 3), np.uint8)


def indices() -> Iterator[np.ndarray]:
    """Batches of shuffled indices, epoch after epoch."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(COUNT)
        yield from (order[first : first + BATCH] for first in range(0, COUNT - BATCH + 1, BATCH))


def open_memmap(folder: Path, size: int) -> Iterator[Any]:
    if not (folder / "raw.bin").exists():
        draw(size).tofile(folder / "raw.bin")
    pictures = np.memmap(folder / "raw.bin", np.uint8, "r", shape=(COUNT, size, size, 3))
    beforehand = [batch for batch, _ in zip(indices(), range(1000), strict=False)]
    while True:
        yield from (pictures[batch] for batch in beforehand)


def open_facegan(folder: Path, size: int) -> Any:
    if not (folder / "ours").exists():
        annotate(folder / "annotations")
        build_ours("png", annotations=folder / "annotations")(folder / "ours", list(draw(size)), [], COUNT)
    return open_ours(folder / "ours", size, 0)


def annotate(folder: Path) -> None:
    """CelebA's annotation files with made-up content."""
    rng, names = np.random.default_rng(0), [f"{i:08d}.ppm" for i in range(COUNT)]
    values = rng.choice(["-1", "1"], (COUNT, 40))
    rows = [f"{name} {' '.join(row)}" for name, row in zip(names, values, strict=True)]
    folder.mkdir()
    attributes = [str(COUNT), " ".join(f"A{i}" for i in range(40)), *rows]
    (folder / "list_attr_celeba.txt").write_text("\n".join(attributes) + "\n")
    identities = [f"{name} {number}\n" for name, number in zip(names, rng.integers(1, 10_178, COUNT), strict=True)]
    (folder / "identity_CelebA.txt").write_text("".join(identities))


def open_labelled(folder: Path, size: int) -> Iterator[Any]:
    import shards

    stream = open_facegan(folder, size)
    labels = shards.open_set(folder / "ours").labels("train")
    return map(itemgetter(0), stream.labelled(labels))


def open_loaderx(folder: Path, size: int) -> Iterator[Any]:
    from loaderx import Loader
    from loaderx.sampler import Sampler
    from loaderx.zrecord import Dense

    path = str(folder / "loaderx")
    if not Path(path).exists():
        with Dense.create(path, np.uint8, (size, size, 3), codec="raw") as store:
            store.append(draw(size))
    store = Dense.open(path)
    loader = Loader({"x": [store]}, Sampler(len(store), BATCH, 2, seed=1), workers=0)
    return (np.from_dlpack(shards[0]["x"]) for shards in loader)


def datasets_folder(folder: Path, size: int) -> str:
    import pyarrow as pa
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    path = str(folder / "datasets")
    if not Path(path).exists():
        flat = pa.array(draw(size).reshape(-1))
        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(flat, size * size * 3)})
        Dataset(table, fingerprint="bench").save_to_disk(path)  # its own hash of a table fails with pyarrow 26
    return path


def open_datasets(folder: Path, size: int) -> Iterator[Any]:
    from datasets import load_from_disk

    loaded = load_from_disk(datasets_folder(folder, size)).with_format("arrow")
    return (loaded[batch.tolist()]["x"].combine_chunks().flatten().to_numpy() for batch in indices())


def open_spdl(folder: Path, size: int) -> Iterator[Any]:
    import spdl.io

    tars = folder / "tars"
    if not tars.exists():
        build_raw_tars(tars, list(draw(size)), [], COUNT)
    rng, paths, held = np.random.default_rng(0), sorted(tars.glob("*.tar")), []
    while True:
        for number in rng.permutation(len(paths)):
            for _, content in spdl.io.iter_tarfile(paths[number].read_bytes()):
                held.append(content)
                if len(held) == SHARD:
                    rng.shuffle(held)
                    for first in range(0, 7 * BATCH, BATCH):
                        yield np.frombuffer(b"".join(held[first : first + BATCH]), np.uint8)
                    del held[: 7 * BATCH]


LOADERS: dict[str, Open] = {
    "memmap": open_memmap,
    "facegan": open_facegan,
    "loaderx": open_loaderx,
    "datasets": open_datasets,
    "spdl": open_spdl,
}


def serve(name: str, folder: Path, size: int) -> None:
    """Answer each line of stdin, seconds, with the samples a second delivered for so long: by clock, processor."""
    batches = LOADERS[name](folder, size)
    for _ in range(10):
        batch = next(batches)
        batch_bytes = int(np.prod(batch.shape))
    if batch_bytes != BATCH * size * size * 3:
        raise SystemExit(f"{name}: a batch of {batch_bytes} bytes")
    print("ready", flush=True)
    for line in sys.stdin:
        print(*rates_of(batches, float(line)), flush=True)
    os._exit(0)  # some loaders' threads would wait for ever


def rates_of(batches: Iterator[Any], seconds: float) -> list[float]:
    """Samples a second, delivered for so long: by the clock, by processor time."""
    start, busy, count = time.perf_counter(), time.process_time(), 0
    while (passed := time.perf_counter() - start) < seconds or not count:
        next(batches)
        count += BATCH
    return [count / passed, count / (time.process_time() - busy)]


def with_labels(folder: Path, size: int, rounds: int, seconds: float) -> Rates:
    """Ours without labels and with, in turns in one process: how pages lie in memory would weigh more."""
    streams = {"facegan": open_facegan(folder, size), "labelled": open_labelled(folder, size)}
    rates: Rates = {name: [] for name in streams}
    for _ in range(rounds + 1):
        for name, batches in streams.items():
            rates[name].append(rates_of(batches, seconds))
    return {name: each[1:] for name, each in rates.items()}  # the first warms up


def race(folder: Path, size: int, rounds: int, seconds: float) -> tuple[Rates, dict[str, str]]:
    """The rates of each loader, round by round, and why some are missing."""
    racers: dict[str, subprocess.Popen[str]] = {}
    missing = {}
    for name in LOADERS:
        command = [sys.executable, "-W", "ignore", __file__, "--serve", name, str(folder), str(size)]
        pipe = subprocess.PIPE
        racer = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **ALLOCATOR}
        )
        if racer.stdout is not None and racer.stdout.readline().strip() == "ready":
            racers[name] = racer
        else:
            missing[name] = (racer.communicate()[1].strip().splitlines() or ["?"])[-1]
    rates: Rates = {name: [] for name in racers}
    for _ in range(rounds):
        for name, racer in racers.items():
            print(seconds, file=racer.stdin, flush=True)
            rates[name].append([float(rate) for rate in racer.stdout.readline().split()] if racer.stdout else [])
    for racer in racers.values():
        racer.communicate()
    return rates, missing


def table(by_size: dict[int, Rates], kind: int) -> list[str]:
    """For docs/benchmarks.md: by the clock (0) or by processor time (1)."""
    by = ("the clock", "processor time")[kind]
    lines = ["| " + " | ".join([f"samples/s by {by}", *(f"{size} px | ours over it" for size in by_size)]) + " |"]
    lines.append("|---|" + "---:|---:|" * len(by_size))
    for name in dict.fromkeys(name for rates in by_size.values() for name in rates):
        cells = []
        for rates in by_size.values():
            pairs = zip(rates["facegan"], rates.get(name, []), strict=False)
            ratios = [mine[kind] / theirs[kind] for mine, theirs in pairs]
            median = statistics.median([rate[kind] for rate in rates[name]]) if ratios else 0
            cells += [f"{median:,.0f}", f"{statistics.median(ratios):.2f}"] if ratios else ["-", "-"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Parse the options and race, or be one of the racers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a loader's turn")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.3 s")
    parser.add_argument("--labels", action="store_true", help="ours with labels and without")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--data", type=Path, help="keep the sets here between runs")
    parser.add_argument("--json", action="store_true", help="print the rates of each round")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], Path(options.serve[1]), int(options.serve[2]))
    if options.labels and not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    rounds, seconds = (3, 0.3) if options.quick else (options.rounds, options.seconds)
    rates, missing = {}, {}
    with tempfile.TemporaryDirectory(prefix="facegan-bench-") as scratch:
        for size in options.sizes:
            folder = (options.data or Path(scratch)) / str(size)
            folder.mkdir(parents=True, exist_ok=True)
            if options.labels:
                rates[size] = with_labels(folder, size, rounds, seconds)
                continue
            rates[size], reasons = race(folder, size, rounds, seconds)
            missing |= reasons
    if options.json:
        print(json.dumps({"machine": machine(), "rates": rates, "missing": missing}))
        return
    reasons = [f"- missing: {name} ({why})" for name, why in missing.items()]
    print("\n".join([machine(), "", *table(rates, 0), "", *table(rates, 1), *reasons]))


if __name__ == "__main__":
    main()
