"""Progress of a long job on standard error: a bar on a terminal, a line every ten seconds in a log."""

import sys
import time
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Count `unit`s up to `total` (0 or None where it is not known).

        with Progress(10_000, "pictures", label="preprocess") as progress:
            progress.update(64, rejected=2)

    Both forms show count, rate and time left; the last line of a log is always the final count.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        label: str = "",
        every: float = 10.0,
        file: TextIO | None = None,
        initial: int = 0,
    ) -> None:
        """Lines come at most every `every` seconds; `initial` units were done before and do not count as speed."""
        self.total, self.unit, self.label, self.every = total or 0, unit, label, every
        self.count = self.initial = initial
        self.notes: dict[str, Any] = {}
        self.file = file or sys.stderr
        self.start = self.last = time.monotonic()
        self.bar = self._open_bar() if self.file.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.count > self.initial or kind is None:
            self._print()

    def update(self, n: int = 1, **notes: Any) -> None:
        """`n` more units are done; `notes` are shown behind the count from now on."""
        self.count += n
        self.notes |= notes
        if self.bar is not None:
            self.bar.set_postfix(self.notes, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self._print()

    def _open_bar(self) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=self.total or None,
            unit=f" {self.unit}",
            desc=self.label or None,
            initial=self.initial,
            file=self.file,
            dynamic_ncols=True,
        )

    def _print(self) -> None:
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = (self.count - self.initial) / seconds
        print(describe(self.count, self.total, self.unit, rate, self.label, self.notes), file=self.file, flush=True)


def describe(count: int, total: int, unit: str, rate: float, label: str, notes: dict[str, Any]) -> str:
    """One line: `preprocess: 1,200 / 10,000 pictures (12 %), 300/s, 0:29 left, rejected 2`; rate in units/s."""
    share = f" / {total:,} {unit} ({100 * count / total:.0f} %)" if total else f" {unit}"
    parts = [f"{label + ': ' if label else ''}{count:,}{share}"]
    if rate > 0:
        parts.append(f"{rate:,.{0 if rate >= 10 else 2}f}/s")
    if total > count and rate > 0:
        parts.append(f"{duration((total - count) / rate)} left")
    return ", ".join(parts + [f"{name.replace('_', ' ')} {value}" for name, value in notes.items()])


def duration(seconds: float) -> str:
    """`0:29`, `12:05` or `3:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
