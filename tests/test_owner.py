"""A folder has one writer: a live one is respected by name, a stale one replaced and said, a lost one noticed."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from facegan import owner
from facegan.errors import FaceganError
from facegan.owner import LostError, Owner

HOLD = (
    "import sys, time; from pathlib import Path; from facegan import owner\n"
    "owner.HEARTBEAT, owner.STALE_AFTER = 0.1, 2.0\n"
    "o = owner.Owner(Path(sys.argv[1]) / 'owner.json', 'go away')\n"
    "o.claim(lambda said: print(said, flush=True)); print('mine', flush=True)\n"
    "while True:\n"
    "    time.sleep(0.02)\n"
    "    try: o.check()\n"
    "    except owner.LostError as error: print(error, flush=True); break\n"
)
ISOLATED = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(owner, "HEARTBEAT", 0.1)
    monkeypatch.setattr(owner, "STALE_AFTER", 2.0)
    monkeypatch.setattr(owner, "SETTLE", 0.1)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the folder until it loses it."""
    started: list[subprocess.Popen[str]] = []

    def start(*before: str, **env: str) -> subprocess.Popen[str]:
        command = [*before, sys.executable, "-c", HOLD, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | env)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def write_owner(run_dir: Path, age: float = 0.0, **values: object) -> None:
    path = run_dir / "owner.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "1", "job": None} | values))
    os.utime(path, (time.time() - age, time.time() - age))


def claim(run_dir: Path) -> tuple[Owner, list[str]]:
    said: list[str] = []
    mine = Owner(run_dir / "owner.json", "give another --run-dir")
    mine.claim(said.append)
    return mine, said


def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_a_second_process_is_refused_with_the_first_ones_job(tmp_path, holder):
    first = holder(SLURM_JOB_ID="4711")
    assert line(first) == "mine"
    with pytest.raises(FaceganError, match=rf"job 4711 \(process {first.pid} on .* give another --run-dir"):
        claim(tmp_path)


