"""Ranks that fail together: the first failure of any rank ends all of them within seconds, each with its cause.

A rank that fails cannot take part in the message that the others wait in. It leaves the cause in the store where
the ranks met; a thread of every other rank finds it there and ends its process, whatever its training waits for.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist

from facegan.errors import FaceganError
from facegan.files import is_disk_full
from facegan.owner import LostError

LOOK_SECONDS = 0.5
PATIENCE = 5.0  # seconds that a failed rank waits for the others to hear of it, and an answer of the store may take
KEY = "facegan/failure"

log = logging.getLogger("facegan")


@dataclass(frozen=True)
class Failure:
    """Why a run ends: the rank that failed first, its words and exit code."""

    rank: int
    reason: str
    exit_code: int
    may_write: bool  # not where the run folder was lost to another job


class Failures:
    """The failures of all ranks; as a context it reports what is raised inside."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.first: Failure | None = None
        self.on_other: Callable[[Failure], None] = lambda failure: None  # called in a thread, before the end
        self._closed = threading.Event()
        self._store: Any = None  # a torch.distributed.Store, whose stub lacks clone() and check()
        if world > 1:
            meeting: Any = dist.distributed_c10d._get_default_store()
            self._store = meeting.clone()  # a connection of its own: the training's may be waiting
            self._store.set_timeout(timedelta(seconds=PATIENCE))
            threading.Thread(target=self._watch, name="failures", daemon=True).start()

    def __enter__(self) -> "Failures":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.report(error)

    def close(self) -> None:
        """No failure is waited for any more."""
        self._closed.set()

    def report(self, error: BaseException) -> Failure:
        """Let the other ranks know; returns the first failure of all, of which `error` may be a consequence."""
        if self.first is None:
            self._closed.set()
            may_write = not isinstance(error, LostError)
            self.first = self._share(Failure(self.rank, words(error), exit_code(error), may_write))
        return self.first

    def _share(self, own: Failure) -> Failure:
        if self._store is None:
            return own
        with suppress(RuntimeError):  # the store's host is gone, and with it the reason to wait
            own = Failure(**json.loads(self._store.compare_set(KEY, "", json.dumps(asdict(own)))))
            self._await_others()
        return own

    def _await_others(self) -> None:
        """Return when every rank has heard of the failure: the store may end with this process."""
        self._store.set(f"{KEY}/{self.rank}", "heard")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._store.check([f"{KEY}/{rank}" for rank in range(self.world)]):
                return
            time.sleep(0.05)

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            try:
                if not self._store.check([KEY]):
                    continue
                first = Failure(**json.loads(self._store.get(KEY)))
            except RuntimeError:  # the store's host is gone: the next message between ranks fails and says so
                return
            if first.rank == self.rank:
                return
            self._end(first)

    def _end(self, failure: Failure) -> None:
        """End this process: its training may be waiting for the failed rank, deep inside a message."""
        log.error("rank %d failed: %s", failure.rank, failure.reason)
        try:
            self.on_other(failure)
        finally:
            with suppress(RuntimeError):
                self._await_others()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(failure.exit_code)


def words(error: BaseException) -> str:
    """An error in one line or a few: its own message where it is meant for people."""
    if isinstance(error, FaceganError | OSError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def exit_code(error: BaseException) -> int:
    """74 for a full disk, what the project's own errors say, 130 for an abort, else 1."""
    if is_disk_full(error):
        return 74
    if isinstance(error, FaceganError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1
