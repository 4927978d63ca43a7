"""Several processes: each takes one task after the other and reports on the way."""

import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from typing import Protocol

from facegan.allocator import keep_freed_memory
from facegan.errors import FaceganError
from shards.errors import ShardError

LONGEST_TEMPORARY = 60  # bytes; multiprocessing appends some forty to make the path of a socket

Report = Callable[[int, int], None]  # pictures done, of these rejected, since the last call


class Task(Protocol):
    """What a worker is given; its string says what it writes."""

    def run(self, report: Report) -> None:
        """Do it, in a worker."""

    def clean_up(self) -> None:
        """Remove what an ended worker has half written."""


def run_all(tasks: Iterable[Task], workers: int, report: Report) -> None:
    """Run all tasks on `workers` processes; `report` hears of each batch of pictures.

    Raises the first error of a worker (ShardError, DiskFullError), or ShardError where one was killed. The
    processes are forked from a server that has imported torch but not used it: no thread is ever forked, the
    import is paid once, and this process stays small.
    """
    context = start_server()
    pool: list[Worker] = []
    try:
        for task in tasks:
            if len(pool) < workers:
                pool.append(Worker(context))
            idle = next((worker for worker in pool if worker.task is None), None)
            while idle is None:
                idle = hear(pool, report)
            idle.take(task)
        while any(worker.task for worker in pool):
            hear(pool, report)
    finally:
        for worker in pool:
            worker.stop()


def start_server() -> ForkServerContext:
    """The processes' context; the server it forks them from starts to import torch now, if it has not yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "shards.make.packing"])
    with _short_names():
        ensure_running()
    return context


@contextmanager
def _short_names() -> Iterator[None]:
    """Have the server's socket lie in a folder of a short name: the path of a socket has at most 107 bytes."""
    before, usual = tempfile.tempdir, tempfile.gettempdir()
    if len(os.fsencode(usual)) > LONGEST_TEMPORARY:
        short = [folder for folder in ("/tmp", "/var/tmp", "/dev/shm") if os.access(folder, os.W_OK)]
        tempfile.tempdir = next(iter(short), usual)
    try:
        yield
    finally:
        tempfile.tempdir = before


class Worker:
    """A process, and the task it is at."""

    def __init__(self, context: ForkServerContext) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # from now on the end of either process is the end of the pipe
        self.task: Task | None = None

    def take(self, task: Task) -> None:
        """Start on a task."""
        self.task = task
        try:
            self.connection.send(task)
        except BrokenPipeError:
            raise self.death() from None

    def death(self) -> ShardError:
        """What to say where the process is gone."""
        self.process.join(5)
        code = self.process.exitcode or 0
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"
        return ShardError(
            f"a worker process {how} while it wrote {self.task or 'nothing'}. Signal 9 mostly means that memory "
            "ran out: run the same command again, it continues; with fewer --workers if it happens again"
        )

    def stop(self) -> None:
        """End the process, whatever it is doing, and remove what it had half written."""
        self.process.terminate()
        self.process.join()
        self.connection.close()
        if self.task is not None:
            self.task.clean_up()


def hear(pool: list[Worker], report: Report) -> Worker | None:
    """Wait for the next message of a busy worker; returns the worker if it has become idle by it."""
    busy = {worker.connection: worker for worker in pool if worker.task is not None}
    idle = None
    for connection in wait(list(busy)):
        worker = busy[connection]  # type: ignore[index]
        try:
            message = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            raise worker.death() from None
        if isinstance(message, BaseException):
            raise message
        if message is None:
            worker.task, idle = None, worker
        else:
            report(*message)
    return idle


def work(connection: Connection) -> None:
    """The life of a worker: tasks come in, progress goes out, None after each; it ends with the pipe."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's, which ends this one
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        while True:
            task = connection.recv()
            connection.send(_written(task, lambda read, rejected: connection.send((read, rejected))))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process is gone


def _written(task: Task, report: Report) -> BaseException | None:
    """Run a task; an error is returned, to be raised in the main process."""
    try:
        task.run(report)
    except FaceganError as error:
        return error
    except (BrokenPipeError, ConnectionResetError):
        raise
    except OSError as error:  # the disk or its file system: said as it is
        return error
    except Exception:  # handed on whole, with its traceback
        return RuntimeError(f"in a worker, while it wrote {task}:\n{traceback.format_exc()}")
    return None
