"""What a batch file does around its command: record what runs, and read from the outcome what comes next.

python -m jobs.slurm.job begin [RUN_DIR] -- ARGUMENTS
python -m jobs.slurm.job end RUN_DIR --code CODE --signal SIGNAL      prints finished, requeue, stopped or failed
"""

import argparse
import hashlib
import io
import os
import platform
import re
import signal
import sys
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from facegan.errors import FaceganError
from facegan.files import append_json_line, json_lines, read_object, whole_file, write_json
from facegan.owner import Owner
from facegan.run import checkout
from facegan.run.outcome import FILE, identity, read_outcome
from jobs.slurm.calls import SECRET
from jobs.slurm.records import Record, load, save

RECORDED = ("SLURM_", "FACEGAN_", "CUDA_", "NCCL_", "GLOO_", "OMP_", "TORCH_", "PYTORCH_", "MASTER_", "WANDB_")
VERSIONS = ("torch", "accelerate", "numpy", "webdataset", "wandb", "safetensors")
ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", re.DOTALL)
CONSEQUENCE = re.compile(r"by peer|[Cc]onnection (refused|closed)|NCCL|Broken pipe|SIGTERM|[Tt]imed out")


def begin(run_dir: Path | None, arguments: list[str]) -> None:
    """Note the job in the submit directory and, in the run folder, exactly what it runs.

    Raises FaceganError, and writes nothing, where the run folder belongs to another live job.
    """
    if run_dir is not None:
        owner_of(run_dir).refuse_beside_live()
    job, log = job_id(), own_log()
    submitted = load(job) or load(job.partition("_")[0]) or Record(job, name=arguments[0], submitted=now())
    folder = str(run_dir or submitted.run_dir)
    save(replace(submitted, job=job, run_dir=folder, log=log, arguments=tuple(arguments)))
    if run_dir is None:
        return
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    start = logs / f"job-{job}-{restarts()}.json"
    what = {"job": job, "log": log, "sbatch": submitted.options, "arguments": arguments}
    write_json(start, {**what, **provenance(), "code": snapshot_code(logs)})
    write_json(attempt_path(run_dir), {"restarts": restarts(), "before": read_outcome(run_dir), **sizes(logs)})


def end(run_dir: Path, code: int, asked: str) -> str:
    """What follows, from outcome.json alone: `finished`, `requeue`, `stopped` or `failed`.

    `asked` is the signal Slurm sent, if any: a run that a person stopped does not come back. An outcome of another
    job or an earlier attempt does not count unless the run was finished then. Where the ranks left none, or only
    rank 0's view of another's death, the cause is gathered from the logs into outcome.json.
    """
    attempt = read_object(attempt_path(run_dir))
    left = read_outcome(run_dir)
    if not is_ours(left) and left.get("state") != "finished":
        left = {}
    state = left.get("state", "failed")
    if state == "failed":
        reason = left.get("reason", "")
        why = (
            cause(run_dir / "logs", attempt.get("sizes", {}), code)
            if not reason or CONSEQUENCE.search(reason)
            else ""
        )
        fail(run_dir, why or reason, left)
    if state == "stopped" and asked:
        return next_attempt(run_dir, int(left.get("nimg", 0)))
    return str(state)


def next_attempt(run_dir: Path, nimg: int) -> str:
    """`requeue`, unless this job stood at the same image when it was requeued the last time."""
    history = run_dir / "logs/requeues.jsonl"
    earlier = [entry["nimg"] for entry in json_lines(history) if entry["job"] == job_id()]
    if earlier and nimg <= earlier[-1]:
        reason = (
            f"no progress between two requeues of job {job_id()}: {nimg} images at both; a longer --time, "
            "or an earlier signal (--signal=B:USR1@SECONDS), is needed"
        )
        fail(run_dir, reason, read_outcome(run_dir))
        return "failed"
    append_json_line(history, {"job": job_id(), "nimg": nimg, "time": now()})
    return "requeue"


def fail(run_dir: Path, reason: str, known: dict[str, Any]) -> None:
    """Leave the verdict in outcome.json; in this job's log alone where another job has had the folder since."""
    print(f"error: {reason}", file=sys.stderr)
    there = read_outcome(run_dir)
    try:
        owner_of(run_dir).refuse_beside_live()
    except FaceganError as error:
        print(f"error: {error}", file=sys.stderr)
        return
    if is_ours(there) or there in ({}, read_object(attempt_path(run_dir)).get("before")):
        write_json(run_dir / FILE, {"nimg": 0, **known, "state": "failed", "reason": reason, **identity()})


def owner_of(run_dir: Path) -> Owner:
    return Owner(run_dir / "owner.json", "give another --run-dir")


