"""One writer a folder: a record with a token, kept alive by a heartbeat, taken over when its process is gone.

Nothing is asked of the file system but rename: no hard links, and locks only where it has them. Who lost the folder
(paused or cut off for so long that another took it) finds another token in the record, and stops.
"""

import errno
import fcntl
import logging
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from facegan.errors import FaceganError
from facegan.files import read_object, write_json

HEARTBEAT = 10.0  # seconds between signs of life
STALE_AFTER = 60.0  # seconds without one, where neither the kernel nor Slurm can tell whether the owner lives
SETTLE = 1.0  # seconds until a record is looked at again, where a file system has no locks
ALIVE = {
    "RUNNING",
    "PENDING",
    "SUSPENDED",
    "COMPLETING",
    "CONFIGURING",
    "STOPPED",
    "RESIZING",
    "REQUEUED",
    "SIGNALING",
}

log = logging.getLogger("facegan.owner")
Record = dict[str, Any]


class OwnedError(FaceganError):
    """The folder belongs to another process, which lives."""


class LostError(FaceganError):
    """The folder belongs to another writer now: this one may not write there any more, not even why it ended."""


class Owner:
    """Owns the folder of a record file, such as `run_dir/owner.json`, from `claim` to `release`.

    `otherwise` says what else a refused user may do, such as "give another --run-dir".
    """

    def __init__(self, path: Path, otherwise: str) -> None:
        self.path, self.otherwise = path, otherwise
        self._mine = _this_process()
        self._confirmed_at = 0.0  # when the record was last seen to be ours
        self._stop = threading.Event()

    def claim(self, say: Callable[[str], None], watch: bool = True) -> None:
        """Make this process the owner. `say` hears that an owner is waited for, and that one was taken over.

        An owner that neither the kernel nor Slurm knows anything of is watched until its heart beats, or has not
        for STALE_AFTER; without `watch` it counts as alive until then. Raises FaceganError naming the job or
        process where a live one owns the folder.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(self.path) as locked:
            if other := self._read():
                why = self._why_gone(other, say, watch)
                say(f"took {self.path.parent} over from {_name(other)}: {why}")
            write_json(self.path, self._mine)
        if not locked:
            time.sleep(SETTLE)  # of two that came at once the later record stands
        self.check()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def refuse_beside_live(self) -> None:
        """Raise FaceganError where the folder belongs to a process that is known to live; nothing is written."""
        other = self._read()
        if other and not _is_this_job(other) and _fate(other) == "":
            raise self._refusal(other)

    def check(self) -> None:
        """Raise LostError unless the folder is still ours: to be called before each thing written there.

        A record that cannot be read is no proof: it counts only after half the time that an owner is given.
        """
        try:
            ours = self._is_ours()
        except OSError as error:
            if time.monotonic() - self._confirmed_at < STALE_AFTER / 2:
                return
            raise LostError(f"{self.path}: unreadable for {STALE_AFTER / 2:.0f} s ({error.strerror})") from None
        if not ours:
            other = self._read()
            whose = f"belongs to {_name(other)} now" if other else "is nobody's any more: its owner.json is gone"
            raise LostError(f"{self.path.parent} {whose}; this process stops and writes nothing more there")
        self._confirmed_at = time.monotonic()

    def release(self) -> None:
        """Give the folder back, if it is still ours; the heart beats until then, for one who watches it."""
        try:
            with suppress(OSError), _one_at_a_time(self.path):
                self._stop.set()
                if self._is_ours():
                    self.path.unlink()
        finally:
            self._stop.set()

    def _why_gone(self, other: Record, say: Callable[[str], None], watch: bool) -> str:
        """Why the owner may be replaced; FaceganError where it lives."""
        fate = _fate(other)
        if fate == "" or (fate is None and not watch and self._age() < STALE_AFTER):
            raise self._refusal(other)
        return fate or self._watch(other, say)

    def _watch(self, other: Record, say: Callable[[str], None]) -> str:
        """Wait until the owner's heart beats, which refuses us, or has not for too long."""
        first, age = self._beaten(), self._age()
        until = time.monotonic() + STALE_AFTER - age
        while (left := until - time.monotonic()) > 0:
            say(f"{self.path.parent}: {_name(other)} may be gone, waiting {left:.0f} s for a sign of life")
            time.sleep(min(HEARTBEAT, left))
            if self._beaten() != first:
                raise self._refusal(other)
        return f"no sign of life for {max(age, STALE_AFTER):.0f} s"

    def _refusal(self, other: Record) -> FaceganError:
        return OwnedError(
            f"{self.path.parent} belongs to a live job: {_name(other)}. "
            f"One folder has one writer; wait for it, cancel it, or {self.otherwise}"
        )

    def _beaten(self) -> int:
        """The time of the last heartbeat in nanoseconds, which may be another machine's; 0 without a record."""
        try:
            return self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _age(self) -> float:
        """Seconds since the heartbeat, both ends told by the file system's clock."""
        probe = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        try:
            probe.touch()
            return (probe.stat().st_mtime_ns - self._beaten()) / 1e9
        finally:
            probe.unlink(missing_ok=True)

    def _beat(self) -> None:
        warned = False
        while not self._stop.wait(HEARTBEAT):
            try:
                if not self._is_ours():
                    return
                os.utime(self.path)
                warned = False
            except OSError as error:  # a file system that fails over: it may be back at the next beat
                if not warned:
                    log.warning("%s: no heartbeat (%s); tried again", self.path, error)
                warned = True

    def _is_ours(self) -> bool:
        os.close(os.open(self.path.parent, os.O_RDONLY))  # lets an NFS client look whether names have changed
        return bool(read_object(self.path).get("token") == self._mine["token"])

    def _read(self) -> Record:
        """The record; one that is no record counts as that of an unknown process."""
        return read_object(self.path) or ({"host": "an unknown host"} if self.path.exists() else {})


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[bool]:
    """Let no two processes judge and replace an owner at once; the kernel frees the lock of one that dies.

    Yields whether the file system has locks.
    """
    with path.with_name(f".{path.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise
            yield False
        else:
            yield True


def process_identity(pid: int) -> str:
    """What no other process has, of any machine and any time; processes of one parent agree on it."""
    return f"{_kernel() or socket.gethostname()} {pid} {_started(pid)}"


def _this_process() -> Record:
    return {
        "token": secrets.token_hex(16),
        "host": socket.gethostname(),
        "kernel": _kernel(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
        "restart": os.environ.get("SLURM_RESTART_COUNT"),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _kernel() -> str:
    """What processes share that see each other's ids: a boot of a kernel and a PID namespace; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _fate(other: Record) -> str | None:
    """Why an owner is gone; "" where it lives; None where nobody can tell.

    The kernel knows its own processes, Slurm its jobs; of an earlier start of this very job it only knows this one.
    """
    if other.get("kernel") and other["kernel"] == _kernel():
        gone = _started(other.get("pid")) != other.get("started")
        return "its process is gone" if gone else ""
    job = str(other.get("job") or "")
    clusters = {other.get("cluster"), os.environ.get("SLURM_CLUSTER_NAME")} - {None}
    if not job or _is_this_job(other) or len(clusters) > 1:
        return None
    lives = _slurm_knows(job)
    return None if lives is None else "" if lives else f"Slurm says job {job} has ended"


def _is_this_job(other: Record) -> bool:
    job = os.environ.get("SLURM_JOB_ID")
    return bool(job) and other.get("job") == job


def _started(pid: Any) -> str:
    """When a process of this host was started, in clock ticks since boot; "" where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _slurm_knows(job: str) -> bool | None:
    """Whether squeue says that the job is not over; None where Slurm cannot be asked."""
    if not job.isascii() or not job.isdigit():
        return None
    command = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return False if "Invalid job id" in answer.stderr else None
    return bool(ALIVE & set(answer.stdout.split()))


def _name(other: Record) -> str:
    where = f"process {other.get('pid', '?')} on {other.get('host', '?')}"
    return f"job {other['job']} ({where})" if other.get("job") else where
