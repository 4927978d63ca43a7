"""What it costs that a run cannot be lost: `facegan train`'s loop with its guard rails and the bare loop, in turns.

    python bench/guards.py            dcgan-64 on this machine's CPU: a few minutes
    python bench/guards.py --json

Guarded is the trainer itself: sums of the terms and the check for what is not finite, the gradients' norm, the
owner with its heartbeat, looking for signals and the stop-file, stats. Bare takes the same steps and does none of
it. A checkpoint stalls the loop for the time measured here, every ten minutes. A resume is timed in a process of
its own, from the end of the imports to the end of the first step.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from contestants import CASES, Endless, case_recipe  # noqa: E402
from limits import machine_words  # noqa: E402

LIMIT, RESUME_LIMIT = 0.02, 5.0  # of the throughput; seconds
CHECKPOINT_EVERY = 600.0  # seconds: the default of facegan train


def make_job(run_dir: Path, batches: int, options: argparse.Namespace) -> Any:
    """A run of `batches` batches with stats as often as by default, and nothing else to write but checkpoints."""
    import dataclasses

    from facegan.run import machine
    from facegan.run.settings import RunSettings
    from facegan.train.job import Job

    recipe = case_recipe(CASES["dcgan-64"], options.set)
    recipe = dataclasses.replace(recipe, kimg=batches * recipe.batch_size / 1000)
    settings = RunSettings(
        run_dir=str(run_dir), wandb="off", sample_kimg=0.0, snapshot_kimg=0.0, threads=options.threads, device="cpu"
    )
    here = machine.start(settings)
    stream = Endless((*recipe.resolution, recipe.channels), recipe.batch_size, here.device)
    return Job(recipe, machine.resolved(settings, here), stream, here, {"fingerprint": "made up"})


def guarded(run_dir: Path, batches: int, options: argparse.Namespace) -> float:
    """Images per second of the trainer: the median of its own lines of stats, the first left out."""
    from facegan.train.loop import train

    train(make_job(run_dir, batches, options))
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    return statistics.median(row["speed/imgs_per_sec"] for row in rows[1:])


def bare(batches: int, options: argparse.Namespace) -> float:
    """Images per second of the steps alone, measured over as many batches at a time."""
    import torch

    from facegan.train import step as steps
    from facegan.train.draws import RandomNumbers
    from facegan.train.feed import Feed
    from facegan.train.state import State

    job = make_job(Path("unused"), batches, options)
    state = State(job.recipe, 0, job.machine)
    state.meter = NoMeter()  # type: ignore[assignment]
    step = steps.Step(job.recipe, state, job.machine)
    numbers = RandomNumbers(job.recipe, 0, state.generator, state.discriminator)
    zero = torch.zeros(())
    rates, since, every = [], time.perf_counter(), round(1000 / job.recipe.batch_size)
    with (
        patch.object(steps, "get_total_norm", lambda grads, foreach: zero),
        Feed(job.stream, numbers, job.recipe, job.machine, 0, job.total_nimg) as feed,
    ):
        for count, batch in enumerate(feed, 1):
            step(batch)
            if count % every == 0:
                now = time.perf_counter()
                rates.append(every * job.recipe.batch_size / (now - since))
                since = now
    return statistics.median(rates[1:])


class NoMeter:
    """Sums nothing, guards nothing."""

    tripped = None

    def add(self, *_: object) -> None:
        """Nothing."""


def checkpoint_seconds(folder: Path, options: argparse.Namespace) -> float:
    """How long the loop stands still for a checkpoint: the median of five."""
    from facegan.run.checkpoint import write_checkpoint
    from facegan.train.state import State

    job = make_job(folder, 1, options)
    tensors = State(job.recipe, 0, job.machine).tensors()
    tensors |= {f"moments/{key}/{k}": value.clone() for k in range(2) for key, value in tensors.items()}
    times = []
    for nimg in range(5):
        begun = time.perf_counter()
        write_checkpoint(folder / "checkpoints", nimg, tensors, {})
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def resume_seconds(run_dir: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the imports, and from there to the end of the first step of a resumed run; the median of three."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--resume",
        str(run_dir),
        "--threads",
        str(options.threads),
    ]
    command += ["--set", json.dumps(options.set)]
    rows = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def resume(options: argparse.Namespace) -> NoReturn:
    """Continue a run up to its first step."""
    begun = time.perf_counter()
    from facegan.train import loop
    from facegan.train import step as steps

    imported = time.perf_counter()
    take = steps.Step.__call__

    def first(self: Any, batch: Any) -> None:
        take(self, batch)
        row = {"imports_s": imported - begun, "first_step_s": time.perf_counter() - imported}
        print(json.dumps(row), flush=True)
        os._exit(0)

    with patch.object(steps.Step, "__call__", first):
        loop.train(make_job(options.resume, 10**6, options))
    raise SystemExit("the run took no step")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(options.rounds):
            pairs.append(
                (bare(options.batches, options), guarded(Path(folder, str(index)), options.batches, options))
            )
        stall = checkpoint_seconds(Path(folder, "stall"), options)
        resumed = resume_seconds(Path(folder, "0"), options)
    rails = 1 - statistics.median(on / off for off, on in pairs)
    return {
        "machine": machine_words("cpu"),
        "bare_img_s": round(statistics.median(off for off, _ in pairs), 1),
        "guarded_img_s": round(statistics.median(on for _, on in pairs), 1),
        "rails": round(rails, 4),
        "checkpoint_s": round(stall, 3),
        "checkpoints": round(stall / CHECKPOINT_EVERY, 4),
        "cost": round(rails + stall / CHECKPOINT_EVERY, 4),
        **{key: round(value, 2) for key, value in resumed.items()},
    }


def table(result: dict[str, Any]) -> str:
    """For docs/benchmarks.md."""
    return "\n".join(
        [
            "| dcgan-64 on the CPU | |",
            "|---|---:|",
            f"| bare loop, img/s | {result['bare_img_s']:,} |",
            f"| `facegan train`, img/s | {result['guarded_img_s']:,} |",
            f"| cost of meter, guard, owner, look-out and stats (median of the rounds) | {result['rails']:.1%} |",
            f"| a checkpoint takes, s | {result['checkpoint_s']:.2f} |",
            f"| that every ten minutes | {result['checkpoints']:.2%} |",
            f"| **together** (limit {LIMIT:.0%}) | {result['cost']:.1%} |",
            f"| imports of a resumed run, s | {result['imports_s']:.1f} |",
            f"| then its first step is done, s (limit {RESUME_LIMIT:.0f}) | {result['first_step_s']:.1f} |",
        ]
    )


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=32, help="of each turn")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all cores")
    parser.add_argument("--set", type=json.loads, default={}, help='recipe values, as in {"batch_size": 64}')
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.batches = 2, 16
    if options.resume:
        resume(options)
    result = measure(options)
    print(json.dumps(result) if options.json else f"{result['machine']}\n\n{table(result)}")


if __name__ == "__main__":
    main()
