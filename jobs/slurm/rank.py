"""One launched rank: everything it prints goes to its own file in FACEGAN_LOGS, then it is `facegan`.

Run by slurm/launch.sh as `accelerate launch -m jobs.slurm.rank train ...`. A file and no pipe: nothing that a
signal could take away between a rank and its last words.
"""

import atexit
import os
import resource
import sys
from datetime import datetime
from pathlib import Path

from facegan.files import write_json
from jobs.slurm import deaths


def main() -> None:
    rank, folder = os.environ.get("RANK", "0"), os.environ.get("FACEGAN_LOGS")
    if folder:
        redirect(Path(folder) / f"rank-{rank}.log")
        # a launcher has given each of its ranks a place; what @record writes there is the cause of a failure
        os.environ.setdefault("TORCHELASTIC_ERROR_FILE", str(deaths.error_file(Path(folder))))
        atexit.register(note_memory, Path(folder), rank)
    node, job = os.environ.get("SLURMD_NODENAME", "this machine"), os.environ.get("SLURM_JOB_ID", "none")
    start = datetime.now().astimezone().isoformat(timespec="seconds")
    # one write: unbuffered ranks that share a log would mix their lines
    sys.stdout.write(f"[{start}] rank {rank} on {node}, job {job}, process {os.getpid()}\n")
    from torch.distributed.elastic.multiprocessing.errors import record

    from jobs.cli import main as facegan

    record(facegan)()


def note_memory(logs: Path, rank: str) -> None:
    """Leave the most memory this rank held, in bytes, for `facegan status` where there is no accounting."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    write_json(logs / f"memory-{deaths.start()}-{rank}.json", {"peak": peak})


def redirect(log: Path) -> None:
    """Let standard output and standard error append to `log`, for this process and those it starts."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


if __name__ == "__main__":
    main()
