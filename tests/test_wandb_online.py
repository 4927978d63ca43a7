"""W&B online against a server on the loopback: one run, every row once, whatever happens to server and client."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from wandb_server import Server

from facegan.files import append_json_line
from facegan.run import history, tracking
from facegan.run.settings import RunSettings
from facegan.run.tracking import Tracker

TROUBLE = float(os.environ.get("FACEGAN_TROUBLE", "3"))  # seconds; 60 and more by hand


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    server = Server()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(tracking, "AGAIN_SECONDS", 0.5)
    yield server
    server.hanging.clear()
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()
    server.close()


def row(nimg: int, **more: float) -> dict[str, Any]:
    return {"progress/nimg": nimg, "progress/kimg": nimg / 1000, **more}


def write(run_dir: Path, *nimgs: int) -> list[dict[str, Any]]:
    """Rows of a training, in its folder."""
    rows = [row(nimg, x=float(nimg)) for nimg in nimgs]
    for one in rows:
        append_json_line(run_dir / "stats.jsonl", one)
    return rows


def track(run_dir: Path, *nimgs: int, state: str = "finished", **options: Any) -> Tracker:
    """What a start of a training does that makes these rows."""
    tracker = Tracker(run_dir, "online", replay=partial(history.steps, run_dir), **options)
    for one in write(run_dir, *nimgs):
        tracker.log(one)
    tracker.finish(state)
    return tracker


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_run_and_its_continuation_are_one_run_with_every_row_and_picture_once(
    server: Server, tmp_path: Path
) -> None:
    grid = tmp_path / "grid.png"
    Image.new("RGB", (8, 8), "red").save(grid)
    for nimgs, state in (((64, 128), "stopped"), ((128, 192, 256), "finished")):
        tracker = Tracker(tmp_path, "online", {"recipe": "dcgan-64"})
        for nimg in nimgs:  # the second start makes a step again that W&B has
            tracker.log(row(nimg, x=nimg))
            tracker.log(row(nimg, y=nimg))
            tracker.log_images({"samples/ema": grid}, row(nimg))
        tracker.finish(state)
    assert server.steps() == [64, 128, 192, 256]
    assert all(one["x"] == one["y"] == one["_step"] for one in server.rows())
    pictures = [one["samples/ema"]["path"] for one in server.rows()]
    uploads = {name.partition("/")[2] for name in server.uploads}
    assert len(set(pictures)) == 4
    assert set(pictures) <= uploads
    assert server.only_run()["exit"] == 0


@pytest.mark.parametrize("given, expected", [("", "ours"), ("theirs", "theirs")])
def test_the_project_is_the_environments_unless_it_is_given(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    assert RunSettings().wandb_project == ""
    track(tmp_path, 64, project=given)
    assert [project for project, _ in server.runs] == [expected]


def test_a_refused_artifact_is_said_once_tried_again_and_costs_no_row(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "facegan.run.tracking")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "weights").write_text("w")
    server.refused = {"CreateArtifact"}
    tracker = Tracker(tmp_path, "online")
    tracker.log(row(64))
    tracker.log_snapshot(tmp_path / "snapshot", 64)
    tracker.log_snapshot(tmp_path / "snapshot", 64)
    wait_for(lambda: server.asked.count("CreateArtifact") >= 2)
    tracker.log(row(128))
    server.refused = set()
    wait_for(lambda: server.artifacts)
    tracker.finish()
    assert server.steps() == [64, 128]
    assert len(server.artifacts) == 2
    assert len([r for r in caplog.records if "a snapshot not sent" in r.getMessage()]) == 1


def test_what_a_start_could_not_send_the_next_one_sends_from_the_run_folder(server: Server, tmp_path: Path) -> None:
    write(tmp_path, 64, 128)
    (tmp_path / "samples").mkdir()
    for nimg in (0, 128):
        Image.new("RGB", (8, 8), (nimg, 0, 0)).save(tmp_path / "samples" / f"fake-nimg-{nimg:012d}.png")
    track(tmp_path, 192)
    assert server.steps() == [0, 64, 128, 192]
    assert ["samples/ema" in one for one in server.rows()] == [True, False, True, False]


@pytest.mark.parametrize("trouble", ["answers 500", "hangs", "goes away"])
def test_a_server_in_trouble_for_a_while_gets_every_row_once(server: Server, tmp_path: Path, trouble: str) -> None:
    """For TROUBLE seconds, in which rows are made one after another: none of them waits for the server."""
    tracker = Tracker(tmp_path, "online", replay=partial(history.steps, tmp_path))
    for one in write(tmp_path, 64, 128):
        tracker.log(one)
    wait_for(lambda: server.runs)
    {
        "answers 500": lambda: setattr(server, "status", 500),
        "hangs": server.hanging.set,
        "goes away": server.go_away,
    }[trouble]()
    began, last = time.monotonic(), 128
    while time.monotonic() < began + TROUBLE:
        last += 64
        (one,) = write(tmp_path, last)
        tracker.log(one)
        time.sleep(TROUBLE / 100)
    assert last > 10 * 64  # of a hundred
    if trouble == "goes away":
        server.come_back()
    server.status = 0
    server.hanging.clear()
    tracker.finish()
    if server.steps()[-1:] != [last]:  # it was long: the next start sends the rest
        track(tmp_path, last := last + 64)
    assert server.steps() == list(range(64, last + 64, 64))


CHILD = """
import pathlib, sys
from functools import partial
from facegan.files import append_json_line
from facegan.run import history
from facegan.run.tracking import Tracker
run_dir = pathlib.Path(sys.argv[1])
tracker = Tracker(run_dir, "online", replay=partial(history.steps, run_dir))
for nimg in range(64, 1281, 64):
    row = {"progress/nimg": nimg, "progress/kimg": nimg / 1000}
    append_json_line(run_dir / "stats.jsonl", row)
    tracker.log(row)
print("logged", flush=True)
sys.stdin.readline()
tracker.finish("stopped")
"""


def start(run_dir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHILD, str(run_dir)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)


def test_a_killed_client_leaves_no_row_twice_and_none_missing(server: Server, tmp_path: Path) -> None:
    child = start(tmp_path)
    wait_for(lambda: server.runs)
    child.kill()
    child.communicate()
    track(tmp_path, 1344)
    assert server.steps() == list(range(64, 1345, 64))


def test_a_service_that_slurms_signal_kills_first_leaves_no_traceback_and_no_row_missing(
    server: Server, tmp_path: Path
) -> None:
    child = start(tmp_path)
    wait_for(lambda: server.runs)
    time.sleep(1)
    services = [
        pid for path in Path(f"/proc/{child.pid}/task").glob("*/children") for pid in path.read_text().split()
    ]
    assert services
    for pid in services:
        os.kill(int(pid), signal.SIGTERM)
    _, errors = child.communicate("go on\n", timeout=120)
    assert child.returncode == 0
    assert "Traceback" not in errors
    track(tmp_path, 1344)
    assert server.steps() == list(range(64, 1345, 64))


def test_a_server_that_is_away_all_the_time_ends_in_bounded_time_and_gets_all_from_the_next_start(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("facegan.run.wandb_run.INIT_SECONDS", 1.0)
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 5.0)
    server.hanging.set()
    track(tmp_path, 64, 128, state="stopped")
    server.hanging.clear()
    track(tmp_path, 192)
    assert server.steps() == [64, 128, 192]
