"""How long the published recipes take here, from shards on disk to the end, and what they wait for the loader.

    python bench/recipes.py                       every recipe, half a minute each, as published
    python bench/recipes.py --recipes dcgan-128   Noe & Thapa's three epochs took 10 hours
    python bench/recipes.py --quick --json        ten seconds each
    python bench/recipes.py --cache device        the set in the accelerator's memory

The pictures are synthetic faces, cropped and resized as each recipe has it: a step costs the same whatever they
show. The set lies in the page cache; grids, snapshots and metrics are off. The length is the recipe's own on the
data of its source.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from limits import machine_words  # noqa: E402

Row = dict[str, Any]
CELEBA, MNIST = 202_599, 60_000
# Images of an epoch where the source did not take all of CelebA, and what it reports as its own time.
EPOCH = {"mlp-64": 112_000, "dcgan-128": 201_599, "dcgan-28 on MNIST": MNIST}
PUBLISHED = {"dcgan-128": "3 epochs, about 10 hours", "dcgan-28": "an epoch, about 20 minutes"}
VARIANTS = {"dcgan-28 on MNIST": ("dcgan-28", "--channels", "1", "--crop", "none")}


def facegan(*arguments: str) -> list[str]:
    """A command of the project."""
    return [sys.executable, "-W", "ignore", "-m", "jobs", *arguments]


def make_data(folder: Path, name: str, images: int) -> Path:
    """Shards of synthetic faces as the recipe wants them, on disk."""
    pictures, out = folder / "faces", folder / name.replace(" ", "-")
    if not pictures.exists():
        from jobs.synthetic.celeba import write_celeba

        write_celeba(pictures, images)
    recipe, *flags = VARIANTS.get(name, (name,))
    subprocess.run(
        facegan("preprocess", str(pictures), str(out), "--recipe", recipe, *flags), check=True, capture_output=True
    )
    return out


def measure(name: str, data: Path, options: argparse.Namespace) -> Row:
    """Images per second and share of waiting of a real run, from its own stats, without the first two lines.

    Each line spans whole cycles of what not every batch has: the generator's update, lazy penalties.
    """
    from facegan import recipes

    recipe, *flags = VARIANTS.get(name, (name,))
    published = recipes.load(recipe)
    size = options.batch_size or published.batch_size
    cycle = math.lcm(published.n_critic, published.penalty_every)
    batches = cycle * math.ceil((4 if options.device == "cpu" else 256) / cycle)
    run_dir = data / "run"
    command = facegan("train", recipe, *flags, "--data", str(data), "--run-dir", str(run_dir), "--wandb", "off")
    command += ["--kimg", "1000000", "--log-kimg", str(batches * size / 1000), "--snapshot-kimg", "0"]
    command += ["--sample-kimg", "0", "--epochs", "0", "--device", options.device, "--precision", options.precision]
    command += ["--cuda-graphs", options.cuda_graphs, "--cache", options.cache, "--batch-size", str(size)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    begun, rows = 0.0, list[Row]()
    while process.poll() is None:
        time.sleep(0.5)
        stats = run_dir / "stats.jsonl"
        rows = [json.loads(line) for line in stats.read_text().splitlines()] if stats.exists() else []
        begun = begun or (time.perf_counter() if len(rows) > 2 else 0.0)
        if begun and time.perf_counter() - begun > options.seconds and len(rows) > 4:
            (run_dir / "stop").touch()
            break
    _, errors = process.communicate()
    if len(rows) <= 4:
        raise SystemExit(f"{name}: the run ended early:\n{errors}")
    return {"batch_size": size, "published": PUBLISHED.get(name, ""), **_summary(rows[2:], length(name))}


def _summary(rows: list[Row], images: float) -> Row:
    rate = statistics.harmonic_mean(row["speed/imgs_per_sec"] for row in rows)
    waited = statistics.fmean(row["speed/data_wait_frac"] for row in rows)
    hours = round(images / rate / 3600, 3)
    return {"img_s": round(rate, 1), "waited": round(waited, 4), "kimg": round(images / 1000), "hours": hours}


def length(name: str) -> float:
    """The published length in images."""
    from facegan import recipes

    recipe = recipes.load(VARIANTS.get(name, (name,))[0])
    epochs = 2.0 if name in VARIANTS else recipe.epochs  # the recipe's note: digits show after 2
    return 1000 * recipe.kimg or epochs * EPOCH.get(name, CELEBA)


def table(result: Row) -> str:
    """For docs/benchmarks.md."""
    lines = ["| recipe, batch | img/s | waiting for data | its length, kimg | takes here | its source reports |"]
    lines.append("|---|---:|---:|---:|---:|---|")
    for name, row in result["recipes"].items():
        hours = row["hours"]
        takes = f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
        lines.append(
            f"| {name}, {row['batch_size']} | {row['img_s']:,} | {row['waited']:.1%} | {row['kimg']:,} | {takes} | "
            f"{row['published']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print."""
    from facegan.recipes import recipe_classes

    names = [*recipe_classes(), *VARIANTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="+", default=names, choices=names)
    parser.add_argument("--images", type=int, default=2000, help="synthetic faces in each set")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each recipe, when it runs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--cuda-graphs", default="auto")
    parser.add_argument("--cache", default="none")
    parser.add_argument("--batch-size", type=int, default=0, help="0 takes the recipe's")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.seconds = 10.0 if options.quick else options.seconds
    result: Row = {"machine": machine_words(options.device), "recipes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipes:
            data = make_data(Path(folder), name, options.images)
            result["recipes"][name] = measure(name, data, options)
            print(f"{name}: {result['recipes'][name]}", file=sys.stderr, flush=True)
    print(json.dumps(result) if options.json else f"{result['machine']}\n\n{table(result)}")


if __name__ == "__main__":
    main()
