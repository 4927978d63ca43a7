"""What Slurm says of jobs: the queue, and the accounting where the cluster keeps one."""

import re
import shutil
from collections.abc import Iterable
from typing import NamedTuple

from jobs.slurm import calls

LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STOPPED")
GONE_ON = (
    "REQUEUED",
    "PREEMPTED",
    "NODE_FAIL",
)  # an accounted start after which the same job may have started again
SAME_MOMENT = 300.0  # seconds between Slurm's time of submission and the record's, at most
EPOCH = {"SLURM_TIME_FORMAT": "%s"}


class State(NamedTuple):
    """What Slurm says of one job or array element."""

    state: str
    reason: str = ""
    restarts: int = 0
    elapsed: str = ""
    nodes: str = ""
    comment: str = ""  # "facegan" for the files of slurm/
    directory: str = ""  # where it was submitted
    left: str = ""  # of its time limit
    submitted: float = 0.0  # seconds since 1970; a requeue counts as a submission
    memory: str = ""  # asked for
    peak: int = 0  # bytes that its largest process held
    gpu: int = 0  # percent of its GPUs' time, where the cluster measures it

    @property
    def is_live(self) -> bool:
        """Whether it is waiting or running."""
        return self.state.split("+")[0] in LIVE


UNKNOWN = State("UNKNOWN")


def read() -> dict[str, State]:
    """This user's jobs and array elements that Slurm still remembers. Job names are data, so none is parsed."""
    wanted = (
        "JobArrayID",
        "State",
        "Reason",
        "RestartCnt",
        "TimeUsed",
        "NodeList",
        "Comment",
        "WorkDir",
        "TimeLeft",
    )
    layout = ",".join(f"{name}:|" for name in (*wanted, "SubmitTime", "tres-alloc"))
    command = ["squeue", "--noheader", "--array", "--me", "--states=all", "--Format", layout]
    rows = (line.split("|") for line in calls.ask(command, calls.environment(EPOCH)).splitlines())
    return {row[0]: _state(*row[1:]) for row in rows if len(row) >= 9}


def _state(state: str, reason: str, restarts: str, *rest: str) -> State:
    elapsed, nodes, comment, directory, left, submitted, resources = (*rest, "", "", "")[:7]
    memory = re.search(r"\bmem=([^,]+)", resources)
    job = State(state, reason, _number(restarts), elapsed, nodes, comment, directory, left, _seconds(submitted))
    return job._replace(memory=memory[1] if memory else "")


def accounting(jobs: Iterable[str]) -> dict[str, list[State]]:
    """What sacct says of the jobs: every start, oldest first; nothing where the cluster keeps no accounting."""
    wanted = sorted({job.partition("_")[0] for job in jobs})
    if not wanted or shutil.which("sacct") is None:
        return {}
    fields = (
        "JobID,State,ExitCode,Elapsed,NodeList,Submit,ReqMem,MaxRSS"  # its Reason is what the job once waited for
    )
    command = ["sacct", "-n", "-P", "-D", "-j", ",".join(wanted), "-o", fields]
    try:
        lines = calls.ask(command, calls.environment(EPOCH)).splitlines()
    except calls.SlurmError:
        return {}
    starts_of: dict[str, list[State]] = {}
    for line in lines:
        job, state, code, elapsed, nodes, submitted, memory, peak, used = line.split("|")
        job, _, step = job.partition(".")
        starts = starts_of.setdefault(job, [])
        if step and starts:
            gpu = re.search(r"gres/gpuutil=(\d+)", used)
            most = max(starts[-1].peak, _bytes(peak))
            starts[-1] = starts[-1]._replace(peak=most, gpu=int(gpu[1]) if gpu else starts[-1].gpu)
        elif not step:
            reason = "" if code == "0:0" else f"exit code {code}"
            start = State(state.split()[0], reason, 0, elapsed, nodes)
            starts.append(start._replace(submitted=_seconds(submitted), memory=memory))
    return starts_of


def of_queue(state: State | None, submitted: float) -> State:
    """The queue's word, if it is of the job that was `submitted` then and not of a later one with its id."""
    if state is None or not submitted or not state.submitted or state.restarts:
        return state or UNKNOWN
    return state if abs(state.submitted - submitted) < SAME_MOMENT else UNKNOWN


def joined(state: State, starts: list[State], submitted: float) -> State:
    """The queue's word where it has one, with the memory and GPU use that only the accounting knows."""
    counted = of_record(starts, submitted)
    if state is UNKNOWN:
        return counted
    return state._replace(memory=counted.memory or state.memory, peak=counted.peak, gpu=counted.gpu)


def of_record(starts: list[State], submitted: float) -> State:
    """The last of a job's starts, with their number: those from its submission on that followed from one another.

    Slurm gives an id again after years, or after its state was lost: then the starts are of more than one job.
    """
    mine: list[State] = []
    for start in starts:
        if mine and mine[-1].state in GONE_ON:
            mine.append(start)
        elif not submitted or not start.submitted or abs(start.submitted - submitted) < SAME_MOMENT:
            mine = [start]
    return mine[-1]._replace(restarts=len(mine) - 1, peak=max(s.peak for s in mine)) if mine else UNKNOWN


def duration(text: str) -> float | None:
    """Slurm's `1-02:03:04`, `2:03:04` or `3:04` in seconds; None for UNLIMITED and the like."""
    days, _, clock = text.rpartition("-")
    parts = [days or "0", *clock.split(":")]
    if not all(part.isdigit() for part in parts) or len(parts) < 3:
        return None
    seconds = 0.0
    for part in parts[1:]:
        seconds = 60 * seconds + int(part)
    return 86400 * int(parts[0]) + seconds


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0


def _seconds(text: str) -> float:
    """Slurm's time in seconds since 1970; 0 for N/A."""
    return float(_number(text))


def _bytes(text: str) -> int:
    """`1234K`, `1.5G` as bytes; 0 for anything else."""
    text = text.strip()
    unit = 1024 ** (" KMGT".find(text[-1:].upper()) or 1) if text[-1:].upper() in "KMGT" and text else 1
    try:
        return int(float(text.rstrip("KMGTkmgt")) * unit)
    except ValueError:
        return 0
