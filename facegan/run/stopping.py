"""How a run is asked to stop: Ctrl-C, SIGTERM or the stop-file; noticed here, decided between steps."""

import signal
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from types import FrameType, TracebackType

from facegan.run.machine import Machine

LOOK_SECONDS = 1.0  # the ranks agree at most about twice this apart
GO, STOP_FILE, INTERRUPTED, HUNG_UP, TERMINATED = range(5)
REASONS = {
    STOP_FILE: "stop-file",
    INTERRUPTED: "interrupted (Ctrl-C)",
    HUNG_UP: "terminal or connection gone (SIGHUP)",
    TERMINATED: "terminated (SIGTERM)",
}
EXIT_CODES = {STOP_FILE: 85, INTERRUPTED: 130, HUNG_UP: 129, TERMINATED: 143}
REQUESTS = {signal.SIGINT: INTERRUPTED, signal.SIGHUP: HUNG_UP, signal.SIGTERM: TERMINATED}


class Signals:
    """Inside: the first SIGINT, SIGHUP or SIGTERM is remembered, a second SIGINT aborts at once.

    A signal that was ignored before stays so: `nohup` means it.
    """

    def __init__(self) -> None:
        self.request = GO

    def __enter__(self) -> "Signals":
        taken = [number for number in REQUESTS if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._remember) for number in taken}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.request == INTERRUPTED:
            raise KeyboardInterrupt
        self.request = max(self.request, REQUESTS[signal.Signals(number)])


class StopRequests:
    """Every few steps, at most about 2 s apart, the ranks agree whether to stop or to save: one short message.

    Rank 0 knows the clock and the stop-file; any rank may have been signalled.
    """

    def __init__(
        self, machine: Machine, signals: Signals, stop_files: Sequence[Path], checkpoint_minutes: float
    ) -> None:
        self.machine, self.signals, self.stop_files = machine, signals, stop_files
        self.checkpoint_seconds = checkpoint_minutes * 60
        self.saved_at = self.looked_at = monotonic()
        self.steps = 0
        self.next_look = 1

    def due(self) -> bool:
        """Count a step; whether all ranks look after it."""
        self.steps += 1
        return self.steps >= self.next_look

    def look(self) -> tuple[int, bool]:
        """(GO or why to stop, whether a checkpoint is due), the same on every rank."""
        now = monotonic()
        request, save, distance = self.signals.request, 0, 1
        if self.machine.is_main:
            rate = self.steps / max(now - self.looked_at, 1e-6)
            distance = max(1, int(rate * LOOK_SECONDS))
            save = int(bool(self.checkpoint_seconds) and now - self.saved_at >= self.checkpoint_seconds)
            if any(path.exists() for path in self.stop_files):
                request = max(request, STOP_FILE)
        request, save, distance = self.machine.highest([request, save, distance])
        self.steps, self.next_look, self.looked_at = 0, distance, now
        return request, bool(save)

    def saved(self) -> None:
        """A checkpoint was written now."""
        self.saved_at = monotonic()
