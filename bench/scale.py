"""How the cost of a step grows: with the batch, the image, the ranks, the data; and what a start costs.

python bench/scale.py            dcgan-64 in the machine's own precision: some five minutes
python bench/scale.py --json
python bench/scale.py --device cuda
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from contestants import CASES, Contestant, batches_for, case_recipe  # noqa: E402
from limits import machine_words  # noqa: E402
from train import own_precision  # noqa: E402

BATCHES, SIDES, SAMPLES = (16, 32, 64, 128, 256), (32, 64, 128), (10**4, 10**6, 10**8)
MORE_ON_CUDA = (512, 1024)
CASE = CASES["dcgan-64"]
Row = dict[str, Any]


def rate(options: argparse.Namespace, changes: Row) -> Row:
    """Images per second and memory of one process."""
    options = argparse.Namespace(**vars(options) | {"set": changes})
    runner = Contestant(CASE, options.precision, options).wait_until_warm()
    size = case_recipe(CASE, changes).batch_size
    count = batches_for(runner, options.seconds, 1)
    img_s = statistics.median(size * count / runner.run(count) for _ in range(options.rounds))
    runner.end()
    return {"img_s": round(img_s, 1), **runner.about}


def rate_of_ranks(options: argparse.Namespace, changes: Row, world: int) -> float:
    """Images per second of `world` processes that share the cores and one global batch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, (options.threads or len(os.sched_getaffinity(0))) // world)
    options = argparse.Namespace(**vars(options) | {"set": changes, "threads": threads})
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"LOCAL_WORLD_SIZE": str(world), "ACCELERATE_USE_CPU": "true"}
    ranks = [
        Contestant(CASE, options.precision, options, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world)
    ]
    for rank in ranks:
        rank.wait_until_warm()
    size, rates = case_recipe(CASE, changes).batch_size, []
    for _ in range(options.rounds + 1):
        for rank in ranks:
            rank.start(4)
        rates.append(4 * size / max(rank.seconds() for rank in ranks))
    for rank in ranks:
        rank.process.kill()
    return round(statistics.median(rates[1:]), 1)


def order_cost(samples: int) -> float:
    """Microseconds to say which of `samples` pictures a batch of 128 is."""
    import numpy as np

    from shards.read.order import GlobalOrder

    order, positions, times = GlobalOrder(samples, 0), np.arange(128), []
    for _ in range(50):
        begun = time.perf_counter()
        order.at(positions)
        times.append(time.perf_counter() - begun)
    return round(1e6 * statistics.median(times), 1)


def import_cost(statement: str) -> float:
    """Seconds a new Python takes to run `statement`, its own start included; the median of three."""
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", statement], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - begun)
    return round(statistics.median(times), 2)


def measure(options: argparse.Namespace) -> Row:
    """All of it."""
    result: Row = {"machine": machine_words(options.device), "precision": options.precision}
    batches = BATCHES + (MORE_ON_CUDA if options.device == "cuda" else ())
    result["batch"] = {size: rate(options, {"batch_size": size}) for size in batches}
    result["side"] = {side: rate(options, {"resolution": str(side), "batch_size": 64}) for side in SIDES}
    if options.device == "cpu":
        result["ranks"] = {
            f"{norm}, {world} x {128 // world}": rate_of_ranks(
                options, {"batch_size": 128, "critic_norm": norm}, world
            )
            for norm in ("batch", "layer")
            for world in (1, 2)
        }
    result["order_us"] = {samples: order_cost(samples) for samples in SAMPLES}
    result["start_s"] = {
        "facegan --help": import_cost("from jobs.cli import main; main(['--help'], standalone_mode=False)"),
        "import of PyTorch": import_cost("import torch"),
        "import of the trainer": import_cost("import facegan.train.loop"),
    }
    return result


def table(result: Row) -> str:
    """For docs/benchmarks.md."""
    lines = [f"dcgan-64 in {result['precision']}.", "", "| batch | img/s | peak memory MiB | first step s |"]
    lines.append("|---:|---:|---:|---:|")
    lines += [_line(size, row) for size, row in result["batch"].items()]
    lines += ["", "| side px, batch 64 | img/s | peak memory MiB | first step s |", "|---:|---:|---:|---:|"]
    lines += [_line(side, row) for side, row in result["side"].items()]
    if "ranks" in result:
        lines += ["", "| ranks on the same cores, the discriminator's norm, ranks x batch | img/s |", "|---|---:|"]
        lines += [f"| {name} | {value:,} |" for name, value in result["ranks"].items()]
    lines += ["", "| samples in the set | order of a batch of 128, microseconds |", "|---:|---:|"]
    lines += [f"| {samples:,} | {value} |" for samples, value in result["order_us"].items()]
    lines += ["", "| start | s |", "|---|---:|", *(f"| {k} | {v} |" for k, v in result["start_s"].items())]
    return "\n".join(lines)


def _line(key: int, row: Row) -> str:
    memory = row["max_device_mib"] or row["max_rss_mib"]
    return f"| {key} | {row['img_s']:,} | {memory:,} | {row['first_step_s']:.2f} |"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cuda-graphs", default="auto", help="as facegan train --cuda-graphs")
    parser.add_argument("--precision", default="", help="fp32 or bf16; default: what facegan train takes here")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all cores")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 0.5
    options.precision = options.precision or own_precision(options.device)
    result = measure(options)
    print(json.dumps(result) if options.json else f"{result['machine']}\n\n{table(result)}")


if __name__ == "__main__":
    main()
