"""Progress of long jobs: few lines in a log, count, rate and time left, a bar on a terminal."""

import contextlib
import io
import os
import pty
import termios

import pytest

from jobs.progress import Progress, describe, duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (29.4, "0:29"), (725, "12:05"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_durations_are_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_holds_count_share_rate_time_left_and_notes() -> None:
    line = describe(1200, 10_000, "pictures", 300.0, "preprocess", {"rejected": 2, "last_key": "000007"})
    assert line == "preprocess: 1,200 / 10,000 pictures (12 %), 300/s, 0:29 left, rejected 2, last key 000007"


def test_an_unknown_total_and_a_finished_job_have_no_time_left() -> None:
    assert describe(5, 0, "shards", 2.5, "", {}) == "5 shards, 2.50/s"
    assert describe(5, 5, "shards", 2.5, "", {}) == "5 / 5 shards (100 %), 2.50/s"


def test_a_log_gets_few_lines_and_always_the_last_count() -> None:
    log = io.StringIO()
    with Progress(1000, "pictures", "preprocess", file=log) as progress:
        for _ in range(1000):
            progress.update(rejected=3)
    (line,) = log.getvalue().splitlines()
    assert line.startswith("preprocess: 1,000 / 1,000 pictures (100 %), ")
    assert line.endswith(", rejected 3")


def test_lines_come_when_the_interval_has_passed() -> None:
    log = io.StringIO()
    with Progress(3, "pictures", every=0.0, file=log) as progress:
        for _ in range(3):
            progress.update()
    assert [line.split()[0] for line in log.getvalue().splitlines()] == ["1", "2", "3", "3"]


def test_what_was_done_before_is_counted_but_is_no_speed() -> None:
    log = io.StringIO()
    with Progress(1000, "pictures", initial=999, file=log) as progress:
        progress.start -= 1.0  # one second ago
        progress.update()
    assert log.getvalue().startswith("1,000 / 1,000 pictures (100 %), 1.0")


def test_an_error_before_the_first_unit_prints_nothing() -> None:
    log = io.StringIO()
    with pytest.raises(ValueError), Progress(10, "pictures", file=log):
        raise ValueError
    assert log.getvalue() == ""


def until_hung_up(reader: int) -> str:
    """All that a terminal was sent. One read may return a part of it: only the end says that there is no more."""
    with os.fdopen(reader, "rb", buffering=0) as terminal:
        parts = []
        with contextlib.suppress(OSError):  # EIO is how a terminal tells that its other side is closed
            while part := terminal.read(10_000):
                parts.append(part)
        return b"".join(parts).decode()


def test_a_terminal_gets_a_bar() -> None:
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 100))
    with os.fdopen(writer, "w") as terminal, Progress(4, "pictures", "preprocess", file=terminal) as progress:
        progress.update(4, rejected=1)
        progress.bar.refresh()
    shown = until_hung_up(reader)
    assert "preprocess" in shown
    assert "4/4" in shown
    assert "rejected=1" in shown