def test_a_killed_owner_on_this_host_is_replaced_at_once_and_said(tmp_path, holder):
    first = holder()
    assert line(first) == "mine"
    first.kill()
    first.wait()
    second, (said,) = claim(tmp_path)
    assert str(first.pid) in said and "process is gone" in said
    second.release()
    assert not (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("locks", [True, False])
def test_of_those_that_start_at_once_one_gets_the_folder(locks, tmp_path, monkeypatch):
    if not locks:
        monkeypatch.setattr(owner.fcntl, "flock", no_locks)
    write_owner(tmp_path, host=socket.gethostname(), kernel=owner._kernel(), pid=2**22 + 1)
    got: list[Owner] = []

    def race() -> None:
        with suppress(FaceganError):
            got.append(claim(tmp_path)[0])

    racers = [threading.Thread(target=race) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    (winner,) = got
    winner.check()
    winner.release()


def no_locks(file: object, how: int) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def test_an_owner_that_nobody_knows_is_respected_once_its_heart_beats(tmp_path):
    write_owner(tmp_path)
    beat = threading.Timer(0.3, lambda: os.utime(tmp_path / "owner.json"))
    beat.start()
    with pytest.raises(FaceganError, match="process 1 on elsewhere"):
        claim(tmp_path)
    beat.join()


def test_an_owner_that_nobody_knows_is_waited_for_with_a_countdown(tmp_path):
    write_owner(tmp_path, age=1.0)
    mine, said = claim(tmp_path)
    assert "waiting" in said[0] and "no sign of life" in said[-1]
    mine.release()


def test_a_container_on_this_host_is_not_told_by_its_process_number(tmp_path):
    write_owner(tmp_path, host=socket.gethostname(), pid=2**22 + 1, kernel="this boot, another PID namespace")
    mine, said = claim(tmp_path)
    assert "waiting" in said[0] and "no sign of life" in said[-1]
    mine.release()


@pytest.mark.parametrize("known", [{"pid": 1}, {"pid": "../../etc"}, {"pid": None, "started": None}])
def test_an_earlier_start_of_the_same_job_is_asked_for_signs_of_life_too(known, tmp_path, monkeypatch):
    """Its node may hang: that this job runs says nothing of it."""
    squeue(tmp_path, monkeypatch, "echo RUNNING")
    write_owner(tmp_path, job="88", **known)
    monkeypatch.setenv("SLURM_JOB_ID", "88")
    mine, said = claim(tmp_path)
    assert "waiting" in said[0] and "no sign of life" in said[-1]
    mine.release()


@pytest.mark.parametrize("answer", ["RUNNING", "SUSPENDED"])
def test_slurm_is_believed_that_a_silent_job_lives(answer, tmp_path, monkeypatch):
    squeue(tmp_path, monkeypatch, f"echo {answer}")
    write_owner(tmp_path, age=1000, job="99")
    with pytest.raises(FaceganError, match="job 99"):
        claim(tmp_path)
    with pytest.raises(FaceganError, match="job 99"):
        Owner(tmp_path / "owner.json", "").refuse_beside_live()


def test_slurm_is_believed_that_a_job_has_ended(tmp_path, monkeypatch):
    squeue(tmp_path, monkeypatch, "echo COMPLETED")
    write_owner(tmp_path, job="99")
    mine, said = claim(tmp_path)
    assert said[-1].endswith("Slurm says job 99 has ended")
    mine.release()


def test_another_clusters_slurm_is_not_asked(tmp_path, monkeypatch):
    squeue(tmp_path, monkeypatch, "echo COMPLETED")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "here")
    write_owner(tmp_path, job="99", cluster="there")
    mine, said = claim(tmp_path)
    assert "no sign of life" in said[-1]
    mine.release()


def test_a_heartbeat_outlives_a_file_system_that_fails_over(tmp_path, monkeypatch):
    failing = threading.Event()
    real = os.utime

    def utime(*arguments: object) -> None:
        if failing.is_set():
            raise OSError(errno.ESTALE, "Stale file handle")
        real(*arguments)

    monkeypatch.setattr(owner.os, "utime", utime)
    failing.set()
    mine, _ = claim(tmp_path)
    time.sleep(0.3)
    failing.clear()
    real(mine.path, (1, 1))
    deadline = time.monotonic() + 10
    while mine.path.stat().st_mtime < 1000 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert mine.path.stat().st_mtime > 1000
    mine.release()


def test_an_unreadable_record_is_replaced_once_it_is_old(tmp_path):
    (tmp_path / "owner.json").write_text("{half")
    mine, said = claim(tmp_path)
    assert "no sign of life" in said[-1]
    mine.release()


def test_who_lost_the_folder_is_told_by_the_token(tmp_path):
    first, _ = claim(tmp_path)
    first.check()
    write_owner(tmp_path, job="100")
    with pytest.raises(LostError, match="belongs to job 100"):
        first.check()
    first.release()
    assert json.loads((tmp_path / "owner.json").read_text())["job"] == "100"
    (tmp_path / "owner.json").unlink()
    with pytest.raises(LostError, match=r"owner\.json is gone"):
        first.check()


def test_a_record_that_cannot_be_read_for_a_moment_is_not_lost(tmp_path, monkeypatch):
    mine, _ = claim(tmp_path)

    def stale(path: Path) -> dict[str, object]:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(owner, "read_object", stale)
    mine.check()
    time.sleep(1.1)
    with pytest.raises(LostError, match="unreadable"):
        mine.check()
    mine.release()


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*ISOLATED, "true"], capture_output=True).returncode != 0,
    reason="a PID namespace of its own needs root",
)
def test_a_paused_owner_in_another_container_is_replaced_and_stops_when_it_comes_back(tmp_path, holder):
    first = holder(*ISOLATED)
    assert line(first) == "mine"
    inner = int(Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text())
    with pytest.raises(FaceganError, match="belongs to a live job"):  # its heart beats
        claim(tmp_path)
    os.kill(inner, signal.SIGSTOP)
    while " (stopped)" not in Path(f"/proc/{inner}/status").read_text():
        time.sleep(0.01)  # a call that it was in ends first
    second, said = claim(tmp_path)
    assert "no sign of life" in said[-1]
    os.kill(inner, signal.SIGCONT)
    assert "stops and writes nothing more" in line(first)
    second.check()
    second.release()


def test_the_heart_beats_while_the_lock_is_waited_for_to_give_the_folder_back(tmp_path: Path) -> None:
    """One who watches for a heartbeat holds that lock: without one, both would wait for STALE_AFTER."""
    mine = Owner(tmp_path / "owner.json", "")
    mine.claim(print)
    with owner._one_at_a_time(mine.path):
        ending = threading.Thread(target=mine.release)
        ending.start()
        before = mine._beaten()
        time.sleep(0.5)
        assert mine._beaten() > before
    ending.join(5)
    assert not mine.path.exists()
