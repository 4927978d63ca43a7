"""`facegan doctor --init-slurm`: asks Slurm and writes slurm/site.sh, the settings of this cluster."""

import getpass
import os
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

import click

from facegan.errors import FaceganError
from facegan.files import write_text
from jobs.slurm import calls

GPU_STAGES, CPU_STAGES = ("TRAIN", "EVALUATE"), ("PREPROCESS", "INDEX", "REPORT")
SITE = """\
# shellcheck shell=bash
# The settings of this cluster, asked from Slurm by `facegan doctor --init-slurm` on {today}. Edit at will.

# Part 1, for sbatch. `facegan submit` reads it by itself; for your own sbatch calls: . slurm/site.sh
# Unset variables and commands that fail are no error here.
{submission}
{data}
if [ -z "${{SLURM_JOB_ID:-}}" ]; then return 0; fi

# Part 2, inside a job: modules, environment, scratch.
{modules}
export FACEGAN_PYTHON={python}
# Options of srun itself, for pyxis or the site: export FACEGAN_SRUN="--container-image=facegan.sqsh"
# In a container: export FACEGAN_PREFIX="apptainer exec --nv /path/facegan.sif" FACEGAN_PYTHON=python
{scratch}
# W&B on nodes without internet: export WANDB_MODE=offline, then `wandb sync RUN/wandb/offline-*` on a login node.
# Its key belongs into ~/.netrc (wandb login), not into the environment of a job: Slurm writes that to its disk.
"""


def init_slurm(path: Path = Path("slurm/site.sh")) -> None:
    """Write `path`; raises FaceganError where it exists, SlurmError where Slurm does not answer."""
    if path.exists():
        raise FaceganError(f"{path} exists and is kept; edit it, or remove it first to have it written anew")
    text = SITE.format(
        today=date.today().isoformat(),
        submission=submission(accounts(), calls.partitions()),
        modules=modules(os.environ.get("LOADEDMODULES", "")),
        python=shlex.quote(sys.executable),
        data=data(),
        scratch='# Shards on a node-local disk: export FACEGAN_STAGE="${TMPDIR:-/tmp}"',
    )
    write_text(path, text)
    click.echo(f"Wrote {path}; look through it, then: facegan submit check")


def submission(known_accounts: list[str], partitions: list[dict[str, str]]) -> str:
    """Account and partitions for sbatch: the first account; of partitions the default one first.

    Stages that train or measure get one with GPUs, the others one without, where there are both.
    """
    lines = ["# Slurm keeps no accounts for you: none is needed."]
    if known_accounts:
        lines = [f"export SBATCH_ACCOUNT={shlex.quote(known_accounts[0])}", *_comments("also", known_accounts[1:])]
    up = sorted(partitions, key=lambda row: (row["up"] != "up", "*" not in row["partition"]))
    with_gpus = [row["partition"].rstrip("*") for row in up if "gpu" in row["gres"]]
    without = [row["partition"].rstrip("*") for row in up if "gpu" not in row["gres"]]
    if up:
        lines.append(f"export SBATCH_PARTITION={shlex.quote((with_gpus or without)[0])}")
        lines.append(
            "# sbatch options by stage, which `facegan submit` and its pipeline add; yours go before them."
        )
        for stages, names in ((GPU_STAGES, with_gpus or without), (CPU_STAGES, without or with_gpus)):
            options = shlex.quote(f"--partition={names[0]}")
            lines += [f"export FACEGAN_SBATCH_{stage}={options}" for stage in stages]
    shown = "{partition}: {nodes} nodes, {cpus} CPUs, {memory} MB, {gres}, at most {time}"
    return "\n".join([*lines, *_comments("sinfo", [shown.format_map(row) for row in up])])


def accounts() -> list[str]:
    """The accounts this user may charge; empty where the cluster keeps none."""
    call = ["sacctmgr", "-nP", "show", "associations", f"user={getpass.getuser()}", "format=Account"]
    try:
        answer = subprocess.run(call, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return list(dict.fromkeys(answer.stdout.split())) if answer.returncode == 0 else []


def modules(loaded: str) -> str:
    """The modules that are loaded in this shell."""
    names = [name for name in loaded.split(":") if name]
    return (
        f"module load {shlex.join(names)}" if names else "# module load cuda   (no module is loaded in this shell)"
    )


def data() -> str:
    """Where large files belong, if the site says so by a variable."""
    where = next((name for name in ("SCRATCH", "WORK", "PSCRATCH") if os.environ.get(name)), None)
    if where is None:
        return "# Data elsewhere than in data/shards: export FACEGAN_DATA=${FACEGAN_DATA:-/path/shards}"
    return f"# Data and runs belong below ${where}: export FACEGAN_DATA=${{FACEGAN_DATA:-${where}/shards}}"


def _comments(title: str, values: list[str]) -> list[str]:
    return [f"# {title}: {value}" for value in values]
