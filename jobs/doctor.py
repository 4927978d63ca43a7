"""`facegan doctor`: what is missing on this machine, one fix a line."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import click

from facegan.cores import usable_cores
from jobs import table
from shards.errors import ShardError

SLURM_SECONDS = 4.0  # that Slurm may take to answer here
LOW_DISK_GB, FULL_DISK_GB = 20.0, 2.0
ALL_REDUCE_MB = 64


class Check(NamedTuple):
    """One line: state is ok, note (works, but worth knowing) or fail; `fix` says what to type."""

    name: str
    state: str
    found: str
    fix: str = ""


@click.command()
@click.option("--data", type=click.Path(path_type=Path), envvar="FACEGAN_DATA", help="Set of shards to look at.")
@click.option(
    "--run-dir", type=click.Path(path_type=Path), default=Path("runs"), help="Where runs will be written."
)
@click.option("--all-reduce", is_flag=True, help="Under a launcher: let all ranks add numbers up, and measure it.")
@click.option("--init-slurm", is_flag=True, help="Ask Slurm and write slurm/site.sh.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@click.pass_context
def command(
    ctx: click.Context, data: Path | None, run_dir: Path, all_reduce: bool, init_slurm: bool, as_json: bool
) -> None:
    """Say what is missing on this machine, one fix a line. Exits 1 if anything fails.

    \b
    Examples:
      facegan doctor
      facegan doctor --data data/shards --run-dir /scratch/runs
      facegan doctor --json
      accelerate launch -m jobs doctor --all-reduce
      facegan doctor --init-slurm
    """
    if init_slurm:
        from jobs.slurm.site import init_slurm as write_site

        write_site()
        return
    checks = run_checks(data, run_dir, all_reduce)
    if as_json and _rank() == 0:
        click.echo(json.dumps([check._asdict() for check in checks], indent=2))
    elif not as_json:
        _show(checks)
    ctx.exit(any(check.state == "fail" for check in checks))


def run_checks(data: Path | None, run_dir: Path, all_reduce: bool) -> list[Check]:
    """Every check in the order a newcomer would mend things."""
    checks: list[Callable[[], Check]] = [
        check_python,
        check_packages,
        check_torch,
        check_gpus,
        check_nccl,
        check_precision,
        lambda: check_disk(run_dir),
        lambda: check_data(data),
        check_wandb,
        check_slurm,
    ]
    return [check() for check in checks] + ([check_all_reduce()] if all_reduce else [])


def check_python() -> Check:
    """The versions of `python_requires` are tested ones."""
    version = f"{platform.python_version()} ({sys.executable})"
    if (3, 11) <= sys.version_info[:2] <= (3, 14):
        return Check("Python", "ok", version)
    return Check(
        "Python", "fail", version, "use Python 3.11 to 3.14: rm -r .venv; PYTHON=python3.13 ./scripts/demo"
    )


def check_packages() -> Check:
    """What setup.cfg declares is installed, in versions it allows."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    wrong = []
    try:
        declared = [Requirement(line) for line in requires("facegan") or []]
    except PackageNotFoundError:
        return Check("packages", "note", "facegan is run from its folder, not installed", "pip install -e .")
    for requirement in (r for r in declared if r.marker is None):
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                wrong.append(f"{requirement.name} {version(requirement.name)} is not {requirement.specifier}")
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
    if wrong:
        return Check("packages", "fail", "; ".join(wrong), "pip install -c constraints.txt -e .")
    return Check("packages", "ok", f"{len(declared)} declared, all there")


