"""Asking a run to stop: the first signal is remembered, a second Ctrl-C aborts, the ranks look often enough."""

import os
import signal
import time
from itertools import pairwise

import pytest

from facegan.run import machine, stopping
from facegan.run.settings import RunSettings
from facegan.run.stopping import GO, INTERRUPTED, STOP_FILE, TERMINATED, Lookout, Signals


@pytest.fixture
def lookout(tmp_path):
    return Lookout(
        machine.start(RunSettings(threads=1)),
        Signals(),
        [tmp_path / "stop", tmp_path / "stop-7"],
        checkpoint_minutes=0.0,
    )


def test_the_first_signal_is_remembered_and_a_second_ctrl_c_aborts():
    with Signals() as signals:
        assert signals.asked == GO
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked == INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_sigterm_may_come_twice_as_it_does_under_slurm_and_a_launcher():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.asked == TERMINATED


def test_the_handlers_of_before_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_file_is_seen_at_the_next_look(lookout):
    assert lookout.look() == (GO, False)
    for path in lookout.stop_files:
        path.touch()
        assert lookout.look() == (STOP_FILE, False)
        path.unlink()
    (lookout.stop_files[0].with_name("stop-8")).touch()  # another job's
    assert lookout.look() == (GO, False)


def test_a_signal_outranks_the_stop_file(lookout):
    lookout.stop_files[0].touch()
    lookout.signals.asked = TERMINATED
    assert lookout.look()[0] == TERMINATED


def test_looks_are_at_most_two_seconds_apart_and_not_at_every_fast_step(lookout, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    lookout.looked_at = clock[0]
    for seconds_a_step in (0.001, 0.01, 0.3, 5.0):
        looks = []
        for _ in range(round(30 / seconds_a_step)):
            clock[0] += seconds_a_step
            if lookout.due():
                looks.append(clock[0])
                lookout.look()
        settled = looks[len(looks) // 2 :]
        gaps = [b - a for a, b in pairwise(settled)]
        assert max(gaps) <= max(2.0, seconds_a_step * 1.01)
        assert len(looks) <= 40


def test_a_checkpoint_is_due_by_the_clock(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    lookout = Lookout(
        machine.start(RunSettings(threads=1)),
        Signals(),
        [tmp_path / "stop", tmp_path / "stop-7"],
        checkpoint_minutes=10.0,
    )
    clock[0] += 599
    assert lookout.look() == (GO, False)
    clock[0] += 2
    assert lookout.look() == (GO, True)
    lookout.saved()
    assert lookout.look() == (GO, False)
