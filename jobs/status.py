"""`facegan status`: what Slurm and the run folders say of the jobs of this directory."""

import json
from pathlib import Path
from typing import Any

import click

from facegan.errors import FaceganError
from facegan.files import last_json_line, read_object
from facegan.run.outcome import read_outcome
from jobs import progress, table
from jobs.slurm import queue, records
from jobs.slurm.queue import State
from jobs.slurm.records import Record

COLUMNS = (
    *("job", "name", "state", "restarts", "elapsed", "kimg", "images/s", "left", "in time", "memory", "gpu"),
    *("run", "reason"),
)


@click.command()
@click.argument("jobs", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON array for programs.")
def command(jobs: tuple[str, ...], as_json: bool) -> None:
    """Say how the jobs of this directory are: JOBS are job ids or run folders; all of them where none is given.

    State, reason and restarts are Slurm's (squeue, and sacct where the cluster keeps accounts); progress, images/s
    and the cause of a failure are read from the run folders. `left` is the time to the run's length at that rate,
    `in time` whether this ends inside --time (if not, the run saves, is requeued and goes on); memory is the most
    that one process held, of what was asked for.

    \b
    Examples:
      facegan status
      facegan status 1234 runs/dcgan-128
      facegan status --json
    """
    queued = queue.read()
    wanted = [record for job in jobs for record in records.find(job, queued)]
    shown = wanted if jobs else records.load_all(queued)
    rows = [describe(record, state) for record, state in zip(shown, states(shown, queued), strict=True)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(table.align([COLUMNS, *([_shown(row[name]) for name in COLUMNS] for row in rows)]))
    else:
        click.echo("No jobs are recorded in this directory. Submit one: facegan submit check")


def states(shown: list[Record], queued: dict[str, State]) -> list[State]:
    """Slurm's word on each record: the queue's, else the accounting's; UNKNOWN where it has forgotten the job.

    One call of each for all of them. An id that Slurm has given to another job since is not this record's.
    """
    mine = [queue.of_queue(queued.get(r.job), records.seconds(r.submitted)) for r in shown]
    counted = queue.accounting(r.job for r in shown)
    pairs = zip(shown, mine, strict=True)
    return [queue.joined(state, counted.get(r.job, []), records.seconds(r.submitted)) for r, state in pairs]


def describe(record: Record, state: State) -> dict[str, Any]:
    """One row: the job as Slurm sees it and, of a training, its run as the run folder shows it."""
    run_dir = Path(record.run_dir) if record.run_dir and record.trains else None
    outcome, stats = _run(run_dir) if run_dir else ({}, {})
    name, ended_as = state.state, outcome.get("state", "")
    if name == "UNKNOWN":
        name = ended_as.upper() or "ENDED"
    ended = not state.is_live and ended_as in ("failed", "stopped", "unreadable")
    left = seconds_left(run_dir, stats) if run_dir and state.state == "RUNNING" else None
    limit = queue.duration(state.left)
    return {
        "job": record.job,
        "name": record.name,
        "state": name,
        "reason": outcome.get("reason", "") if ended else _slurm_reason(state),
        "restarts": state.restarts,
        "elapsed": state.elapsed,
        "kimg": stats.get("progress/kimg"),
        "images/s": stats.get("speed/imgs_per_sec"),
        "left": None if left is None else progress.duration(left),
        "in time": None if left is None or limit is None else "yes" if left < limit else "no",
        "memory": _memory(state.peak or _own_peak(run_dir, record.job), state.memory),
        "gpu": f"{state.gpu} %" if state.gpu else None,
        "run": record.run_dir,
        "outcome": ended_as,
        "log": record.log,
        "nodes": state.nodes,
        "arguments": list(record.arguments),
        "successor": record.successor,
    }


def seconds_left(run_dir: Path, stats: dict[str, Any]) -> float | None:
    """Until the run has its length, at the rate it has now; None where either is not known."""
    config = read_object(run_dir / "config.json")
    try:
        images = config["values"]["kimg"] * 1000 or config["values"]["epochs"] * config["data"]["samples"]
        return float(max(images - stats["progress/kimg"] * 1000, 0) / stats["speed/imgs_per_sec"])
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _memory(peak: int, given: str) -> str | None:
    """The most that one process held, of what the job was given."""
    held = f"{peak / 2**30:.1f}G" if peak else ""
    return f"{held} of {given}" if held and given else held or None


def _own_peak(run_dir: Path | None, job: str) -> int:
    """What the ranks of a training left of it when they ended; 0 where they have not."""
    left = run_dir.glob(f"logs/memory-{job}-*.json") if run_dir else ()
    return max((int(read_object(path).get("peak", 0)) for path in left), default=0)


def _run(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outcome and last line of stats; a folder that cannot be read keeps no other job from being shown."""
    try:
        return read_outcome(run_dir), last_json_line(run_dir / "stats.jsonl")
    except (FaceganError, OSError) as error:
        return {"state": "unreadable", "reason": str(error)}, {}


def _slurm_reason(state: State) -> str:
    return "" if state.reason in ("None", "(null)") else state.reason


def _shown(value: Any) -> str:
    """A cell on one line, whatever a name or a reason holds."""
    text = f"{value:,.1f}" if isinstance(value, float) else "" if value is None else str(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text)