def check_torch() -> Check:
    """PyTorch's build against the driver: a GPU that PyTorch cannot use is a failure."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    driver = nvidia_smi("driver_version")
    versions = f"{torch.__version__}, {build} build" + (f", driver {driver[0]}" if driver else "")
    if not driver or torch.cuda.is_available():
        return Check("PyTorch", "ok", versions)
    if torch.version.cuda is None:
        fix = "an NVIDIA GPU is here: pip install --force-reinstall -c constraints.txt torch"
    else:
        fix = f"the driver is too old for CUDA {torch.version.cuda}: update it, or take pytorch.org's build for it"
    return Check("PyTorch", "fail", versions, fix)


def check_gpus() -> Check:
    """A machine without a GPU trains on its CPU: a note."""
    import torch

    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if names:
        return Check("GPUs", "ok", ", ".join(f"{gpu.name} {gpu.total_memory / 2**30:.0f} GiB" for gpu in names))
    instead = f"none; training runs on {usable_cores()} CPU cores"
    return Check("GPUs", "note", instead, "use --kimg to keep CPU runs short")


def check_nccl() -> Check:
    """What ranks talk through: NCCL between GPUs, gloo between CPUs."""
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available():
        state = "ok" if dist.is_gloo_available() else "fail"
        return Check("ranks", state, "gloo (CPU)", "" if state == "ok" else "install PyTorch from pytorch.org")
    if dist.is_nccl_available():
        version = ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
        return Check("ranks", "ok", f"NCCL {version}")
    return Check("ranks", "fail", "this PyTorch has no NCCL", "install PyTorch's CUDA build from pytorch.org")


def check_precision() -> Check:
    """What `--precision auto` will take."""
    import torch

    from facegan.run.machine import resolve_precision

    precision = resolve_precision("auto", torch.cuda.is_available())
    if precision == "bf16":
        return Check("precision", "ok", "bf16, which is fast here")
    return Check("precision", "note", precision, "nothing to do: bf16 is slow here, --precision auto leaves it")


def check_disk(run_dir: Path) -> Check:
    """Free space where runs are written: a checkpoint of the largest recipe is about 0.3 GB."""
    folder = next(p for p in [run_dir.absolute(), *run_dir.absolute().parents] if p.exists())
    free = shutil.disk_usage(folder).free / 1e9
    state = "fail" if free < FULL_DISK_GB else "note" if free < LOW_DISK_GB else "ok"
    if not os.access(folder, os.W_OK):
        return Check("disk", "fail", f"{folder} is not writable", "choose another folder: --run-dir DIR")
    fix = "" if state == "ok" else "free some space, or choose another disk: --run-dir DIR"
    return Check("disk", state, f"{free:,.0f} GB free in {folder}", fix)


def check_data(data: Path | None) -> Check:
    """The set opens and has samples."""
    make = "make a set: facegan preprocess SRC data/shards --size 64 --crop 150"
    if data is None:
        return Check("data", "note", "not looked at", "name a set: facegan doctor --data data/shards")
    from shards import open_set

    try:
        index = open_set(data).index
    except (ShardError, OSError) as error:
        return Check("data", "fail", str(error), make)
    counts = ", ".join(f"{split.samples:,} {name}" for name, split in index.splits.items())
    return Check("data", "ok", f"{data}: {index.height}x{index.width}, {counts}")


def check_wandb() -> Check:
    """The mode that `--wandb auto` resolves to; the key itself is never shown."""
    from facegan.run.wandb_run import resolve_mode

    mode = resolve_mode("auto")
    fix = "online: wandb login; later: wandb sync RUN/wandb/offline-*; never: --wandb off"
    return Check("W&B", "ok" if mode == "online" else "note", mode, "" if mode == "online" else fix)


def check_slurm() -> Check:
    """Whether jobs can be submitted from here."""
    if shutil.which("sbatch") is None:
        return Check("Slurm", "note", "no sbatch here", "train here, or log in to your cluster's login node")
    from jobs.slurm import calls, preemption

    try:
        names = dict.fromkeys(row["partition"] for row in calls.partitions(SLURM_SECONDS))
        site = preemption.describe(SLURM_SECONDS)
    except calls.SlurmError as error:
        return Check("Slurm", "note", " ".join(str(error).split()), "ask your administrators, or set SLURM_CONF")
    return Check("Slurm", "ok", f"partitions: {' '.join(names)}", site)


def check_all_reduce() -> Check:
    """Every rank adds its number; the sum and the speed of a 64 MiB message."""
    import time

    import torch

    from facegan.run.machine import start
    from facegan.run.settings import RunSettings

    machine = start(RunSettings())
    mean = machine.average([torch.tensor([float(machine.rank)], device=machine.device)])[0].item()
    payload = [torch.zeros(ALL_REDUCE_MB * 2**18, device=machine.device)]
    machine.wait()
    begin = time.monotonic()
    machine.average(payload)
    machine.wait()
    speed = ALL_REDUCE_MB / 1024 / (time.monotonic() - begin)
    result = f"{machine.world} ranks, {machine.device.type}: {ALL_REDUCE_MB} MiB at {speed:.2f} GiB/s"
    if mean == (machine.world - 1) / 2:
        return Check("all-reduce", "ok", result)
    return Check(
        "all-reduce", "fail", f"{result}, mean rank {mean}", "wrong sums: try NCCL_P2P_DISABLE=1, tell the admins"
    )


def nvidia_smi(field: str) -> list[str]:
    """One value a GPU as the driver reports it; empty where there is no driver or no GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    call = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    answer = subprocess.run(call, capture_output=True, text=True, timeout=30)
    return answer.stdout.split("\n")[:-1] if answer.returncode == 0 else []


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _show(checks: list[Check]) -> None:
    """Rank 0 prints everything, the others what fails there."""
    if _rank() == 0:
        click.echo(table.align([(c.name, c.state, c.found) for c in checks]))
    place = f"[rank {_rank()} on {socket.gethostname()}] " if "RANK" in os.environ else ""
    for check in checks:
        if check.state == "fail" or (check.fix and _rank() == 0):
            click.echo(f"{place}{check.name}: {check.fix}")
