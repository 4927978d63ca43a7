"""Every batch file on a real Slurm: what a cluster does to a job, and what the job makes of it.

The cases share one cluster and overlap: each runs in a thread of its own from the start, its test waits for it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from file_server import serving
from PIL import Image
from slurm_cluster import Cluster, missing, wait_for

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
LIVE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"}
SMALL = shlex.split(
    "--ngf 4 --ndf 4 --latent-dim 8 --batch-size 16 --threads 1 --wandb off --log-kimg 0.02 --sample-kimg 0"
    " --snapshot-kimg 0 --checkpoint-minutes 0 --checkpoint-kimg 0.2"
)
LONG = [*SMALL, "--kimg", "1000"]  # ended by the test
LIMITED = ("--time=30", "--signal=B:USR1@110")
VARIABLES = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "FACEGAN_PYTHON": sys.executable}
PREPROCESS = ["--size", "64", "--size", "128", "--shard-size", "8", "--holdout", "8"]
AT_ONCE = 7  # cases: trainings that wait for their end compute too
PROFILES = {
    **dict.fromkeys(
        ("FACEGAN_SBATCH_PREPROCESS", "FACEGAN_SBATCH_INDEX", "FACEGAN_SBATCH_REPORT"), "--cpus-per-task=1"
    ),
    **dict.fromkeys(("FACEGAN_SBATCH_TRAIN", "FACEGAN_SBATCH_EVALUATE"), "--cpus-per-gpu=1"),
}


def light(job: str) -> list[str]:
    """Options that let a job share a node with another."""
    return ["--mem-per-cpu=1G", f"--cpus-per-{'task' if job in ('facegan', 'preprocess') else 'gpu'}=1"]


class Site:
    """A user's directory on the cluster's shared disk: pictures, shards, runs and logs."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.jobs = cluster, folder, list[str]()
        cluster.env |= VARIABLES

    def call(self, *command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**self.cluster.env, **extra},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def facegan(self, *arguments: str, **extra: str) -> str:
        result = self.call(sys.executable, "-m", "jobs", *arguments, **extra)
        assert result.returncode == 0, f"{arguments}: {result.stderr}"
        return result.stdout

    def refused(self, *arguments: str, **extra: str) -> str:
        result = self.call(sys.executable, "-m", "jobs", *arguments, **extra)
        assert result.returncode != 0, f"{arguments} was not refused: {result.stdout}"
        return result.stderr

    def submit(self, job: str, *arguments: str, **extra: str) -> str:
        said = self.facegan("submit", job, *light(job), *arguments, **extra)
        found = re.search(r"as job (\d+)", said)
        assert found, said
        self.jobs.append(found.group(1))
        return found.group(1)

    def sbatch(self, *arguments: str, **extra: str) -> str:
        result = self.call("sbatch", "--parsable", *arguments, **extra)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def end(self, job: str, seconds: float = 500) -> str:
        """The job's last state, when it has one."""
        wait_for(lambda: self.cluster.state(job) not in LIVE, seconds, f"job {job} ends\n{self.tail(job)}")
        return self.cluster.state(job)

    def log(self, job: str) -> str:
        files = [path for path in self.folder.iterdir() if re.search(rf"-{job}(_\d+)?\.out$", path.name, re.DOTALL)]
        return "".join(path.read_text(errors="replace") for path in sorted(files))

    def tail(self, job: str) -> str:
        return self.log(job)[-2000:]

    def json(self, name: str) -> dict[str, object]:
        value: dict[str, object] = json.loads((self.folder / name).read_text())
        return value

    def starts(self, run: str) -> list[int]:
        """The image at which each start of a run began."""
        path = self.folder / run / "starts.jsonl"
        return [json.loads(line)["nimg"] for line in path.read_text().splitlines()] if path.exists() else []

    def trains(self, run: str, starts: int = 1) -> None:
        """Return when the run is training for the `starts`-th time and has written numbers since."""
        stats = self.folder / run / "stats.jsonl"
        wait_for(lambda: len(self.starts(run)) >= starts, 500, f"{run} starts {starts} times")
        size = stats.stat().st_size if stats.exists() else 0
        wait_for(lambda: stats.exists() and stats.stat().st_size > size, 300, f"{run} trains")

    def restarts(self, job: str) -> int:
        lines = self.call("squeue", "-h", "-r", "-t", "all", "-O", "JobArrayID:|,RestartCnt:|").stdout.splitlines()
        return int(dict(line.split("|")[:2] for line in lines)[job])

    def near_its_limit(self, job: str) -> None:
        """Give a running job two minutes more; submit it `LIMITED`, and Slurm warns it at its next look."""
        done = self.call("scontrol", "update", f"jobid={job}", "EndTime=now+120")
        assert done.returncode == 0, done.stderr

    def status(self, what: str) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = json.loads(self.facegan("status", "--json", what))
        return rows


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    reason = missing()
    if reason:
        pytest.skip(f"no Slurm to test on: {reason}")
    folder = tmp_path_factory.mktemp("site")
    draw_pictures(folder / "pictures", 40)
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="facegan-slurm-")))  # short, for its socket
    done = threading.Event()
    try:
        cluster.start()
        threading.Thread(target=hurry, args=(cluster, done), daemon=True).start()
        site = Site(cluster, folder)
        site.facegan("preprocess", "pictures", "data/shards", *PREPROCESS)
        yield site
    finally:
        done.set()
        cluster.stop()
        shutil.rmtree(cluster.root)


