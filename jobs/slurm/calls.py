"""What Slurm is told and asked: batch files, the sbatch call and its environment, the queue, the accounting."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import slurm
from facegan.errors import FaceganError

# A job's own settings would bind a job submitted from inside it (CPU binding, node lists); the way to the
# controller is not one of them.
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")
SECRET = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
JOB_ID = re.compile(r"\d+(_\d+)?")
LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "STOPPED")


class SlurmError(FaceganError):
    """A call of a Slurm command that failed; the message holds the call and what Slurm said."""


class Option(NamedTuple):
    """A request as sbatch reads it: from a flag, from the environment or from a file's #SBATCH lines."""

    long: str
    short: str = ""
    variable: str = ""


OPTIONS = {
    "name": Option("--job-name", "-J", "SBATCH_JOB_NAME"),
    "partition": Option("--partition", "-p", "SBATCH_PARTITION"),
    "nodes": Option("--nodes", "-N"),
    "gpus_per_node": Option("--gpus-per-node", "", "SBATCH_GPUS_PER_NODE"),
    "gres": Option("--gres", "", "SBATCH_GRES"),
    "time": Option("--time", "-t", "SBATCH_TIMELIMIT"),
    "output": Option("--output", "-o", "SBATCH_OUTPUT"),
    "array": Option("--array", "-a", "SBATCH_ARRAY_INX"),
    "chdir": Option("--chdir", "-D"),
}


class State(NamedTuple):
    """What Slurm says of one job or array element."""

    state: str
    reason: str
    restarts: int
    elapsed: str
    nodes: str
    comment: str = ""  # "facegan" for the files of slurm/
    directory: str = ""  # where it was submitted


@dataclass(frozen=True)
class Call:
    """One call of sbatch: everything is data, no shell reads any of it."""

    batch_file: Path
    options: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: dict[str, str]  # added to what the job inherits

    @property
    def command(self) -> list[str]:
        return ["sbatch", "--parsable", *self.options, str(self.batch_file), *self.arguments]

    def shown(self) -> str:
        """The call as a line to paste into a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]
        return " ".join([*settings, shlex.join(self.command)])

    def value(self, name: str) -> str:
        """What sbatch will take for the option `name` of OPTIONS; '' where it is not set."""
        option = OPTIONS[name]
        header = [word for line in _header(self.batch_file) for word in shlex.split(line)]
        flagged = last(self.options, option)
        if flagged is not None:
            return flagged
        inherited = {**os.environ, **self.environment}.get(option.variable) if option.variable else None
        return inherited or last(header, option) or ""


def batch_files() -> dict[str, Path]:
    """The jobs that can be submitted, by stem: the submit directory's own slurm/ first, else the package's."""
    found: dict[str, Path] = {}
    for folder in (*map(Path, slurm.__path__), Path.cwd() / "slurm"):
        found |= {path.stem: path for path in sorted(folder.glob("*.sh")) if _header(path)}
    return found


def summary(batch_file: Path) -> str:
    """What a batch file says it does: its first comment line after the interpreter's."""
    return batch_file.read_text().splitlines()[1].lstrip("# ")


def site_file() -> Path | None:
    """The cluster's settings, where the batch files look for them too."""
    path = Path(os.environ.get("FACEGAN_SITE") or Path.cwd() / "slurm/site.sh")
    return path.resolve() if path.is_file() else None


