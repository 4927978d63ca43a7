"""`facegan logs`: print or follow a job's log, or that of one rank."""

import time
from contextlib import suppress
from pathlib import Path

import click

from facegan.errors import FaceganError
from jobs.slurm import calls, queue, records
from jobs.slurm.records import Record

BLOCK = 1 << 16
ASK_SECONDS = 15.0  # between two looks at the queue, which many users share


class Follower:
    """Whether a job lives, asked seldom; as long as Slurm does not answer, it does."""

    def __init__(self, record: Record) -> None:
        self.record, self.asked = record, time.monotonic()
        self.is_live = True

    def wait(self) -> None:
        time.sleep(1)
        if time.monotonic() - self.asked < ASK_SECONDS:
            return
        self.asked = time.monotonic()
        with suppress(calls.SlurmError):
            state = queue.read().get(self.record.job)
            self.is_live = state is not None and state.is_live


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("-r", "--rank", type=click.IntRange(min=0), help="The log of one rank instead of the job's.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=50, help="Start this many lines before the end.")
def command(job: str, follow: bool, rank: int | None, lines: int) -> None:
    """Print the end of the log of JOB, a job id or a run folder (its newest job).

    \b
    Examples:
      facegan logs 1234
      facegan logs -f runs/dcgan-128
      facegan logs -r 3 1234
    """
    queued = queue.read() if follow else {}
    record = records.find(job, queued)[-1]
    path = log_of(record, rank)
    follower = Follower(record)
    follower.is_live = queued.get(record.job, queue.UNKNOWN).is_live
    while follower.is_live and not path.is_file():
        follower.wait()
    if not path.is_file():
        raise FaceganError(f"{path} does not exist yet; the job has not started: facegan status {record.job}")
    position = print_from(path, start_of_last_lines(path, lines))
    while follower.is_live:
        follower.wait()
        position = print_from(path, position)
    if follow:
        print_from(path, position)


def log_of(record: Record, rank: int | None) -> Path:
    """The file a job's, or one rank's, output goes to."""
    if rank is None:
        return Path(record.log.replace("%a", record.job.rpartition("_")[2]))
    if not record.run_dir:
        raise FaceganError(
            f"job {record.job} ({record.name}) has no run folder, so no logs by rank; leave --rank out"
        )
    return Path(record.run_dir) / "logs" / f"rank-{rank}.log"


def start_of_last_lines(path: Path, lines: int) -> int:
    """The offset of the last `lines` lines, looked for in the last MiB only."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.seek(max(0, size - (1 << 20)))
        ends = [start + i for i, byte in enumerate(file.read()) if byte == 0x0A]
    ends = [end for end in ends if end < size - 1]
    return ends[-lines] + 1 if 0 < lines <= len(ends) else (size if lines == 0 else start)


def print_from(path: Path, position: int) -> int:
    """Print what lies behind `position`; returns the new one. A log that shrank was begun anew."""
    if path.stat().st_size < position:
        position = 0
    with path.open("rb") as file:
        file.seek(position)
        while block := file.read(BLOCK):
            click.echo(block, nl=False)
        return file.tell()