def draw_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (9, 7, 3), dtype=np.uint8))
        coarse.resize((178, 218)).save(folder / f"{i:06d}.jpg", quality=90)
    with zipfile.ZipFile(folder.parent / "pictures.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)


def hurry(cluster: Cluster, done: threading.Event) -> None:
    """Slurm lets a requeued job wait two minutes; here a few seconds do (at once, it cannot start again)."""
    seen: set[str] = set()
    while not done.wait(3):
        lines = cluster.call("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r").stdout.splitlines()
        waiting = {line.split()[0] for line in lines if line.endswith(" BeginTime")}
        for job in waiting & seen:
            cluster.call("scontrol", "update", f"jobid={job}", "StartTime=now")
        seen = waiting


def overlapping(case: Callable[[Site], None]) -> Callable[[dict[str, Future[None]]], None]:
    """A test that runs beside the others: they spend their time waiting for Slurm."""

    def test(running: dict[str, Future[None]]) -> None:
        running[case.__name__].result()

    test.__name__, test.__doc__, test.case = case.__name__, case.__doc__, case  # type: ignore[attr-defined]
    return test


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest, site: Site) -> Iterator[dict[str, Future[None]]]:
    cases = {item.name: item.function.case for item in request.session.items if hasattr(item.function, "case")}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(ended, case, site) for name, case in cases.items()}


def ended(case: Callable[[Site], None], site: Site) -> None:
    """Run a case; its jobs end with it, also where it failed: they would train on beside the others."""
    own = Site(site.cluster, site.folder)
    try:
        case(own)
    finally:
        own.call("scancel", "--quiet", *own.jobs)


def tensors(run: Path) -> dict[str, bytes]:
    """Every tensor file of the newest checkpoint and snapshot of a run, byte for byte."""
    newest = [max((run / kind).glob("nimg-*")) for kind in ("checkpoints", "snapshots")]
    return {
        f"{folder.name}/{path.name}": path.read_bytes()
        for folder in newest
        for path in folder.glob("*.safetensors")
    }


@overlapping
def test_an_interrupted_two_node_training_ends_with_the_weights_of_an_uninterrupted_one(site: Site) -> None:
    two_nodes = ["--nodes=2", "--gpus-per-node=1", "--nice=-100", "--"]
    pieces = site.submit("train_64", *two_nodes, "--run-dir", "runs/pieces", *SMALL, "--kimg", "3")
    whole = site.submit("train_64", *two_nodes, "--run-dir", "runs/whole", *SMALL, "--kimg", "3")
    site.trains("runs/pieces")
    site.call("scancel", "--batch", "--signal=USR1", pieces)
    assert [site.end(job) for job in (pieces, whole)] == ["COMPLETED", "COMPLETED"]
    assert [site.restarts(job) for job in (pieces, whole)] == [1, 0]
    starts = site.starts("runs/pieces")
    assert starts[0] == 0 < starts[1] < 3000
    assert len(starts) == 2
    assert site.json("runs/pieces/outcome.json")["state"] == "finished"
    whole_weights = tensors(site.folder / "runs/whole")
    assert whole_weights
    assert tensors(site.folder / "runs/pieces") == whole_weights
    assert "rank 1 on n2" in (site.folder / "runs/whole/logs/rank-1.log").read_text()


