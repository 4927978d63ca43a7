"""Runs the project's commands with one file operation failing, each forked from a process that has it all loaded.

`Server` starts this file as that process. A fault is a number k and what happens at the k-th operation on a file
below a folder: the name of an error, such as ENOSPC (a write fails after half of its bytes), or SIGKILL.
"""

import builtins
import errno
import io
import json
import mmap
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SERVER_IMPORTS = (
    "torch",
    "numpy.ma",
    "numpy.ctypeslib",
    "jobs.cli",
    "jobs.training",
    "jobs.train",
    "jobs.sample",
    "jobs.report",
    "jobs.preprocess",
    "facegan.networks.mlp",
)
PATHS = ("open", "stat", "lstat", "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "scandir", "listdir")
PATHS += ("utime", "chmod", "truncate", "symlink")
HANDLES = ("fsync", "ftruncate", "write", "pread")
WRITING = ("open w", "mkdir", "rename", "replace", "fsync", "ftruncate", "truncate", "write", "utime", "symlink")
FULL = ("ENOSPC", "EDQUOT")
ALONE = 8.0  # seconds after which a launcher ends the ranks that a dead one has left
PATIENCE = 30.0  # and those that it then waits for them


@dataclass(frozen=True)
class Fault:
    """`what` happens at the k-th operation (from 1); none where k is 0. `rank` says in which process."""

    k: int = 0
    what: str = ""
    rank: int = 0


@dataclass(frozen=True)
class Result:
    """How a command ended: exit codes (or minus the signal) of its ranks, what they said, its operations."""

    codes: list[int]
    said: str
    operations: list[str]
    hung: bool


@dataclass
class Server:
    """The process that commands are forked from."""

    limit: float = 240.0  # seconds a command may take: a hang, not a slow machine
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        root = Path(__file__).resolve().parent.parent
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "W_SLOT": "1"}
        for name in [name for name in environment if name.startswith(("SLURM_", "FACEGAN_", "WANDB_"))]:
            del environment[name]
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, arguments: list[str], folder: Path, fault: Fault | None = None, world: int = 1) -> Result:
        """Run `facegan ARGUMENTS` in `folder`, operations on whose files are counted."""
        request = {"arguments": arguments, "folder": str(folder), "world": world, "limit": self.limit}
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request | {"fault": asdict(fault or Fault())}), file=self.process.stdin, flush=True)
        return Result(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self.process.communicate()


class Injection:
    """Counts the operations of this process and those it forks, and lets one of them fail."""

    def __init__(self, folder: Path, fault: Fault, record: Path) -> None:
        self.folder, self.fault, self.record = (
            f"{folder}/",
            fault,
            os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        )
        self.counter = mmap.mmap(-1, 8)

    def install(self) -> None:
        """Replace what Python's own modules open, read, write, rename and remove files by."""
        self.write = os.write
        for name in PATHS:
            setattr(os, name, self._counted(name, getattr(os, name)))
        for name in HANDLES:
            setattr(os, name, self._counted(name, getattr(os, name)))
        opened = self._opened(io.open)
        builtins.open = io.open = opened  # type: ignore[assignment]

    def happens(self, name: str, target: Any, half: Callable[[], object] = lambda: None) -> None:
        """Count one operation; what the fault says happens here, after `half` of it."""
        if not self._is_ours(target):
            return
        if self.fault.what in FULL and name not in WRITING:
            return
        (count,) = struct.unpack("q", self.counter[:])
        self.counter[:] = struct.pack("q", count + 1)
        self.write(self.record, f"{name} {target}\n".encode())
        if count + 1 == self.fault.k:
            half()
            if self.fault.what == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            number = getattr(errno, self.fault.what)
            raise OSError(number, os.strerror(number), target if isinstance(target, str) else None)

    def _is_ours(self, target: Any) -> bool:
        if isinstance(target, int):
            try:
                target = os.readlink(f"/proc/self/fd/{target}")  # noqa: PTH115
            except OSError:
                return False
        return isinstance(target, str | os.PathLike) and f"{os.path.abspath(target)}/".startswith(self.folder)  # noqa: PTH100

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            target = arguments[0] if arguments else "."
            if name == "write":
                self.happens(name, target, lambda: real(target, arguments[1][: len(arguments[1]) // 2]))
            else:
                flags = arguments[1] if name == "open" and len(arguments) > 1 else 0
                self.happens("open w" if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) else name, _plain(target))
            return real(*arguments, **options)

        return call

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            writes = any(letter in mode for letter in "wax+")
            self.happens("open w" if writes else "open", _plain(file))
            opened = real(file, mode, *arguments, **options)
            return File(opened, self) if writes and self._is_ours(_plain(file)) else opened

        return call


class File:
    """A file open for writing, whose writes are counted."""

    def __init__(self, real: Any, injection: Injection) -> None:
        self._real, self._injection = real, injection

    def write(self, data: Any) -> Any:
        """Write, or write half and fail."""
        half = data[: len(data) // 2]
        self._injection.happens("write", self._real.name, lambda: (self._real.write(half), self._real.flush()))
        return self._real.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def __iter__(self) -> Any:
        return iter(self._real)


def _plain(target: Any) -> Any:
    return os.fspath(target) if isinstance(target, os.PathLike) else target


def command(request: dict[str, Any], rank: int, port: int, record: Path, log: Path) -> None:
    """In a forked process: become the command."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    if request["world"] > 1:
        world = str(request["world"])
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    fault = Fault(**request["fault"])
    _workers_by_fork()
    Injection(Path(request["folder"]), fault if fault.rank == rank else Fault(), record).install()
    from jobs.cli import main

    try:
        main(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _workers_by_fork() -> None:
    """Let preprocess fork its workers from here: those of a server of its own would know of no fault."""
    import multiprocessing

    from shards.make import pool

    context = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: context  # type: ignore[assignment]
    pool.ensure_running = lambda: None  # type: ignore[assignment]


def free_port() -> int:
    """One that nothing listens at, below those that the system gives to connections of others."""
    while True:
        port = random.randrange(16384, 32768)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def serve() -> None:
    """Fork a process a rank for each request, and answer how they ended."""
    for name in SERVER_IMPORTS:
        __import__(name)
    from PIL import Image

    from facegan.recipes import recipe_classes

    Image.init()
    recipe_classes()
    for line in sys.stdin:
        request = json.loads(line)
        record, log = Path(f"{request['folder']}.operations"), Path(f"{request['folder']}.log")
        for path in (record, log):
            path.unlink(missing_ok=True)
        port = free_port()
        ranks = []
        for rank in range(request["world"]):
            if not (child := os.fork()):
                os.setpgid(0, 0)
                faulted = rank == request["fault"]["rank"]
                command(request, rank, port, record if faulted else Path(os.devnull), log)
            ranks.append(child)
        codes, hung = wait(ranks, request["limit"])
        operations = record.read_text(errors="replace").splitlines() if record.exists() else []
        said = log.read_text(errors="replace") if log.exists() else ""
        print(json.dumps({"codes": codes, "said": said, "operations": operations, "hung": hung}), flush=True)


def wait(ranks: list[int], limit: float) -> tuple[list[int], bool]:
    """Exit codes of the ranks, and whether one hung: took longer than `limit` seconds, or neither ended by itself
    after another had failed nor by the SIGTERM that every launcher sends then."""
    deadline, terminated, codes = time.monotonic() + limit, False, dict[int, int]()
    while len(codes) < len(ranks):
        for rank in set(ranks) - codes.keys():
            ended, status = os.waitpid(rank, os.WNOHANG)
            if ended:
                codes[rank] = os.waitstatus_to_exitcode(status)
                deadline = min(deadline, time.monotonic() + (ALONE if codes[rank] else limit))
        if time.monotonic() >= deadline:
            if terminated or not any(codes.values()):
                break
            terminated, deadline = True, time.monotonic() + PATIENCE
            for rank in set(ranks) - codes.keys():
                os.kill(rank, signal.SIGTERM)
        time.sleep(0.01)
    hung = len(codes) < len(ranks)
    for rank in set(ranks) - codes.keys():
        os.killpg(rank, signal.SIGKILL)
        codes[rank] = os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1])
    for rank in ranks:  # workers of a command that was killed
        try:
            os.killpg(rank, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return [codes[rank] for rank in ranks], hung


if __name__ == "__main__":
    serve()
