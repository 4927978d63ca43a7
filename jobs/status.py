"""`facegan status`: what Slurm and the run folders say of the jobs of this directory."""

import json
from pathlib import Path
from typing import Any

import click

from facegan.errors import FaceganError
from facegan.files import last_json_line
from facegan.run.outcome import read_outcome
from jobs import table
from jobs.slurm import calls, records
from jobs.slurm.calls import State
from jobs.slurm.records import Record

COLUMNS = ("job", "name", "state", "restarts", "elapsed", "kimg", "images/s", "run", "reason")


@click.command()
@click.argument("jobs", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="One JSON array for programs.")
def command(jobs: tuple[str, ...], as_json: bool) -> None:
    """Say how the jobs of this directory are: JOBS are job ids or run folders; all of them where none is given.

    State, reason and restarts are Slurm's (squeue, and sacct where the cluster keeps accounts); progress, images/s
    and the cause of a failure are read from the run folders.

    \b
    Examples:
      facegan status
      facegan status 1234 runs/dcgan-128
      facegan status --json
    """
    queue = calls.queue()
    wanted = [record for job in jobs for record in records.find(job, queue)]
    shown = wanted if jobs else records.load_all(queue)
    rows = [describe(record, state) for record, state in zip(shown, states(shown, queue), strict=True)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        click.echo(table.align([COLUMNS, *([_shown(row[name]) for name in COLUMNS] for row in rows)]))
    else:
        click.echo("No jobs are recorded in this directory. Submit one: facegan submit check")


def states(records: list[Record], queue: dict[str, State]) -> list[State]:
    """Slurm's word on each record: the queue's, else the accounting's; UNKNOWN where it has forgotten the job."""
    known = calls.accounting(record.job for record in records if record.job not in queue) | queue
    return [known.get(record.job, State("UNKNOWN", "", 0, "", "")) for record in records]


def describe(record: Record, state: State) -> dict[str, Any]:
    """One row: the job as Slurm sees it and its run as the run folder shows it."""
    run_dir = Path(record.run_dir) if record.run_dir else None
    outcome, stats = _run(run_dir) if run_dir else ({}, {})
    ended = state.state.split("+")[0] not in calls.LIVE
    name, known = state.state, outcome.get("state", "")
    if name == "UNKNOWN":
        name = known.upper() or "ENDED"
    return {
        "job": record.job,
        "name": record.name,
        "state": name,
        "reason": outcome.get("reason", "")
        if ended and known in ("failed", "stopped", "unreadable")
        else _slurm_reason(state),
        "restarts": state.restarts,
        "elapsed": state.elapsed,
        "kimg": stats.get("progress/kimg"),
        "images/s": stats.get("speed/imgs_per_sec"),
        "run": record.run_dir,
        "outcome": known,
        "log": record.log,
        "nodes": state.nodes,
        "arguments": list(record.arguments),
    }


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
