"""The job that takes a job's place where Slurm will not requeue it."""

import os
from dataclasses import replace
from pathlib import Path

from jobs.slurm.records import job_id, load, now, save

# What a plain sbatch was asked for, as Slurm tells the job. What the batch file itself asks for is in it.
VARIABLES = {
    "--partition": "SLURM_JOB_PARTITION",
    "--account": "SLURM_JOB_ACCOUNT",
    "--qos": "SLURM_JOB_QOS",
    "--reservation": "SLURM_JOB_RESERVATION",
    "--job-name": "SLURM_JOB_NAME",
    "--nodes": "SLURM_JOB_NUM_NODES",
    "--gpus-per-node": "SLURM_GPUS_PER_NODE",
    "--cpus-per-gpu": "SLURM_CPUS_PER_GPU",
    "--cpus-per-task": "SLURM_CPUS_PER_TASK",
    "--mem-per-cpu": "SLURM_MEM_PER_CPU",
    "--ntasks-per-node": "SLURM_NTASKS_PER_NODE",
    "--array": "SLURM_ARRAY_TASK_ID",  # this element alone
}
ONCE = ("--dependency", "--kill-on-invalid-dep", "--begin", "--hold", "--array", "-a", "-d", "-b", "-H")


def successor(file: Path, time: str) -> list[str]:
    """What follows `sbatch --dependency=...`: options, file, arguments. Nothing where one was handed in before.

    `file` is Slurm's copy of the batch file, `time` the job's limit.
    """
    record = load(job_id())
    if record is None or record.successor:
        return []
    resources = [f"{flag}={value}" for flag, name in VARIABLES.items() if (value := os.environ.get(name))]
    limit = [f"--time={time}"] if time else []
    return [*resources, *limit, *_again(record.options), str(file), *record.given]


def succeeded(new: str) -> None:
    """Note who goes on, on both records."""
    record = load(job_id())
    if record is not None:
        save(replace(record, successor=new))
        options = (*_again(record.options), f"--dependency=afterany:{job_id()}")
        log = record.log.replace(record.array, new)
        save(replace(record, job=new, options=options, submitted=now(), log=log, chain=record.first))


def _again(options: tuple[str, ...]) -> list[str]:
    """Options that are not about this one submission; a value in a word of its own goes with its option."""
    kept, skips = [], False
    for word in options:
        name, sign, _ = word.partition("=")
        if skips and not word.startswith("-"):
            continue
        skips = name in ONCE and not sign
        if name not in ONCE:
            kept.append(word)
    return kept
