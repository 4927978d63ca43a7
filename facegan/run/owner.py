"""One writer a run folder: `owner.json`, made exclusively, kept alive by a heartbeat, taken over when stale."""

import fcntl
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from facegan.errors import FaceganError

HEARTBEAT = 10.0  # seconds between signs of life
STALE_AFTER = 60.0  # seconds without one, on another host


class Owner:
    """Owns a run folder from `claim` to `release`; the file's modification time is the heartbeat."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "owner.json"
        self._stop = threading.Event()
        self._mine = ""

    def claim(self) -> str | None:
        """Make this process the owner; returns a sentence where a stale owner was taken over.

        Raises FaceganError naming the job or process where a live one owns the folder.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mine = json.dumps(_self(), indent=2) + "\n"
        with _one_at_a_time(self.path.with_name(".owner.lock")):
            taken = self._claim()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return taken

    def _claim(self) -> str | None:
        taken = None
        while not self._create():
            other = self._read()
            why = self._why_stale(other) if other is not None else "it is unreadable"
            if why is None and other is not None:
                raise FaceganError(
                    f"{self.path.parent} belongs to a live job: {_name(other)}. "
                    "One run folder has one writer; wait for it, cancel it, or give another --run-dir"
                )
            self.path.unlink(missing_ok=True)
            taken = f"took the run folder over from {_name(other or {})}: {why}"
        return taken

    def release(self) -> None:
        """Give the folder back, if it is still ours."""
        self._stop.set()
        if self._is_ours():
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Put our record there whole, unless there is one: a hard link fails where the name exists."""
        part = self.path.with_name(f".owner.{socket.gethostname()}.{os.getpid()}.part")
        part.write_text(self._mine)
        try:
            os.link(part, self.path)
        except FileExistsError:
            return False
        finally:
            part.unlink(missing_ok=True)
        return True

    def _why_stale(self, other: dict[str, Any]) -> str | None:
        if other.get("host") == socket.gethostname():
            if _started(int(other.get("pid", 0))) != other.get("started"):
                return "its process is gone"
            return None
        job = str(other.get("job") or "")
        if job and job == os.environ.get("SLURM_JOB_ID"):
            return "it was an earlier start of this same job"
        if job and _slurm_says_ended(job):
            return f"Slurm says job {job} has ended"
        age = self._age()
        return f"no sign of life for {age:.0f} s" if age > STALE_AFTER else None

    def _age(self) -> float:
        """Seconds since the heartbeat, both ends told by the file system's clock."""
        probe = self.path.with_name(f".owner.clock.{socket.gethostname()}.{os.getpid()}")
        probe.touch()
        try:
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            if self._is_ours():
                os.utime(self.path)

    def _is_ours(self) -> bool:
        try:
            return self.path.read_text() == self._mine
        except OSError:
            return False

    def _read(self) -> dict[str, Any] | None:
        try:
            value = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let no two jobs judge and replace a stale owner at once; the kernel frees the lock of one that dies.

    Where a file system has no locks, the exclusive creation of the record is what is left.
    """
    with path.open("a") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _self() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "job": job,
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _started(pid: int) -> str | None:
    """When a process of this host was started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _slurm_says_ended(job: str) -> bool:
    """Whether squeue no longer knows the job, or knows it as ended; False where Slurm cannot be asked."""
    if not job.isascii() or not job.isdigit():
        return False
    command = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    if answer.returncode:
        return "Invalid job id" in answer.stderr
    alive = {"RUNNING", "PENDING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED", "RESIZING", "REQUEUED"}
    return not alive & set(answer.stdout.split())


def _name(other: dict[str, Any]) -> str:
    where = f"process {other.get('pid', '?')} on {other.get('host', '?')}"
    return f"job {other['job']} ({where})" if other.get("job") else where
