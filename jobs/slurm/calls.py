"""Slurm's commands: each with a time limit, and with an environment that holds no secret and no other job."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from facegan.errors import FaceganError
from jobs.slurm.request import SECRET, Call

# A job's own settings would bind a job submitted from inside it (CPU binding, node lists); the way to the
# controller, and the pass to it, are not among them.
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
ANSWER_SECONDS = 20.0  # for a question; a controller at work answers within one
SUBMIT_SECONDS = 120.0  # sbatch tries again by itself while the controller is busy
JOB_ID = re.compile(r"(\d+)(;\S+)?")  # what sbatch --parsable prints


class SlurmError(FaceganError):
    """A call of a Slurm command that failed; the message holds the call and what Slurm said."""


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch, which Slurm copies into its controller's state: nothing secret, no other job."""
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SLURMD_")) and not SECRET.search(k)
    }
    return inherited | {k: os.environ[k] for k in KEPT if k in os.environ} | dict(extra)


def secrets() -> list[str]:
    """Names in this environment that a job does not get."""
    return sorted(name for name in os.environ if SECRET.search(name) and name not in KEPT)


def sbatch(call: Call) -> str:
    """Submit; returns the job id, which sites print news around. Raises SlurmError with Slurm's words."""
    text = ask(call.command, environment(call.environment), SUBMIT_SECONDS)
    ids = [match[1] for line in text.splitlines() if (match := JOB_ID.fullmatch(line.strip()))]
    if not ids:
        raise SlurmError(
            f"{shlex.join(call.command)}\n  printed no job id: {text.strip() or 'nothing'}\n  look: squeue --me"
        )
    return ids[-1]


def test_only(call: Call) -> None:
    """Let Slurm say whether the request could ever run; raises SlurmError if not."""
    ask(["sbatch", "--test-only", *call.command[2:]], environment(call.environment), SUBMIT_SECONDS)


def knows_expedite() -> bool:
    """Whether a requeued job can be the next to start (--requeue=expedite, Slurm 25.11)."""
    with suppress(SlurmError):
        return "expedite" in ask(["sbatch", "--help"])
    return False


def scancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or array elements; a training saves before it ends."""
    ask(["scancel", "--", *jobs])


def partitions(seconds: float = ANSWER_SECONDS) -> list[dict[str, str]]:
    """What sinfo says of all partitions: one row for each kind of node; the default's name ends in `*`."""
    names = ("partition", "nodes", "cpus", "memory", "gres", "time", "up")
    text = ask(["sinfo", "--all", "--noheader", "-o", "%P|%D|%c|%m|%G|%l|%a"], None, seconds)
    rows = (line.split("|") for line in text.splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def config(seconds: float = ANSWER_SECONDS) -> dict[str, str]:
    """What `scontrol show config` says: setting to value."""
    lines = ask(["scontrol", "show", "config"], None, seconds).splitlines()
    return {name.strip(): value.strip() for name, sign, value in (line.partition("=") for line in lines) if sign}


def ask(command: Sequence[str], env: Mapping[str, str] | None = None, seconds: float = ANSWER_SECONDS) -> str:
    """What a command of Slurm's prints. Raises SlurmError where it is not here, does not answer or refuses."""
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]} is not installed here: run this on a login node of the cluster")
    process = subprocess.Popen(
        command,
        env=environment({}) if env is None else env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # sites wrap these commands: what hangs may be a child of a wrapper
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"Slurm does not answer: {shlex.join(command)} took over {seconds:.0f} s; try again later"
        ) from None
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        raise SlurmError(f"{shlex.join(command)}\n  {_reason(errors)}")
    return output


def _reason(text: str) -> str:
    reason = re.sub(r"^\w+: (error: )?", "", text.strip(), flags=re.MULTILINE).replace("\n", "\n  ")
    return reason or "no reason given"
