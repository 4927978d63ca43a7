"""What a batch file does around its command: record what runs, and read from the outcome what comes next.

Called by slurm/launch.sh as `python -m jobs.slurm.job STEP ...`; Slurm itself is called there, outside containers.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from facegan.errors import FaceganError
from facegan.files import append_json_line, json_lines, read_object, write_json
from facegan.owner import Owner
from facegan.run.outcome import FILE, identity, read_outcome
from jobs.slurm import deaths, provenance, succession
from jobs.slurm.checks import batch_of_a_rank
from jobs.slurm.deaths import CONSEQUENCE
from jobs.slurm.records import Record, job_id, load, now, own_log, restarts, save

ENDED_BY_TERM = (143, 255)  # exit codes for it, the second of a shell that a signal ends in the same moment
SLURM_ASKED = ("limit", "preempted", "unknown")  # reasons to stop after which a run goes on by itself


def begin(run_dir: Path | None, given: list[str], arguments: list[str], ranks: int = 0) -> None:
    """Note the job in the submit directory and, in the run folder, exactly what it runs.

    `given` is what the batch file was called with, `arguments` the command that came of it. Raises UsageError where
    the recipe's batch does not fit a training's `ranks`, FaceganError where the run folder belongs to a live job;
    nothing is written then.
    """
    if run_dir is not None:
        _owner(run_dir).refuse_beside_live()
    if ranks:
        print(batch_of_a_rank(arguments[1:], ranks), file=sys.stderr)
    job, log = job_id(), own_log()
    record = load(job) or load(job.partition("_")[0]) or Record(job, name=arguments[0], submitted=now())
    folder = str(run_dir or record.run_dir)
    record = replace(record, job=job, run_dir=folder, log=log, arguments=tuple(arguments), given=tuple(given))
    try:
        save(record)
    except OSError as error:  # a submit folder that this node may only read: the job itself needs nothing of it
        print(f"warning: `facegan status` will not know this job: {error}", file=sys.stderr)
    if run_dir is None:
        return
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    note: dict[str, Any] = {"job": job, "log": log, "sbatch": record.options, "arguments": arguments, "time": now()}
    note |= {"restarts": restarts(), "code": provenance.snapshot_code(logs), **provenance.describe()}
    write_json(logs / f"job-{deaths.start()}.json", note)
    sizes = {path.name: path.stat().st_size for path in logs.glob("*.log")}
    write_json(_attempt_path(run_dir), {"before": read_outcome(run_dir), "sizes": sizes})


def end(run_dir: Path, code: int, why: str) -> str:
    """What follows, from outcome.json alone: `finished`, `requeue`, `stopped` or `failed`.

    `why` the ranks were asked to stop: `limit`, `preempted`, `cancelled`, `unknown` (Slurm does not answer), or ''
    by a person: that run does not come back. An outcome of another job or an earlier attempt does not count unless
    the run was finished then. Where the ranks left none although Slurm ended them, the run goes on from its last
    checkpoint; otherwise, or where there is only rank 0's view of another's death, the cause is gathered into
    outcome.json.
    """
    attempt, left = read_object(_attempt_path(run_dir)), read_outcome(run_dir)
    if not _is_ours(left) and left.get("state") != "finished":
        if why == "cancelled" and code in ENDED_BY_TERM:
            _write(run_dir, left, state="stopped", reason="ended by a signal before the training began")
            return "stopped"
        left = {"state": "stopped" if why in SLURM_ASKED[:2] else "failed", "nimg": left.get("nimg", 0)}
    if left["state"] == "failed":
        _explain(run_dir, left, attempt.get("sizes", {}), code)
    goes_on = why in SLURM_ASKED[:2] or (why == "unknown" and "SIGTERM" in left.get("reason", ""))
    if left["state"] == "stopped" and goes_on:
        return "requeue" if why == "preempted" else _next_attempt(run_dir, int(left.get("nimg", 0)))
    return str(left["state"])


def _explain(run_dir: Path, left: dict[str, Any], sizes: dict[str, int], code: int) -> None:
    """Complete a failure's outcome by the rank that died first."""
    reason, logs = left.get("reason", ""), run_dir / "logs"
    if not reason or CONSEQUENCE.search(reason):
        death = deaths.cause(logs, sizes, code)
        nobody = f"the ranks ended without an outcome, srun's exit code {code} (see {logs})"
        reason = death.sentence(logs) if death else reason or nobody
        if death:
            deaths.remember(logs, death)
    _write(run_dir, left, state="failed", reason=reason)


