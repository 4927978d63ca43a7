"""What JPEG and WebP members save and cost beside stored PNG.

    python bench/members.py --pictures img_align_celeba.zip  any source of `facegan preprocess`; else drawn faces
    python bench/members.py --quick                          64 px, shorter measurements

Rates are images per second of processor time, all threads counted: a core's share, which other work on the machine
changes little. Reading is of shuffled batches of 128 from a warm page cache; differences are in grey levels of 255.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from loader import machine  # noqa: E402

import shards  # noqa: E402
from jobs.synthetic.celeba import write_celeba  # noqa: E402
from shards.format.members import Form  # noqa: E402
from shards.format.png import Geometry  # noqa: E402
from shards.make.shardfile import BATCH, shard_file  # noqa: E402
from shards.make.writer import Options, preprocess  # noqa: E402

FORMS = [Form(), Form("jpeg", 98), Form("jpeg", 95), Form("jpeg", 90), Form("webp", 100), Form("webp", 95)]
ENCODED, BATCH_SIZE = 512, 128  # images that the writing is timed with; of a batch read


def rate(step: Callable[[], int], seconds: float) -> float:
    """Images per second of processor time: `step` says how many it took; the median of three windows."""
    rates = []
    for _ in range(3):
        start, count = time.process_time(), 0
        while (passed := time.process_time() - start) < seconds / 3 or not count:
            count += step()
        rates.append(count / passed)
    return sorted(rates)[1]


def written(form: Form, images: np.ndarray, folder: Path, seconds: float) -> float:
    """How fast images become a shard, its hash included."""
    geometry = Geometry(*images.shape[1:])
    keys = [f"{i:06d}" for i in range(BATCH)]

    def step() -> int:
        with shard_file(folder / "x.tar", geometry, form) as shard:
            for first in range(0, len(images), BATCH):
                batch = images[first : first + BATCH]
                shard.add(batch, keys[: len(batch)], None)
        return len(images)

    return rate(step, seconds)


def read(images: Any, seconds: float) -> float:
    """How fast shuffled batches come."""
    stream = shards.Stream(images, BATCH_SIZE, seed=0)
    for _ in range(8):
        next(stream)
    return rate(lambda: len(next(stream)), seconds)


def compare(source: Path, sizes: list[int], seconds: float, scratch: Path) -> list[dict[str, Any]]:
    """A row a form and size."""
    rows, stored = [], {}
    for number, form in enumerate(FORMS):
        squares, out = tuple((size, size) for size in sizes), scratch / str(number)
        options = Options(source, out, squares, holdout=0, members=form.members, quality=form.quality)
        for folder, index in preprocess(options).indices.items():
            images = shards.open_set(folder).split("train")
            decoded = images.gather(np.arange(len(images))).astype(np.int16)
            exact = stored.setdefault(folder.name, decoded)
            apart = np.abs(decoded - exact)
            row = {"members": form.members, "quality": form.quality, "size": index.height, "samples": len(images)}
            row |= {"bytes": int(index.shards.bytes.sum()) // len(images)}
            row |= {"mean": float(apart.mean()), "largest": int(apart.max())}
            row |= {"written": written(form, exact[:ENCODED].astype(np.uint8), scratch, seconds)}
            rows.append(row | {"read": read(images, seconds)})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """For docs/benchmarks.md."""
    head = "members | px | bytes an image | of stored PNG | written/s | read/s | mean difference | largest"
    lines = [f"| {head} |", "|---|" + "---:|" * 7]
    for row in sorted(rows, key=lambda row: row["size"]):
        png = next(each["bytes"] for each in rows if each["size"] == row["size"])
        name = row["members"] + (f" {row['quality']}" if row["quality"] else "")
        cells = [name, row["size"], f"{row['bytes']:,}", f"{row['bytes'] / png:.2f}"]
        cells += [f"{row['written']:,.0f}", f"{row['read']:,.0f}", f"{row['mean']:.2f}", row["largest"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the options and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a source of preprocess (default: synthetic faces)")
    parser.add_argument("--sizes", type=int, nargs="+", help="default 64 128")
    parser.add_argument("--quick", action="store_true", help="64 px, shorter measurements")
    parser.add_argument("--json", action="store_true", help="print the rows")
    given = parser.parse_args()
    sizes, seconds = given.sizes or ([64] if given.quick else [64, 128]), 0.3 if given.quick else 3.0
    with tempfile.TemporaryDirectory(prefix="facegan-bench-") as scratch:
        source = given.pictures or write_celeba(Path(scratch) / "drawn", 200 if given.quick else 1000)
        rows = compare(source, sizes, seconds, Path(scratch))
    if given.json:
        print(json.dumps({"machine": machine(), "rows": rows}))
    else:
        print(f"{rows[0]['samples']:,} pictures; {machine()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
