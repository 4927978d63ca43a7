"""A request to Slurm: the batch file, the options as sbatch reads them, the settings of the site."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import slurm
from facegan.errors import FaceganError

SECRET = re.compile(r"(^|_)(API_?KEY|KEY|TOKEN|JWT|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)


class Option(NamedTuple):
    """A request as sbatch reads it: from a flag, from the environment or from a file's #SBATCH lines."""

    long: str
    short: str = ""
    variable: str = ""


OPTIONS = {
    "name": Option("--job-name", "-J", "SBATCH_JOB_NAME"),
    "partition": Option("--partition", "-p", "SBATCH_PARTITION"),
    "nodes": Option("--nodes", "-N"),
    "gpus": Option("--gpus", "-G", "SBATCH_GPUS"),
    "gpus_per_node": Option("--gpus-per-node", "", "SBATCH_GPUS_PER_NODE"),
    "gpus_per_task": Option("--gpus-per-task", "", "SBATCH_GPUS_PER_TASK"),
    "gres": Option("--gres", "", "SBATCH_GRES"),
    "time": Option("--time", "-t", "SBATCH_TIMELIMIT"),
    "output": Option("--output", "-o", "SBATCH_OUTPUT"),
    "array": Option("--array", "-a", "SBATCH_ARRAY_INX"),
    "chdir": Option("--chdir", "-D"),
    "export": Option("--export", "", "SBATCH_EXPORT"),
    "mem": Option("--mem", "", "SBATCH_MEM_PER_NODE"),
}


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
        return self.variable(option.variable) or last(header, option) or ""

    def variable(self, name: str) -> str:
        """A variable as the job would inherit it; '' where it is not set."""
        return {**os.environ, **self.environment}.get(name, "")

    @property
    def is_bare(self) -> bool:
        """Whether the job inherits nothing of this environment (--export=NONE)."""
        return self.value("export") in ("NONE", "NIL")


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


def batch_files() -> dict[str, Path]:
    """The jobs that can be submitted, by stem: the submit directory's own slurm/ first, else the package's."""
    files: dict[str, Path] = {}
    for folder in (*map(Path, slurm.__path__), Path.cwd() / "slurm"):
        files |= {path.stem: path for path in sorted(folder.glob("*.sh")) if _header(path)}
    return files


def summary(batch_file: Path) -> str:
    """What a batch file says it does: its first comment line after the interpreter's."""
    return batch_file.read_text().splitlines()[1].lstrip("# ")


def site_file() -> Path | None:
    """The cluster's settings, where the batch files look for them too."""
    path = Path(os.environ.get("FACEGAN_SITE") or Path.cwd() / "slurm/site.sh")
    return path.resolve() if path.is_file() else None


def site_settings() -> dict[str, str]:
    """What a job gets beside its arguments: SBATCH_* and FACEGAN_* of site.sh's first part, this Python."""
    settings = {"FACEGAN_PYTHON": os.environ.get("FACEGAN_PYTHON", sys.executable)}
    path = site_file()
    if path is None:
        return settings
    outside = {k: v for k, v in os.environ.items() if k != "SLURM_JOB_ID"}
    read = ["bash", "-c", '. "$1" >/dev/null; env -0', "site", str(path)]
    try:
        result = subprocess.run(read, env=outside, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise FaceganError(
            f"{path} does not end in bash within a minute; what it waits for belongs into a job"
        ) from None
    if result.returncode != 0:
        raise FaceganError(f"{path} fails in bash: {result.stderr.strip()}")
    pairs = (entry.partition("=") for entry in result.stdout.split("\0"))
    chosen = {
        name: value
        for name, _, value in pairs
        if name.startswith(("SBATCH_", "FACEGAN_")) and value != outside.get(name) and not SECRET.search(name)
    }
    return {**settings, **chosen, "FACEGAN_SITE": str(path)}


def _header(batch_file: Path) -> list[str]:
    lines = batch_file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
