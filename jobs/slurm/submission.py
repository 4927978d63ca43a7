"""From a batch file and its words to a recorded job."""

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from facegan.errors import UsageError
from jobs.slurm import calls, checks, records
from jobs.slurm.calls import Call
from jobs.slurm.records import Record

UNSAFE_IN_FILE = re.compile(r"[/\x00-\x1f\x7f%\\]")


def split(ctx: click.Context, args: list[str]) -> list[str]:
    """What stands before the first `--`; what stands behind it is kept aside for the job."""
    cut = args.index("--") if "--" in args else len(args)
    ctx.meta["jobs.slurm.arguments"] = tuple(args[cut + 1 :])
    return args[:cut]


def make_call(batch_file: Path, options: tuple[str, ...], arguments: tuple[str, ...], **extra: str) -> Call:
    """The sbatch call; a job name that is no file name gets a log that is not named after it."""
    call = Call(batch_file, options, arguments, {**calls.site_settings(), **extra})
    if UNSAFE_IN_FILE.search(call.value("name")) and "%x" in call.value("output"):
        output = call.value("output").replace("%x", batch_file.stem)
        call = Call(batch_file, (*options, f"--output={output}"), arguments, call.environment)
    return call


def hand_in(name: str, call: Call, run_dir: str = "") -> Record:
    """Submit and record."""
    job = calls.sbatch(call)
    run_dir = run_dir or checks.run_dir(name, call)
    submitted = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(job, name, run_dir, log_path(call, job), call.arguments, call.options, submitted)
    records.save(record)
    return record


def log_path(call: Call, job: str) -> str:
    """Where the job's log will be; an array's keeps Slurm's %a for the element."""
    pattern = call.value("output") or ("slurm-%A_%a.out" if call.value("array") else "slurm-%j.out")
    for sign, value in {"%x": call.value("name") or call.batch_file.name, "%j": job, "%A": job}.items():
        pattern = pattern.replace(sign, value)
    return str(Path.cwd() / call.value("chdir") / pattern)


def batch_file(name: str) -> Path:
    """The batch file called `name`; raises UsageError with the list of them."""
    files = calls.batch_files()
    if name not in files:
        raise UsageError(f"there is no job {name!r}; expected one of: {', '.join(files)}")
    return files[name]
