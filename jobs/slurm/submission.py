"""From a batch file and its words to a recorded job."""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import click

from facegan.errors import UsageError
from jobs.slurm import calls, checks, records, request
from jobs.slurm.records import Record, now
from jobs.slurm.request import Call

STAGES = {"train_64": "train", "train_128": "train", "sweep": "train", "check": "train"}  # batch files of one stage
UNSAFE_IN_FILE = re.compile(r"[/\x00-\x1f\x7f%\\]")


def split(ctx: click.Context, args: list[str]) -> list[str]:
    """What stands before the first `--`; what stands behind it is kept aside for the job."""
    cut = args.index("--") if "--" in args else len(args)
    ctx.meta["jobs.slurm.arguments"] = tuple(args[cut + 1 :])
    return args[:cut]


def make_call(batch_file: Path, options: tuple[str, ...], arguments: tuple[str, ...], stage: str) -> Call:
    """The sbatch call, with the site's options for the stage; a job name that is no file name names no log.

    The stage's options stand first: those given here go before them.
    """
    settings = request.site_settings()
    usual = shlex.split({**os.environ, **settings}.get(f"FACEGAN_SBATCH_{stage.upper()}", ""))
    call = Call(batch_file, (*usual, *options), arguments, settings)
    given = [word for word in call.options if word.startswith(("--requeue", "--no-requeue"))]
    if not given and not os.environ.get("SBATCH_REQUEUE") and calls.knows_expedite():
        call = replace(call, options=("--requeue=expedite", *call.options))
    call = replace(call, arguments=checks.complete(batch_file.stem, call))
    if UNSAFE_IN_FILE.search(call.value("name")) and "%x" in call.value("output"):
        output = call.value("output").replace("%x", batch_file.stem)
        call = replace(call, options=(*call.options, f"--output={output}"))
    return call


def hand_in(name: str, call: Call, run_dir: str = "") -> Record:
    """Submit and record."""
    job = calls.sbatch(call)
    run_dir = run_dir or checks.run_dir(name, call)
    record = Record(job, name, run_dir, log_path(call, job), call.arguments, call.options, now(), call.arguments)
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
    files = request.batch_files()
    if name not in files:
        raise UsageError(f"there is no job {name!r}; expected one of: {', '.join(files)}")
    return files[name]
