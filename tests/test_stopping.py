"""Asking a run to stop: the first signal is remembered, a second Ctrl-C aborts, the ranks look often enough."""

import os
import signal
from itertools import pairwise

import pytest

from facegan.run import machine, stopping
from facegan.run.settings import RunSettings
from facegan.run.stopping import GO, HUNG_UP, INTERRUPTED, STOP_FILE, TERMINATED, Signals, StopRequests


@pytest.fixture
def requests(tmp_path):
    return StopRequests(
        machine.start(RunSettings(threads=1)),
        Signals(),
        [tmp_path / "stop", tmp_path / "stop-7"],
        checkpoint_minutes=0.0,
    )


def test_the_first_signal_is_remembered_and_a_second_ctrl_c_aborts():
    with Signals() as signals:
        assert signals.request == GO
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.request == INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_sigterm_may_come_twice_as_it_does_under_slurm_and_a_launcher():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.request == TERMINATED


def test_a_hang_up_is_a_request_to_stop_unless_nohup_ignores_it():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.request == HUNG_UP
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.request == GO
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_of_before_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_file_is_seen_at_the_next_look(requests):
    assert requests.look() == (GO, False)
    for path in requests.stop_files:
        path.touch()
        assert requests.look() == (STOP_FILE, False)
        path.unlink()
    (requests.stop_files[0].with_name("stop-8")).touch()  # another job's
    assert requests.look() == (GO, False)


def test_a_signal_outranks_the_stop_file(requests):
    requests.stop_files[0].touch()
    requests.signals.request = TERMINATED
    assert requests.look()[0] == TERMINATED


def test_looks_are_at_most_two_seconds_apart_and_not_at_every_fast_step(requests, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(stopping, "monotonic", lambda: clock[0])
    requests.looked_at = clock[0]
    for seconds_a_step in (0.001, 0.01, 0.3, 5.0):
        looks = []
        for _ in range(round(30 / seconds_a_step)):
            clock[0] += seconds_a_step
            if requests.due():
                looks.append(clock[0])
                requests.look()
        settled = looks[len(looks) // 2 :]
        gaps = [b - a for a, b in pairwise(settled)]
        assert max(gaps) <= max(2.0, seconds_a_step * 1.01)
        assert len(looks) <= 40


def test_a_checkpoint_is_due_by_the_clock(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(stopping, "monotonic", lambda: clock[0])
    requests = StopRequests(
        machine.start(RunSettings(threads=1)),
        Signals(),
        [tmp_path / "stop", tmp_path / "stop-7"],
        checkpoint_minutes=10.0,
    )
    clock[0] += 599
    assert requests.look() == (GO, False)
    clock[0] += 2
    assert requests.look() == (GO, True)
    requests.saved()
    assert requests.look() == (GO, False)
