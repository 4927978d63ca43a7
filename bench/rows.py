"""Rows of a table: what was done, seconds and memory, of this process, of another, or of a command."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOOK = 0.02  # seconds between two looks at a process's memory
Row = tuple[str, float, float, float, float]  # what; s; processor s; MiB of its own; MiB with mapped files
Work = Callable[..., None]


@contextmanager
def timed(rows: list[Row], what: str, times: int = 1) -> Iterator[None]:
    """A row: seconds by the clock and of the processors (each of `times`), the most memory of this process."""
    own, all_of_it = 0.0, 0.0

    def look() -> None:
        nonlocal own, all_of_it
        while True:
            own, all_of_it = map(max, (own, all_of_it), memory(os.getpid()))
            if ended.wait(LOOK):
                return

    ended, watch = threading.Event(), threading.Thread(target=look)
    clock, busy = time.perf_counter(), time.process_time()
    watch.start()
    try:
        yield
        seconds = (time.perf_counter() - clock) / times, (time.process_time() - busy) / times
    finally:  # or the process would wait for it for ever
        ended.set()
        watch.join()
    rows.append((what, *seconds, own, all_of_it))


def memory(process: int) -> tuple[float, float]:
    """What a process holds now, in MiB: its own, and with mapped files; nothing once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0, 0.0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.endswith("kB")}
    own = kib.get("RssAnon", 0)
    return own / 1024, (own + kib.get("RssFile", 0)) / 1024


def alone(rows: list[Row], what: str, work: Work, *given: Any) -> None:
    """A row of a process that has none of this one's memory."""
    process, heard = process_of(work, *given)
    heard.recv()
    rows.append((what, *heard.recv()[1:]))
    process.join()


def process_of(work: Work, *given: Any) -> tuple[BaseProcess, Connection]:
    """A process that says its processor seconds so far, works, and says a row."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(there, work, *given))
    process.start()
    there.close()  # or nobody would hear that it ended
    return process, here


def _run(said: Connection, work: Work, *given: Any) -> None:
    rows: list[Row] = []
    said.send(time.process_time())
    with timed(rows, ""):
        work(*given)
    said.send(rows[0])


def command(rows: list[Row], *arguments: str) -> None:
    """A row of a command: clock, processors, the most memory (`ru_maxrss` would count what this process has)."""
    begun, own, all_of_it = time.perf_counter(), 0.0, 0.0
    words = [sys.executable, "-m", "jobs", *arguments]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            own, all_of_it = map(max, (own, all_of_it), memory(process.pid))
            time.sleep(LOOK)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"facegan {' '.join(arguments)} ended with {process.returncode}")
    shown = " ".join(argument if not argument.startswith("/") else "DIR" for argument in arguments)
    seconds = time.perf_counter() - begun, used.ru_utime + used.ru_stime
    rows.append((f"`facegan {shown}`", *seconds, own, all_of_it))
