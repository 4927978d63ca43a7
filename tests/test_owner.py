"""A run folder has one writer: a live one is respected by name, a stale one replaced and said."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facegan.errors import FaceganError
from facegan.run import owner
from facegan.run.owner import Owner

HOLD = (
    "import sys, time; from pathlib import Path; from facegan.run.owner import Owner\n"
    "o = Owner(Path(sys.argv[1])); print(o.claim() or 'mine', flush=True); time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the run folder until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | env)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "mine\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write_owner(run_dir: Path, age: float = 0.0, **values: object) -> None:
    path = run_dir / "owner.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "job": None} | values))
    os.utime(path, (time.time() - age, time.time() - age))


def test_a_second_process_is_refused_with_the_first_ones_job(tmp_path, holder):
    first = holder(SLURM_JOB_ID="4711")
    with pytest.raises(FaceganError, match=rf"job 4711 \(process {first.pid} on "):
        Owner(tmp_path).claim()


def test_a_killed_owner_on_this_host_is_replaced_at_once_and_said(tmp_path, holder):
    first = holder()
    first.kill()
    first.wait()
    second = Owner(tmp_path)
    said = second.claim()
    assert said is not None and str(first.pid) in said and "process is gone" in said
    second.release()
    assert not (tmp_path / "owner.json").exists()


def test_of_two_that_start_at_once_one_gets_the_folder(tmp_path):
    write_owner(tmp_path, host=socket.gethostname(), pid=2**22 + 1)
    start = (
        "import sys, time; from pathlib import Path; from facegan.run.owner import Owner\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try: Owner(Path(sys.argv[1])).claim(); print('got it', flush=True); time.sleep(3)\n"
        "except Exception as e: print('refused', flush=True)\n"
    )
    at = str(time.time() + 2.0)
    racers = [
        subprocess.Popen([sys.executable, "-c", start, str(tmp_path), at], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert sorted(p.communicate()[0].strip() for p in racers) == ["got it", "refused", "refused", "refused"]


def test_an_owner_elsewhere_is_respected_while_its_heart_beats(tmp_path):
    write_owner(tmp_path, age=owner.STALE_AFTER / 2)
    with pytest.raises(FaceganError, match="process 1 on elsewhere"):
        Owner(tmp_path).claim()
    write_owner(tmp_path, age=owner.STALE_AFTER * 2)
    mine = Owner(tmp_path)
    assert "no sign of life" in (mine.claim() or "")
    mine.release()


def test_a_requeued_job_takes_over_from_its_earlier_start(tmp_path, monkeypatch):
    write_owner(tmp_path, job="88")
    monkeypatch.setenv("SLURM_JOB_ID", "88")
    mine = Owner(tmp_path)
    assert "earlier start of this same job" in (mine.claim() or "")
    mine.release()


@pytest.mark.parametrize(("answer", "ended"), [("echo RUNNING", False), ("echo COMPLETED", True)])
def test_slurm_is_asked_whether_the_job_has_ended(answer, ended, tmp_path, monkeypatch):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f"#!/bin/sh\n{answer}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    write_owner(tmp_path, job="99")
    mine = Owner(tmp_path)
    if ended:
        assert "Slurm says job 99 has ended" in (mine.claim() or "")
        mine.release()
    else:
        with pytest.raises(FaceganError, match="job 99"):
            mine.claim()


def test_a_heartbeat_keeps_the_file_young(tmp_path, monkeypatch):
    monkeypatch.setattr(owner, "HEARTBEAT", 0.05)
    mine = Owner(tmp_path)
    mine.claim()
    os.utime(mine.path, (1, 1))
    deadline = time.monotonic() + 10
    while mine.path.stat().st_mtime < 1000 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert mine.path.stat().st_mtime > 1000
    mine.release()


def test_an_unreadable_owner_is_replaced(tmp_path):
    (tmp_path / "owner.json").write_text("{half")
    mine = Owner(tmp_path)
    assert mine.claim() is not None
    mine.release()
