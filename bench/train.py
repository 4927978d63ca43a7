"""Training steps side by side: everybody's plain PyTorch step against ours, same networks, batch and losses.

    python bench/train.py                    all cases, float32 and bf16: some ten minutes
    python bench/train.py --quick --json     plain PyTorch and ours as this machine takes it, within two minutes
    python bench/train.py --device cuda      one NVIDIA GPU, nothing to download; graphs where --cuda-graphs allows
    python bench/train.py --cases dcgan-64 --rounds 9

Every contestant is a process of its own that is warmed up once and then waits; they take turns, so that what else
the machine does meets all alike. The table has medians over the rounds, and the median of the ratios of each round.
Ours is the whole step of `facegan train`: batches through the feed, uint8 to floats, random numbers, EMA, guards.
The reference gets its batches as floats for nothing.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from contestants import CASES, Case, Contestant, Row, batches_for, case_recipe, serve  # noqa: E402
from limits import machine_words, peak, work_per_image  # noqa: E402

NAMES = {
    "pytorch": "plain PyTorch, its defaults",
    "fp32": "ours, fp32",
    "tf32": "ours, tf32",
    "bf16": "ours, bf16",
    "bf16-off": "ours, bf16, --cuda-graphs off",
}


def race(case: Case, options: argparse.Namespace) -> Row:
    """All contestants of a case, taking turns."""
    recipe = case_recipe(case, options.set)
    fields = [Contestant(case, who, options).wait_until_warm() for who in options.contestants]
    if len({field.about["parameters"] for field in fields}) > 1:
        raise SystemExit(f"{case.name}: the networks differ: {[field.about for field in fields]}")
    counts = [batches_for(field, options.seconds, recipe.n_critic) for field in fields]
    begun = time.perf_counter()
    for done in range(options.rounds):
        if done > 1 and time.perf_counter() - begun > options.most:
            break
        for field, count in zip(fields, counts, strict=True):
            field.rates.append(count * recipe.batch_size / field.run(count))
    for field in fields:
        field.end()
    work, base = work_per_image(recipe), fields[0].rates
    return {
        "batch_size": recipe.batch_size,
        "gflop_per_image": round(work / 1e9, 3),
        "target": case.target,
        "contestants": {
            field.who: {
                "img_s": round(statistics.median(field.rates), 1),
                "ratio": round(statistics.median(a / b for a, b in zip(field.rates, base, strict=True)), 2),
                "gflop_s": round(statistics.median(field.rates) * work / 1e9),
                **field.about,
            }
            for field in fields
        },
    }


def table(result: Row) -> str:
    """For docs/benchmarks.md."""
    lines = [
        "| case, batch | step | img/s | times plain | GFLOP/s | of its peak | memory MiB | first step s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, case in result["cases"].items():
        for who, row in case["contestants"].items():
            plain = "tf32" if "tf32" in result["peak_gflop_s"] else "fp32"
            share = row["gflop_s"] / result["peak_gflop_s"][who.partition("-")[0].replace("pytorch", plain)]
            lines.append(
                f"| {name}, {case['batch_size']} | {NAMES[who]} | {row['img_s']:,} | {row['ratio']:.2f} | "
                f"{row['gflop_s']:,} | {share:.0%} | {row['max_device_mib'] or row['max_rss_mib']:,} | "
                f"{row['first_step_s']:.2f} |"
            )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--contestants", nargs="+", default=None, choices=NAMES, help="the first is the base")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cuda-graphs", default="auto", help="as facegan train --cuda-graphs")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all cores")
    parser.add_argument("--set", type=json.loads, default={}, help='recipe values, as in {"batch_size": 256}')
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn, about")
    parser.add_argument("--most", type=float, default=600.0, help="seconds of all turns of a case, about")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.most = 3, 1.0, 30.0
    if not options.contestants and not options.contestant:
        all_of_them = ["pytorch", "fp32", "bf16"] if options.device == "cpu" else list(NAMES)
        options.contestants = ["pytorch", own_precision(options.device)] if options.quick else all_of_them
    return options


def own_precision(device: str) -> str:
    """What `facegan train` takes here by itself."""
    from facegan.run.machine import resolve_precision

    return resolve_precision("auto", device == "cuda")


def main() -> None:
    """Race, print."""
    options = parse()
    if options.contestant:
        serve(options)
    result: Row = {
        "machine": machine_words(options.device),
        "threads": options.threads or len(os.sched_getaffinity(0)),
        "peak_gflop_s": peak(options.device, options.threads),
        "cases": {},
    }
    for name in options.cases:
        result["cases"][name] = race(CASES[name], options)
    print(
        json.dumps(result) if options.json else f"{result['machine']}\n{result['peak_gflop_s']}\n\n{table(result)}"
    )


if __name__ == "__main__":
    main()