def site_settings() -> dict[str, str]:
    """What a job gets beside its arguments: the first part of site.sh (SBATCH_*), the Python that submits."""
    settings = {"FACEGAN_PYTHON": os.environ.get("FACEGAN_PYTHON", sys.executable)}
    path = site_file()
    if path is None:
        return settings
    read = ["bash", "-c", '. "$1" >/dev/null && env -0', "site", str(path)]
    outside = {k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}
    result = subprocess.run(read, env=outside, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SlurmError(f"{path} fails in bash: {result.stderr.strip()}")
    pairs = (entry.partition("=") for entry in result.stdout.split("\0"))
    settings |= {name: value for name, _, value in pairs if name.startswith("SBATCH_")}
    return {**settings, "FACEGAN_SITE": str(path)}


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment for sbatch, which Slurm copies into its controller's state: nothing secret, no other job."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SLURMD_")) or k in KEPT}
    return {k: v for k, v in inherited.items() if not SECRET.search(k)} | dict(extra)


def secrets() -> list[str]:
    """Names in this environment that a job does not get."""
    return sorted(name for name in os.environ if SECRET.search(name))


def sbatch(call: Call) -> str:
    """Submit; returns the job id. Raises SlurmError with Slurm's words."""
    return _run(call.command, environment(call.environment)).strip().split(";")[0]


def test_only(call: Call) -> None:
    """Let Slurm say whether the request could ever run; raises SlurmError if not."""
    _run(["sbatch", "--test-only", *call.command[2:]], environment(call.environment))


def queue() -> dict[str, State]:
    """This user's jobs and array elements that Slurm still remembers. Job names are data, so none is parsed."""
    wanted = ("JobArrayID", "State", "Reason", "RestartCnt", "TimeUsed", "NodeList", "Comment", "WorkDir")
    layout = ",".join(f"{name}:|" for name in wanted)
    text = _run(["squeue", "--noheader", "--array", "--me", "--states=all", "--Format", layout])
    rows = (line.split("|") for line in text.splitlines())
    return {row[0]: _state(*row[1:8]) for row in rows if len(row) == 9}


def _state(state: str, reason: str, restarts: str, *rest: str) -> State:
    return State(state, reason, int(restarts or 0), *rest)


def accounting(jobs: Iterable[str]) -> dict[str, State]:
    """What sacct says of the jobs; nothing where the cluster keeps no accounting."""
    wanted = sorted(set(jobs))
    if not wanted or shutil.which("sacct") is None:
        return {}
    fields = "JobID,State,ExitCode,Elapsed,NodeList"  # its Reason is what the job once waited for
    call = ["sacct", "-n", "-P", "-X", "-D", "-j", ",".join(wanted), "-o", fields]
    result = subprocess.run(call, env=environment({}), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return {}
    found: dict[str, State] = {}
    for job, state, code, elapsed, nodes in (line.split("|") for line in result.stdout.splitlines()):
        restarts = found[job].restarts + 1 if job in found else 0  # -D: one line a start, the last one counts
        reason = "" if code == "0:0" else f"exit code {code}"
        found[job] = State(state.split()[0], reason, restarts, elapsed, nodes)
    return found


def scancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or array elements; a training saves before it ends."""
    _run(["scancel", "--", *jobs])


def partitions() -> list[dict[str, str]]:
    """What sinfo says: one row a partition and kind of node; the default partition's name ends in `*`."""
    names = ("partition", "nodes", "cpus", "memory", "gres", "time", "up")
    text = _run(["sinfo", "--noheader", "-o", "%P|%D|%c|%m|%G|%l|%a"])
    return [dict(zip(names, line.split("|"), strict=True)) for line in text.splitlines()]


def _run(command: list[str], env: dict[str, str] | None = None) -> str:
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]} is not installed here: run this on a login node of the cluster")
    env = environment({}) if env is None else env
    result = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        raise SlurmError(f"{shlex.join(command)}\n  {_said(result.stderr)}")
    return result.stdout


def _said(text: str) -> str:
    return (
        re.sub(r"^\w+: (error: )?", "", text.strip(), flags=re.MULTILINE).replace("\n", "\n  ") or "no reason given"
    )


def _header(batch_file: Path) -> list[str]:
    lines = batch_file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]


def last(words: Sequence[str], option: Option) -> str | None:
    """The last value of an option in sbatch's own spellings: --long=v, --long v, -Sv, -S v."""
    value = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if word in (option.long, option.short):
            value = following
        elif word.startswith(f"{option.long}="):
            value = word.partition("=")[2]
        elif option.short and not word.startswith("--") and word.startswith(option.short):
            value = word[len(option.short) :]
    return value