@overlapping
def test_a_time_limit_saves_and_requeues_the_job(site: Site) -> None:
    job = site.submit("train_64", *LIMITED, "--", "--run-dir", "runs/limit", *LONG)
    site.trains("runs/limit")
    deaths = site.folder / "runs/limit/logs/deaths.jsonl"
    deaths.write_text(2 * (json.dumps({"rank": 0, "node": "n1"}) + "\n"))  # as if ranks had died there before
    site.near_its_limit(job)
    wait_for(lambda: site.restarts(job) == 1, 500, "the time limit is noticed")
    show = ("scontrol", "show", "job", job)
    wait_for(lambda: "ExcNodeList=n1" in site.call(*show).stdout, 60, "the node is left out")
    site.call("scontrol", "update", f"jobid={job}", "TimeLimit=20")
    site.trains("runs/limit", starts=2)
    assert site.starts("runs/limit")[1] > 0
    site.facegan("cancel", job)
    assert site.end(job) == "CANCELLED"


def preempt(site: Site, node: str) -> None:
    """Take a node for a second."""
    command = [
        "--partition=high",
        f"--nodelist={node}",
        "--cpus-per-task=4",
        "--wrap=sleep 1",
        "--output=/dev/null",
    ]
    assert site.end(site.sbatch(*command)) == "COMPLETED"


def goes_on(site: Site, job: str, run: str) -> None:
    """The same job trains for the second time, from where it was; what waits for it waits on. Ends it."""
    site.trains(run, starts=2)
    assert site.restarts(job) == 1
    assert len(site.starts(run)) == 2
    assert len(site.status(run)) == 1  # and no other job in its place
    assert site.starts(run)[1] > 0
    site.facegan("cancel", job)
    assert site.end(job) == "CANCELLED"


