"""The records of submitted jobs: one JSON file a job in .facegan/jobs of the submit directory.

`facegan submit` writes them, and every batch file when it starts, so that jobs of a plain sbatch are known too.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from facegan.errors import UsageError
from facegan.files import write_json
from jobs.slurm.queue import State

FOLDER = Path(".facegan/jobs")


@dataclass(frozen=True)
class Record:
    """One job or array element: what it runs, where its log and its run are."""

    job: str  # "12", or "12_3" for element 3 of array 12
    name: str = ""  # stem of the batch file
    run_dir: str = ""
    log: str = ""  # with Slurm's %A and %a where it stands for a whole array
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    submitted: str = ""
    given: tuple[str, ...] = ()  # what the batch file was called with; `arguments` is what came of it
    successor: str = ""  # the job that goes on in this one's place
    chain: str = ""  # the first job of a row of successors

    @property
    def first(self) -> str:
        """The job that began what this one goes on with; itself in most cases."""
        return self.chain or self.job

    @property
    def trains(self) -> bool:
        """Whether the progress of its run is its own: other jobs look at the same folder."""
        return self.name == "sweep" or self.name.startswith("train") or self.arguments[:1] == ("train",)

    @property
    def array(self) -> str:
        """The id of the array this is an element of; its own id otherwise."""
        return self.job.partition("_")[0]

    def order(self) -> list[int]:
        return [int(number) for number in self.job.split("_")]


def save(record: Record, folder: Path = FOLDER) -> None:
    """Write the job's record over an earlier one."""
    write_json(folder / f"{record.job}.json", asdict(record))


def load(job: str, folder: Path = FOLDER) -> Record | None:
    """The record of a job; None where there is none or it is not one of ours."""
    try:
        values: dict[str, Any] = json.loads((folder / f"{job}.json").read_text(encoding="utf-8"))
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        record = Record(**{**values, **lists})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if record.job == job else None


def load_all(queued: Mapping[str, State] | None = None, folder: Path = FOLDER) -> list[Record]:
    """Every record, oldest job first; an array as its elements: those that have started and those `queued`.

    What a plain sbatch left in the queue has no record before it starts; it is known by comment and directory.
    """
    jobs = [path.stem for path in folder.glob("*.json") if re.fullmatch(r"\d+(_\d+)?", path.stem)]
    records = {job: record for job in jobs if (record := load(job, folder)) is not None}
    for job, state in (queued or {}).items():
        array, is_ours = job.partition("_")[0], state.comment == "facegan" and state.directory == str(Path.cwd())
        if job not in records and (array in records or is_ours) and re.fullmatch(r"\d+(_\d+)?", job):
            records[job] = replace(records.get(array, Record(job, "(sbatch)")), job=job)
    in_parts = {record.array for job, record in records.items() if "_" in job}
    return sorted((record for job, record in records.items() if job not in in_parts), key=Record.order)


def find(wanted: str, queued: Mapping[str, State] | None = None, folder: Path = FOLDER) -> list[Record]:
    """The records a person means: a job id, an array's id or one element, or a run folder.

    Raises UsageError with what is known.
    """
    records = load_all(queued, folder)
    run_dir = Path(wanted).resolve()
    meant = [
        r for r in records if wanted in (r.job, r.array) or (r.run_dir and Path(r.run_dir).resolve() == run_dir)
    ]
    if not meant:
        last = ", ".join(record.job for record in records[-8:]) or "none"
        raise UsageError(
            f"{wanted!r} is neither a job nor the run folder of a job of this directory "
            f"({folder.absolute()}); its last jobs: {last}"
        )
    return meant


def job_id() -> str:
    """This job's id, or ARRAY_ELEMENT: the name Slurm and `scontrol requeue` have for exactly this one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def restarts() -> int:
    """How often this job was requeued before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def own_log() -> str:
    """The file this job's output goes to, as Slurm opened it."""
    target = Path("/proc/self/fd/1").readlink()
    return str(target) if target.is_absolute() else ""


def seconds(time: str) -> float:
    """A record's time in seconds since 1970; 0 where it has none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
