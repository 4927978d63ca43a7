"""How a run ended, as the one file `outcome.json` that batch scripts, reports and later starts decide from."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.files import read_object, write_json

FILE = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended: finished, stopped (saved, can go on) or failed."""

    state: str
    reason: str
    nimg: int
    exit_code: int = 0


def write_outcome(run_dir: Path, outcome: Outcome) -> None:
    """Write `outcome.json`: the batch script decides from it alone."""
    value = {"state": outcome.state, "reason": outcome.reason, "nimg": outcome.nimg}
    write_json(run_dir / FILE, value | {"time": now()} | identity())


def now() -> str:
    """This moment in local time with its zone, as a run's files have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def identity() -> dict[str, str | None]:
    """Whose outcome it is: the Slurm job, if any, and which start of it by its restart count."""
    return {"job": os.environ.get("SLURM_JOB_ID"), "restart": os.environ.get("SLURM_RESTART_COUNT")}


def read_outcome(run_dir: Path) -> dict[str, Any]:
    """What `outcome.json` says: state, reason, nimg, time, job, restart.

    Empty where there is none (the run goes on, or was killed), or none that is whole.
    """
    outcome = read_object(run_dir / FILE)
    whole = isinstance(outcome.get("state"), str) and isinstance(outcome.get("nimg"), int)
    return outcome if whole else {}


def is_finished(run_dir: Path) -> bool:
    """Whether the run reached its length."""
    return bool(read_outcome(run_dir).get("state") == "finished")