def _next_attempt(run_dir: Path, nimg: int) -> str:
    """`requeue`, unless this job stood at the same image when its time was up the last time."""
    record = load(job_id())
    job = record.first if record else job_id()
    history = run_dir / "logs/requeues.jsonl"
    earlier = [entry["nimg"] for entry in json_lines(history) if entry["job"] == job]
    if earlier and nimg <= earlier[-1]:
        reason = (
            f"no progress between two requeues of job {job}: {nimg} images at both; a longer --time, "
            "or an earlier signal (--signal=B:USR1@SECONDS), is needed"
        )
        _write(run_dir, read_outcome(run_dir), state="failed", reason=reason)
        return "failed"
    append_json_line(history, {"job": job, "nimg": nimg, "time": now()})
    return "requeue"


def stranded(run_dir: Path | None) -> None:
    """Say what to type where this job can neither be requeued nor followed by another; kept in the outcome too."""
    record = load(job_id()) or Record(job_id())
    again = shlex.join(["sbatch", *record.options, f"slurm/{record.name}.sh", *record.given])
    advice = f"saved, but Slurm neither requeues this job nor takes another from this node; to go on: {again}"
    if run_dir is None:
        print(f"error: {advice}", file=sys.stderr)
    else:
        outcome = read_outcome(run_dir)
        _write(run_dir, outcome, state="stopped", reason=f"{outcome.get('reason', 'ended by Slurm')}; {advice}")


def _write(run_dir: Path, outcome: dict[str, Any], state: str, reason: str) -> None:
    """Leave the verdict in outcome.json; in this job's log alone where another job has had the folder since."""
    print(f"error: {reason}", file=sys.stderr)
    there = read_outcome(run_dir)
    try:
        _owner(run_dir).refuse_beside_live()
    except FaceganError as error:
        print(f"error: {error}", file=sys.stderr)
        return
    if _is_ours(there) or there in ({}, read_object(_attempt_path(run_dir)).get("before")):
        write_json(run_dir / FILE, {"nimg": 0, **outcome, "state": state, "reason": reason, **identity()})


def _owner(run_dir: Path) -> Owner:
    return Owner(run_dir / "owner.json", "give another --run-dir")


def _attempt_path(run_dir: Path) -> Path:
    return run_dir / "logs" / f"attempt-{job_id()}.json"


def _is_ours(left: dict[str, Any]) -> bool:
    """Whether this start of this job left the outcome."""
    return identity().items() <= left.items()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.slurm.job", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    add = {
        name: steps.add_parser(name) for name in ("begin", "end", "worn-out", "successor", "succeeded", "stranded")
    }
    add["begin"].add_argument("--run-dir", type=Path)
    add["begin"].add_argument("--ranks", type=int, default=0, help="of a training")
    add["begin"].add_argument("--given", type=int, default=0, help="how many words the batch file was given")
    add["begin"].add_argument("arguments", nargs=argparse.REMAINDER)
    add["end"].add_argument("run_dir", type=Path)
    add["end"].add_argument("--code", type=int, required=True)
    add["end"].add_argument("--why", default="")
    for name in ("worn-out", "stranded"):
        add[name].add_argument("run_dir", type=Path, nargs="?")
    add["successor"].add_argument("--file", type=Path, required=True)
    add["successor"].add_argument("--time", default="")
    add["succeeded"].add_argument("job")
    options = parser.parse_args()
    try:
        _do(options)
    except (FaceganError, click.ClickException) as error:
        sys.exit(f"error: {error.message if isinstance(error, click.ClickException) else error}")


def _do(options: argparse.Namespace) -> None:
    match options.step:
        case "begin":
            words = options.arguments[1:]
            begin(options.run_dir, words[: options.given], words[options.given :], options.ranks)
        case "end":
            print(end(options.run_dir, options.code, options.why))
        case "worn-out":
            print(",".join(deaths.worn_out(options.run_dir / "logs") if options.run_dir else []))
        case "successor":
            print("".join(f"{word}\0" for word in succession.successor(options.file, options.time)), end="")
        case "succeeded":
            succession.succeeded(options.job)
        case "stranded":
            stranded(options.run_dir)


if __name__ == "__main__":
    main()
