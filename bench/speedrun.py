"""Time to a fixed quality: train the demo's recipe on its own synthetic faces until the distance is small enough.

    python bench/speedrun.py [--dir DIR] [--target 30] [--write]

Prints one row: date, commit, command, minutes of training (drawing, shards and measuring not counted) and where it
ended. --write adds it to docs/benchmarks.md. The same command continues an interrupted run.
"""

import argparse
import datetime
import os
import platform
import sys
from pathlib import Path

import torch

from facegan.files import json_lines, write_text
from facegan.metrics import protocol
from facegan.run import checkout
from jobs import demo

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
END = "<!-- end of the speedrun table -->"
STRETCH, MOST = 5.12, 256.0  # thousand images between measurements, and at most


def main() -> None:
    options = _options()
    folder: Path = options.dir
    plan = demo.make_plan(folder, options.faces, 0)
    demo.draw_faces(folder, plan)
    demo.preprocess(folder)
    kimg, distance = 0.0, float("inf")
    while distance > options.target and kimg < MOST:
        demo._train_to(folder, plan, round(kimg + STRETCH, 2))
        kimg, distance = measure(folder / "run")  # a run that was here already may be longer
    if distance > options.target:
        sys.exit(f"{distance:.1f} after {kimg:g} thousand images: {options.target:g} was not reached")
    line = row(folder / "run", options.target, kimg, distance)
    print(line)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        write_text(PAGE, page.replace(END, f"{line}\n{END}"))


def measure(run: Path) -> tuple[float, float]:
    """Thousands of images the newest snapshot has seen, and its sliced Wasserstein distance to held-out faces."""
    n = min(demo.COMPARED, demo._held_out(run.parent))
    demo.run_command("evaluate", run, "--data", run.parent / "shards", "--metrics", "swd", "--n", n)
    newest = max(protocol.read(run), key=lambda m: m.nimg)
    return newest.nimg / 1000, float(next(iter(newest.values.values())))


def row(run: Path, target: float, kimg: float, distance: float) -> str:
    seconds = max(float(line.get("time/total_s", 0)) for line in json_lines(run / "stats.jsonl"))
    commit = (checkout.describe() or {}).get("commit", "unknown")[:8]
    where = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    command = f"`python bench/speedrun.py --target {target:g}`"
    today = datetime.date.today().isoformat()
    return f"| {today} | {commit} | {command} | {where} | {kimg:g} | {distance:.1f} | {seconds / 60:.1f} |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path("runs/speedrun"))
    parser.add_argument("--faces", type=int, default=6400)
    parser.add_argument("--target", type=float, default=30.0)
    parser.add_argument("--write", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
