"""The records of submitted jobs: one JSON file a job in .facegan/jobs of the submit directory.

`facegan submit` writes them, and every batch file when it starts, so that jobs of a plain sbatch are known too.
"""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from facegan.errors import UsageError
from facegan.files import write_json

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

    @property
    def array(self) -> str:
        """The id of the array this is an element of; its own id otherwise."""
        return self.job.partition("_")[0]

    def order(self) -> list[int]:
        return [int(number) for number in self.job.split("_")]


def save(record: Record, folder: Path = FOLDER) -> None:
    """Write the record, keeping what an earlier one of the same job knew and this one does not."""
    earlier = load(folder / f"{record.job}.json")
    known = {name: value for name, value in asdict(record).items() if value}
    write_json(folder / f"{record.job}.json", asdict(replace(earlier, **known) if earlier else record))


def load(path: Path) -> Record | None:
    """The record in a file; None where there is none or it is not one of ours."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record = Record(**{**values, "arguments": tuple(values["arguments"]), "options": tuple(values["options"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if record.job == path.stem else None


def load_all(folder: Path = FOLDER) -> list[Record]:
    """Every record, oldest job first; an array's own record is left out where its elements have theirs."""
    files = [path for path in folder.glob("*.json") if re.fullmatch(r"\d+(_\d+)?", path.stem)]
    records = [record for path in files if (record := load(path)) is not None]
    started = {record.array for record in records if "_" in record.job}
    return sorted((r for r in records if r.job not in started), key=Record.order)


def find(wanted: str, folder: Path = FOLDER) -> list[Record]:
    """The records a person means: a job id, an array's id or one element, or a run folder.

    Raises UsageError with what is known.
    """
    records = load_all(folder)
    run_dir = str(Path(wanted).resolve())
    found = [r for r in records if wanted in (r.job, r.array) or (r.run_dir and str(Path(r.run_dir).resolve()) == run_dir)]
    if not found:
        known = ", ".join(record.job for record in records[-8:]) or "none"
        raise UsageError(
            f"{wanted!r} is neither a job nor a run folder of the jobs recorded in {folder.absolute()}; the last ones: {known}"
        )
    return found