@overlapping
def test_ranks_that_alone_hear_of_a_preemption_save_and_the_job_requeues_itself_whatever_its_names_hold(
    site: Site,
) -> None:
    name = "x/y $(touch pwned) `touch pwned` \"q\" 's'\n; touch pwned"
    run = "runs/a b $(touch pwned) \"q\" 's';\n%j"
    job = site.submit("train_64", "--partition=grace", f"--job-name={name}", "--", "--run-dir", run, *LONG)
    behind = site.submit("facegan", f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--", "recipes")
    site.trains(run)
    preempt(site, "n3")
    site.trains(run, starts=2)
    assert site.cluster.state(behind) == "PENDING"
    assert f"job {job}" in site.facegan("logs", job, "-n", "400")
    assert site.status(run)[0]["job"] == job
    goes_on(site, job, run)
    assert not list(site.folder.rglob("pwned"))


@overlapping
def test_a_preemption_without_grace_is_requeued_by_slurm_and_goes_on_in_the_same_wandb_run(site: Site) -> None:
    long = [*LONG, "--wandb", "offline"]
    job = site.submit("train_64", "--partition=abrupt", "--", "--run-dir", "runs/abrupt", *long)
    site.trains("runs/abrupt")
    preempt(site, "n4")
    goes_on(site, job, "runs/abrupt")
    pieces = [path.name for path in (site.folder / "runs/abrupt/wandb").glob("offline-run-*")]
    assert len({piece.rpartition("-")[2] for piece in pieces}) == 1
    assert "Traceback" not in (site.folder / "runs/abrupt/logs/rank-0.log").read_text()


@overlapping
def test_where_slurm_would_cancel_a_preempted_job_it_requeues_itself_in_its_grace_time(site: Site) -> None:
    job = site.submit("train_64", "--partition=cancel", "--", "--run-dir", "runs/cancel", *LONG)
    site.trains("runs/cancel")
    preempt(site, "n6")
    goes_on(site, job, "runs/cancel")


@overlapping
def test_where_slurm_would_cancel_a_preempted_job_at_once_it_requeues_itself_while_it_saves(site: Site) -> None:
    job = site.submit("train_64", "--partition=cancelnow", "--", "--run-dir", "runs/cancelnow", *LONG)
    behind = site.submit("facegan", f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--", "recipes")
    site.trains("runs/cancelnow")
    preempt(site, "n7")
    site.trains("runs/cancelnow", starts=2)
    assert site.cluster.state(behind) == "PENDING"
    goes_on(site, job, "runs/cancelnow")


@overlapping
def test_a_suspended_training_goes_on_where_it_was(site: Site) -> None:
    job = site.submit("train_64", "--partition=suspend", "--", "--run-dir", "runs/suspend", *LONG)
    site.trains("runs/suspend")
    preempt(site, "n8")
    site.trains("runs/suspend")
    assert "SuspendTime=None" not in site.call("scontrol", "show", "job", job).stdout
    assert (site.restarts(job), len(site.starts("runs/suspend"))) == (0, 1)
    site.facegan("cancel", job)
    assert site.end(job) == "CANCELLED"


def without(site: Site, *programs: str, **scripts: str) -> dict[str, str]:
    """The settings of a site whose nodes lack these programs, or have others in their place."""
    folder = Path(tempfile.mkdtemp(dir=site.folder))
    for name, script in {**{p: f"echo '{p}: not here' >&2\nexit 1" for p in programs}, **scripts}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    path = folder / "site.sh"
    path.write_text(f"export PATH='{folder}':$PATH FACEGAN_PYTHON='{sys.executable}'\n")
    return {"FACEGAN_SITE": str(path)}


def signalled(site: Site, run: str, *options: str, **extra: str) -> str:
    """A training that has been told that its time is up."""
    job = site.submit("train_64", *options, "--", "--run-dir", run, *LONG, **extra)
    site.trains(run)
    site.call("scancel", "--batch", "--signal=USR1", job)
    return job


@overlapping
def test_where_a_requeue_is_denied_one_new_job_takes_its_place_and_what_waited_waits_for_that(site: Site) -> None:
    refusal = f'[ "$1" != requeue ] && exec {shutil.which("scontrol")} "$@"'
    denied = without(site, scontrol=refusal)
    job = site.submit("train_64", "--", "--run-dir", "runs/denied", *LONG, **denied)
    waits = [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]
    behind = site.submit("facegan", *waits, "--", "recipes")
    site.trains("runs/denied")
    site.call("scancel", "--batch", "--signal=USR1", job)
    assert site.end(job) == "CANCELLED"
    site.trains("runs/denied", starts=2)
    rows = site.status("runs/denied")
    assert len(rows) == 2
    assert (rows[0]["job"], rows[0]["successor"], rows[1]["state"]) == (job, rows[1]["job"], "RUNNING")
    assert str(rows[1]["job"]) in site.call("squeue", "-h", "-j", behind, "-o", "%E").stdout
    site.facegan("cancel", "runs/denied")
    site.end(str(rows[1]["job"]))


@overlapping
def test_without_scontrol_a_preempted_job_waits_for_slurm_to_requeue_it(site: Site) -> None:
    run = "runs/waiting"
    job = site.submit("train_64", "--partition=patient", "--", "--run-dir", run, *LONG, **without(site, "scontrol"))
    site.trains(run)
    preempt(site, "n9")
    goes_on(site, job, run)
    assert len(site.status(run)) == 1


@overlapping
def test_where_nothing_can_be_asked_the_job_is_cancelled_with_what_to_type(site: Site) -> None:
    job = signalled(site, "runs/stranded", **without(site, "scontrol", "sbatch"))
    assert site.end(job) == "CANCELLED"
    row = site.status(job)[0]
    assert row["outcome"] == "stopped"
    assert "to go on: sbatch" in str(row["reason"])


@overlapping
def test_a_signal_in_the_first_seconds_does_not_end_the_job(site: Site) -> None:
    slow = site.folder / "slow.sh"
    slow.write_text(f"export FACEGAN_PYTHON='{sys.executable}'\necho loading modules\nsleep 4\n")

    def signalled_early(name: str) -> str:
        job = site.submit("train_64", "--", "--run-dir", f"runs/early-{name}", *LONG, FACEGAN_SITE=str(slow))
        wait_for(lambda: "loading" in site.log(job), 300, "the batch file has begun")
        site.call("scancel", "--batch", f"--signal={name}", job)
        return job

    limit, ended = signalled_early("USR1"), signalled_early("TERM")
    wait_for(lambda: site.restarts(limit) == 1, 120, "it is requeued")
    site.facegan("cancel", limit)
    assert [site.end(job) for job in (limit, ended)] == ["CANCELLED", "CANCELLED"]
    assert site.status(ended)[0]["outcome"] == "stopped"


@overlapping
def test_a_job_that_gets_no_environment_gets_what_was_asked_in_its_arguments_or_says_so(site: Site) -> None:
    folder = site.folder / "bare"
    (folder / "slurm").mkdir(parents=True)
    lines = [f"FACEGAN_PYTHON='{sys.executable}'", f"PYTHONPATH='{ROOT}'"]
    (folder / "slurm/site.sh").write_text("".join(f"export {line}\n" for line in lines))
    bare = Site(site.cluster, folder)
    asked = {"SBATCH_EXPORT": "NONE", "FACEGAN_RECIPE": "mlp-64"}
    lost = bare.sbatch(*light("train"), str(ROOT / "slurm/train_64.sh"), **asked)
    assert bare.end(lost) == "FAILED"
    assert "give RECIPE behind the file's name" in bare.log(lost)
    shutil.copytree(site.folder / "data/shards/64", folder / "data/shards/64")
    job = bare.submit("train_64", "--hold", **asked)
    assert (
        "mlp-64 --data data/shards --run-dir runs/mlp-64" in bare.call("squeue", "-h", "-j", job, "-o", "%o").stdout
    )
    bare.facegan("cancel", job)


@overlapping
def test_a_site_that_sends_the_user_s_signal_at_a_preemption_is_requeued_by_its_shell(site: Site) -> None:
    root = Path(tempfile.mkdtemp(prefix="facegan-slurm-"))
    cluster = Cluster(root, "preempt_send_user_signal")
    other = Site(cluster, site.folder)
    try:
        cluster.start()
        job = other.submit("train_64", "--partition=grace", "--", "--run-dir", "runs/told", *LONG)
        other.trains("runs/told")
        preempt(other, "n3")
        wait_for(lambda: other.restarts(job) == 1, 120, "it is requeued")
        assert other.json("runs/told/outcome.json")["reason"] == "stop-file"
        assert "its shell hears" in other.facegan("doctor", "--json")
    finally:
        cluster.stop()
        shutil.rmtree(root)


@overlapping
def test_a_cancelled_training_saves_and_does_not_come_back(site: Site) -> None:
    job = site.submit("train_64", "--", "--run-dir", "runs/cancelled", *LONG)
    site.trains("runs/cancelled")
    assert f"Cancelled {job}" in site.facegan("cancel", job)
    assert site.end(job) == "CANCELLED"
    outcome = site.json("runs/cancelled/outcome.json")
    assert outcome["state"] == "stopped"
    assert list((site.folder / "runs/cancelled/checkpoints").glob(f"nimg-*{outcome['nimg']}"))
    time.sleep(3)
    assert site.cluster.state(job) == "CANCELLED"
    assert site.restarts(job) == 0
    assert "Nothing to cancel" in site.facegan("cancel", job)


@overlapping
def test_a_killed_rank_ends_the_job_within_a_minute_and_the_cause_is_in_outcome_and_status(site: Site) -> None:
    job = site.submit("train_64", "--nodes=2", "--gpus-per-node=1", "--", "--run-dir", "runs/killed", *LONG)
    site.trains("runs/killed")
    said = (site.folder / "runs/killed/logs/rank-1.log").read_text()
    process = re.search(rf"rank 1 on n2, job {job}, process (\d+)", said)
    assert process, said
    os.kill(int(process.group(1)), signal.SIGKILL)
    killed = time.monotonic()
    assert site.end(job) == "FAILED"
    assert time.monotonic() - killed < 60
    reason = str(site.json("runs/killed/outcome.json")["reason"])
    assert reason.startswith("rank 1 was killed by SIGKILL")
    row = site.status(job)[0]
    assert (row["state"], row["outcome"], row["reason"]) == ("FAILED", "failed", reason)
    assert site.restarts(job) == 0


@overlapping
def test_a_lost_node_requeues_the_job_and_the_run_goes_on_from_its_last_checkpoint(site: Site) -> None:
    two_nodes = ["--partition=lost", "--nodes=2", "--gpus-per-node=1"]
    job = site.submit("train_64", *two_nodes, "--", "--run-dir", "runs/lost", *LONG)
    site.trains("runs/lost")
    checkpoints = site.folder / "runs/lost/checkpoints"
    wait_for(lambda: list(checkpoints.glob("nimg-*")), 300, "a checkpoint is written")
    site.cluster.kill_node("n5")
    wait_for(lambda: site.restarts(job) == 1, 90, "Slurm notices the dead node and requeues the job")
    site.cluster.start_node("n5")
    site.trains("runs/lost", starts=2)
    assert site.starts("runs/lost")[1] > 0
    site.facegan("cancel", job)
    site.end(job)


@overlapping
def test_one_element_of_a_sweep_is_requeued_alone_and_the_table_has_them_all(site: Site) -> None:
    sweep = ["dcgan-64", "--set", "g_lr=1e-4,2e-4", "--data", "data/shards", "--out", "runs/sweep", *SMALL]
    length = ["--kimg", "2"]
    job = site.submit("sweep", "--array=0-1", "--", *sweep, *length)
    run = "runs/sweep/g_lr-2e-4_seed-0"
    site.trains(run)
    site.call("scancel", "--batch", "--signal=USR1", f"{job}_1")
    assert site.end(f"{job}_1") == "COMPLETED"
    assert site.end(f"{job}_0") == "COMPLETED"
    assert [site.restarts(f"{job}_{i}") for i in (0, 1)] == [0, 1]
    assert len(site.starts(run)) == 2
    table = site.facegan("sweep", *sweep, *length, "--table")
    assert table.count("finished") == 2, table


@overlapping
def test_an_array_of_slices_and_its_index_equal_one_process_byte_for_byte(site: Site) -> None:
    arguments = ["pictures", "data/sliced", *PREPROCESS]
    job = site.submit("preprocess", "--array=0-2", "--", *arguments)
    assert [site.end(f"{job}_{i}") for i in range(3)] == ["COMPLETED"] * 3
    log = site.log(job)
    index = re.search(r"Submitted facegan as job (\d+)", log)  # from inside the job of element 0, once
    assert index, log
    assert log.count("Submitted facegan") == 1
    assert site.end(index.group(1)) == "COMPLETED"
    for size in ("64", "128"):
        ours, theirs = (sorted((site.folder / d / size).glob("*.tar")) for d in ("data/sliced", "data/shards"))
        assert [path.name for path in ours] == [path.name for path in theirs]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(ours, theirs, strict=True))
        assert (
            site.json(f"data/sliced/{size}/index.json")["columns"]
            == site.json(f"data/shards/{size}/index.json")["columns"]
        )


@overlapping
def test_an_element_of_a_preprocess_goes_on_behind_its_time_limit(site: Site) -> None:
    """Its source answers for a part of the pictures; for the others when the limit has come."""
    answers = threading.Event()
    with serving(site.folder / "pictures") as server:
        server.before = lambda: len(server.requests) <= 24 or answers.wait(500)
        names = sorted(path.name for path in (site.folder / "pictures").iterdir())
        (site.folder / "list.txt").write_text("".join(f"{server.address}/{name}\n" for name in names))
        job = site.submit("preprocess", "--array=0-0", *LIMITED, "--", "list.txt", "data/limit", *PREPROCESS)
        out = site.folder / "data/limit"
        wait_for(lambda: list(out.rglob("*.tar")), 500, "a shard is written")
        site.near_its_limit(f"{job}_0")
        wait_for(lambda: site.restarts(f"{job}_0") == 1, 500, "the time limit is noticed")
        made = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
        asked = len(server.requests)
        site.call("scontrol", "update", f"jobid={job}", "TimeLimit=20")
        answers.set()
        assert site.end(f"{job}_0") == "COMPLETED"
        index = re.search(r"Submitted facegan as job (\d+)", site.log(job))
        assert index, site.log(job)
        assert site.end(index.group(1)) == "COMPLETED"
    assert made and all(path.stat().st_mtime_ns == time for path, time in made.items())
    assert site.json("data/limit/64/index.json")["source"]["samples"] == len(names)  # type: ignore[index]
    assert len(server.requests) - asked < len(names)


@overlapping
def test_the_pipeline_does_everything_once(site: Site) -> None:
    pipeline = ["submit", "pipeline", "--source", "pictures.zip", "--sizes", "64", "--recipe", "dcgan-64"]
    pipeline += [
        "--data",
        "data/chain",
        "--run-dir",
        "runs/chain",
        "--slices",
        "2",
        "--each=--mem-per-cpu=1G",
    ]
    pipeline += ["--", *SMALL, "--kimg", "0.128"]
    first = site.facegan(*pipeline, **PROFILES)
    jobs = dict(re.findall(r"^(\w+) +job (\d+)", first, flags=re.MULTILINE))
    assert list(jobs) == ["preprocess", "index", "train", "evaluate", "report"]
    again = dict(
        re.findall(r"^(\w+) +job (\d+) is in the queue", site.facegan(*pipeline, **PROFILES), flags=re.MULTILINE)
    )
    assert again.items() <= jobs.items()
    for stage in ("index", "train", "evaluate", "report"):
        assert site.end(jobs[stage]) == "COMPLETED", f"{stage}: {site.tail(jobs[stage])}"
    assert (site.folder / "runs/chain/report.html").stat().st_size > 1000
    assert re.findall(r"^(\w+) +done$", site.facegan(*pipeline, **PROFILES), flags=re.MULTILINE) == list(jobs)


@overlapping
def test_a_broken_chain_takes_its_rest_along_and_is_mended_by_the_same_command(site: Site) -> None:
    (site.folder / "broken.zip").write_bytes(b"no zip")
    pipeline = ["submit", "pipeline", "--source", "broken.zip", "--sizes", "64", "--recipe", "dcgan-64"]
    pipeline += [
        "--data",
        "data/broken",
        "--run-dir",
        "runs/broken",
        "--slices",
        "1",
        "--each=--mem-per-cpu=1G",
    ]
    jobs = dict(re.findall(r"^(\w+) +job (\d+)", site.facegan(*pipeline, **PROFILES), flags=re.MULTILINE))
    assert site.end(f"{jobs['preprocess']}_0") == "FAILED"
    assert [site.end(jobs[stage]) for stage in ("index", "train", "evaluate", "report")] == ["CANCELLED"] * 4
    renewed = dict(re.findall(r"^(\w+) +job (\d+)", site.facegan(*pipeline, **PROFILES), flags=re.MULTILINE))
    assert not renewed.items() & jobs.items()
    assert len(renewed) == 5
    site.facegan("cancel", "runs/broken")


@overlapping
def test_the_check_runs_doctor_and_an_all_reduce_in_every_rank_of_two_nodes(site: Site) -> None:
    job = site.submit("check", "--nodes=2", "--ntasks-per-node=2", "--time=5")  # still one launcher a node
    followed = site.facegan("logs", "-f", job)
    assert site.end(job) == "COMPLETED"
    assert "rank 0 on n1" in followed
    assert "rank 1 on n2" in followed
    assert re.search(r"all-reduce +ok +2 ranks", followed), followed


@overlapping
def test_a_run_without_progress_between_two_requeues_stops_with_the_reason(site: Site) -> None:
    job = site.submit("train_64", "--hold", "--", "--run-dir", "runs/stuck", *LONG)
    (site.folder / "runs/stuck/logs").mkdir(parents=True)
    before = json.dumps({"job": job, "nimg": 10**9})  # as if an earlier start had come further than this one will
    (site.folder / "runs/stuck/logs/requeues.jsonl").write_text(before + "\n")
    site.call("scontrol", "release", job)
    site.trains("runs/stuck")
    site.call("scancel", "--batch", "--signal=USR1", job)
    assert site.end(job) == "FAILED"
    assert "no progress between two requeues" in str(site.status(job)[0]["reason"])
    assert site.restarts(job) == 0


@overlapping
def test_a_second_job_of_a_live_run_is_refused_and_leaves_the_first_alone(site: Site) -> None:
    run, options = site.folder / "runs/twice", ("--", "--run-dir", "runs/twice", *LONG)
    first = site.submit("train_64", *options)
    site.trains("runs/twice")
    refused, cancelled = site.submit("train_64", *options), site.submit("train_64", "--hold", *options)
    assert site.end(refused) == "FAILED"
    assert f"belongs to a live job: job {first}" in site.log(refused)
    site.call("scancel", cancelled)
    assert site.end(cancelled) == "CANCELLED"
    assert site.cluster.state(first) == "RUNNING"
    assert not list(run.glob("stop*"))
    assert not [path.name for path in (run / "logs").iterdir() if refused in path.name or cancelled in path.name]
    site.facegan("cancel", first)
    assert site.end(first) == "CANCELLED"
    assert site.json("runs/twice/outcome.json")["job"] == first


@overlapping
def test_a_run_that_a_person_stopped_does_not_come_back(site: Site) -> None:
    job = site.submit("train_64", "--", "--run-dir", "runs/stopped", *LONG)
    site.trains("runs/stopped")
    (site.folder / "runs/stopped/stop").touch()
    assert site.end(job) == "CANCELLED"  # what depends on the run does not start
    assert site.status(job)[0]["outcome"] == "stopped"
    assert site.restarts(job) == 0


@overlapping
def test_train_128_runs_from_a_plain_sbatch_with_a_site_file_and_is_recorded(site: Site) -> None:
    settings = site.folder / "other site.sh"
    lines = [f"FACEGAN_PYTHON='{sys.executable}'", "FACEGAN_PREFIX='env FACEGAN_INSIDE=yes'", "FACEGAN_TOKEN=hush"]
    settings.write_text("".join(f"export {line}\n" for line in lines))
    extra = {"FACEGAN_SITE": str(settings), "FACEGAN_PYTHON": "", "FACEGAN_RECIPE": "wgan-gp-128"}
    small = [*SMALL, "--kimg", "0.032"]
    job = site.sbatch(*light("train"), str(ROOT / "slurm/train_128.sh"), *small, **extra)
    assert site.end(job) == "COMPLETED", site.tail(job)
    assert site.json("runs/wgan-gp-128/outcome.json")["state"] == "finished"
    record = (site.folder / f"runs/wgan-gp-128/logs/job-{job}-0.json").read_text()
    values = json.loads(record)
    assert values["arguments"][:2] == ["train", "wgan-gp-128"]
    assert values["environment"]["FACEGAN_SITE"] == str(settings)
    assert values["environment"]["FACEGAN_INSIDE"] == "yes"  # Python is called with the prefix
    assert len(values["git"].get("commit", 40 * "x")) == 40
    assert (site.folder / "runs/wgan-gp-128/logs" / values["code"]).exists()
    assert "hush" not in record
    assert site.status(job)[0]["state"] == "COMPLETED"
    evaluated = site.submit("evaluate", "--", "runs/wgan-gp-128", "--data", "data/shards")
    assert site.end(evaluated) == "COMPLETED", site.tail(evaluated)


@overlapping
def test_missing_data_ends_in_one_error_with_the_preprocess_command(site: Site) -> None:
    job = site.sbatch(*light("train"), "--nodes=2", str(ROOT / "slurm/train_64.sh"), "--data", "no such data")
    assert site.end(job) == "FAILED"
    assert site.log(job).count("error: ") == 1
    assert r"sbatch slurm/preprocess.sh img_align_celeba.zip no\ such\ data --recipe dcgan-64" in site.log(job)


@overlapping
def test_arguments_arrive_as_data(site: Site) -> None:
    hostile = ["$(touch pwned)", "a  b", 'say "hi"', "it's", "new\nline", "`touch pwned`", "*", "", "%j;x", "\\"]
    job = site.submit("facegan", "--", *hostile)
    assert site.end(job) == "FAILED"  # there is no such command
    assert not list(site.folder.rglob("pwned"))
    assert site.status(job)[0]["arguments"] == hostile


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (["--nodes=9"], "sinfo has"),
        (["--gpus-per-node=5"], "sinfo has"),
        (["--mem-per-cpu=9999G"], "not available"),
        (["--mem=1G"], "--mem-per-cpu=4G in its place"),
        (["--gpus=2"], "--nodes=N --gpus-per-node=M"),
        (["--partition=nowhere"], "grace, hidden, high, lost, main"),
        (["--output=nowhere/%j.out"], "mkdir -p"),
        (["--nodes=two"], "--nodes"),
    ],
)
def test_an_impossible_request_is_refused_before_submission(site: Site, request_: list[str], said: str) -> None:
    before = site.call("squeue", "-h", "-t", "all", "-o", "%i").stdout.count("\n")
    assert said in site.refused("submit", "train_64", *light("train_64"), *request_, "--", "--batch-size", "1440")
    assert site.call("squeue", "-h", "-t", "all", "-o", "%i").stdout.count("\n") >= before


def test_a_job_gets_no_secret_and_no_other_job_of_its_submitter(site: Site) -> None:
    inside = {"WANDB_API_KEY": "hush", "SLURM_JOB_ID": "1", "SLURM_CPU_BIND": "none", "SLURM_NTASKS": "7"}
    said = site.call(
        sys.executable, "-m", "jobs", "submit", "facegan", *light("facegan"), "--hold", "--", "recipes", **inside
    )
    assert "WANDB_API_KEY stays here" in said.stderr
    assert "hush" not in said.stdout + said.stderr
    stored = b"".join(path.read_bytes() for path in (site.cluster.root / "state").rglob("environment"))
    assert b"FACEGAN_PYTHON" in stored
    assert b"hush" not in stored
    assert b"SLURM_NTASKS=7" not in stored