def attempt_path(run_dir: Path) -> Path:
    return run_dir / "logs" / f"attempt-{job_id()}.json"


def is_ours(outcome: dict[str, Any]) -> bool:
    """Whether this start of this job left the outcome."""
    return identity().items() <= outcome.items()


def cause(logs: Path, sizes_before: dict[str, int], code: int) -> str:
    """Which rank died first, and its last words.

    Each launcher names one of its own; a single rank has none, so srun's exit code tells. A rank that only lost its
    connection, or was ended for another's sake, is the cause if nothing else is.
    """
    said = {path.name: tail(path, sizes_before.get(path.name, 0)) for path in sorted(logs.glob("*.log"))}
    found = [d for name, text in said.items() if name.startswith("node-") for d in deaths(text)]
    told = [(rank, status, last_words(said.get(f"rank-{rank}.log", ""))) for rank, status in found]
    told.sort(key=lambda death: (bool(CONSEQUENCE.search(death[2])), death[1] == -signal.SIGTERM, death[1] > 0))
    if not told and (logs / "rank-1.log").exists():
        return f"the ranks ended without an outcome, srun's exit code {code} (see {logs})"
    alone = (0, code if code <= 128 else 128 - code, last_words(said.get("rank-0.log", "")))
    rank, status, words = told[0] if told else alone
    spoken = f": {words}" if words and status > 0 else ""
    return f"rank {rank} {died(status)}{spoken} (see {logs}/rank-{rank}.log)"


def deaths(text: str) -> list[tuple[int, int]]:
    """(rank, exit code or minus the signal) of the first failure a launcher saw, as torchrun tells it."""
    return [(int(rank), int(status)) for rank, status in ROOT_CAUSE.findall(text)[-1:]]


def died(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"


def last_words(text: str) -> str:
    """The last line that says something; torch's own prefix and a Python's farewell do not."""
    lines = [re.sub(r"^\[rank\d+\]:", "", line).strip() for line in text.splitlines()]
    return next((line[:300] for line in reversed(lines) if line and not line.startswith("terminate called")), "")


def tail(path: Path, start: int, most: int = 200_000) -> str:
    """What this attempt added to a log, at most its last `most` bytes."""
    with path.open("rb") as file:
        file.seek(max(start, path.stat().st_size - most))
        return file.read().decode("utf-8", errors="replace")


def sizes(logs: Path) -> dict[str, dict[str, int]]:
    return {"sizes": {path.name: path.stat().st_size for path in logs.glob("*.log")}}


def provenance() -> dict[str, Any]:
    """Commit, host, versions and settings; nothing whose name says that it is secret."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(RECORDED) and not SECRET.search(k)}
    return {
        "time": now(),
        "restarts": restarts(),
        "host": platform.node(),
        "directory": str(Path.cwd()),
        "git": checkout.describe(),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in VERSIONS},
        "environment": dict(sorted(kept.items())),
    }


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def snapshot_code(logs: Path) -> str:
    """Keep the packages' sources in `logs`, once for each state they are in; returns the archive's name."""
    root = Path(__file__).resolve().parent.parent.parent
    files = [
        path
        for name in checkout.CODE
        for path in sorted((root / name).rglob("*"))
        if path.suffix in (".py", ".sh", ".html")
    ]
    contents = [(str(path.relative_to(root)), path.read_bytes()) for path in files if path.name != "site.sh"]
    digest = hashlib.sha256()
    for name, content in contents:
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    archive = logs / f"code-{digest.hexdigest()[:12]}.tar.gz"
    if not archive.exists():
        with whole_file(archive) as part, tarfile.open(part, "w:gz") as tar:
            for name, content in contents:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return archive.name


def job_id() -> str:
    """This job's id, or ARRAY_ELEMENT: the name Slurm and `scontrol requeue` have for exactly this one."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def own_log() -> str:
    """The file this job's output goes to, as Slurm opened it."""
    target = Path("/proc/self/fd/1").readlink()
    return str(target) if target.is_absolute() else ""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jobs.slurm.job", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    first = steps.add_parser("begin")
    first.add_argument("--run-dir", type=Path)
    first.add_argument("arguments", nargs=argparse.REMAINDER)
    last = steps.add_parser("end")
    last.add_argument("run_dir", type=Path)
    last.add_argument("--code", type=int, required=True)
    last.add_argument("--signal", default="")
    given = parser.parse_args()
    if given.step == "begin":
        try:
            begin(given.run_dir, given.arguments[1:])
        except FaceganError as error:
            sys.exit(f"error: {error}")
    else:
        print(end(given.run_dir, given.code, given.signal))


if __name__ == "__main__":
    main()
