"""W&B as a mirror: what it holds is read back with W&B's own reader; what goes wrong stays harmless."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from facegan.errors import UsageError
from facegan.run import wandb_run
from facegan.run.tracking import Tracker
from facegan.run.wandb_run import public


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "facegan.run.tracking"]


def row(nimg: int, **more: float) -> dict[str, Any]:
    return {"progress/nimg": nimg, "progress/kimg": nimg / 1000, "progress/epoch": nimg / 640, **more}


def inspect(folder: Path, *options: str) -> str:
    wandb = Path(sys.executable).with_name("wandb")
    command = [str(wandb), "leet", "inspect", "--json", *options, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def summary(folder: Path) -> dict[str, Any]:
    return json.loads(inspect(folder, "--summary"))


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, inspect(folder).splitlines())
    return [line[kind] for line in lines if line["type"] == kind]


def pieces(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def test_an_offline_run_holds_rows_pictures_and_config_with_kimg_as_the_axis(tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    Image.new("RGB", (8, 8), "red").save(grid)
    run_dir = tmp_path / "faces-1"
    tracker = Tracker(run_dir, "offline", {"recipe": "dcgan-64", "data": "faces"}, group="sweep-3", project="ours")
    tracker.log(row(64, **{"loss/generator": 1.5, "metrics/swd1k": 30.0}))
    tracker.log(row(128, **{"loss/generator": 1.25, "metrics/swd1k": 40.0}))
    tracker.log_images({"samples/ema": grid, "samples/real": tmp_path / "absent.png"}, row(128))
    tracker.finish("finished")

    (piece,) = pieces(run_dir)
    found = summary(piece)
    assert found["state"] == "finished"
    assert found["config"]["recipe"] == "dcgan-64"
    assert found["summary"]["loss/generator"] == 1.25
    assert found["summary"]["metrics/swd1k"] == {"last": 40.0, "min": 30.0}
    assert found["summary"]["samples/ema"]["width"] == 8
    assert found["summary"]["outcome"] == "finished"
    (run,) = records(piece, "run")
    assert (run["project"], run["run_group"], run["job_type"]) == ("ours", "sweep-3", "train")
    assert run["display_name"] == "faces-1"
    assert {"glob_name": "*", "step_metric": "progress/kimg"}.items() <= records(piece, "metric")[1].items()
    assert [line["step"]["num"] for line in records(piece, "history")] == [64, 128]


def test_a_restart_continues_the_same_wandb_run_and_another_job_type_has_its_own(tmp_path: Path) -> None:
    for nimg, state in ((64, "stopped"), (128, "finished")):
        tracker = Tracker(tmp_path, "offline", {})
        tracker.log(row(nimg))
        tracker.finish(state)
    Tracker(tmp_path, "offline", {}, job_type="evaluate").finish()

    ids = [summary(piece)["run_id"] for piece in pieces(tmp_path)]
    assert sorted(ids).count((tmp_path / "wandb" / "train.id").read_text().strip()) == 2
    assert len(set(ids)) == 2


def test_a_damaged_id_begins_a_new_run_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "train.id").write_text("../../etc")
    assert len(wandb_run.run_id(tmp_path, "train")) == 8
    assert "holds no run id" in caplog.text


def test_nothing_secret_is_logged(tmp_path: Path) -> None:
    config = {
        "data": "https://me:hunter2@host/faces.tar?X-Amz-Signature=hunter2",
        "wandb_api_key": "hunter2",
        "site": {"s3_token": "hunter2", "places": ["s3://me:hunter2@bucket/faces"]},
        "keys": 3,
    }
    assert public(config)["data"] == "https://host/faces.tar"
    assert public(config)["keys"] == 3
    code = (
        "import sys, pathlib, json; from facegan.run.tracking import Tracker;"
        "Tracker(pathlib.Path(sys.argv[1]), 'offline', json.loads(sys.stdin.read())).finish()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--url=https://host/?sig=hunter2"]
    subprocess.run(command, check=True, input=json.dumps(config), text=True)
    for path in (tmp_path / "wandb").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


def test_online_without_a_key_becomes_offline_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(tmp_path, "online", {})
    tracker.log(row(64))
    tracker.finish()
    assert tracker.mode == "offline"
    (warning,) = said(caplog)
    assert "no W&B key" in warning
    assert len(pieces(tmp_path)) == 1


@pytest.mark.parametrize("server", ["refuses", "is silent"])
def test_a_server_that_does_not_answer_costs_no_row(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if server == "is silent":
            listener.listen()
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr(wandb_run, "INIT_SECONDS", 1.0)
        tracker = Tracker(tmp_path, "auto", {})
        assert tracker.mode == "online"
        for nimg in (64, 128, 192):
            tracker.log(row(nimg))
        tracker.log_data(tmp_path / "index.json", "0" * 64)
        tracker.log_snapshot(tmp_path, 192)
        tracker.finish()
    (warning,) = said(caplog)
    assert "W&B does not answer" in warning
    (piece,) = pieces(tmp_path)
    assert [line["step"]["num"] for line in records(piece, "history")][:3] == [64, 128, 192]


KILL_THE_SERVICE = """
import pathlib, signal, sys, time
import psutil
from facegan.run.tracking import Tracker
run_dir = pathlib.Path(sys.argv[1])
tracker = Tracker(run_dir, "offline", {})
tracker.log({"progress/nimg": 0, "progress/kimg": 0})
while not list(run_dir.rglob("run-*.wandb")):
    time.sleep(0.01)
for child in psutil.Process().children(recursive=True):
    child.send_signal(signal.SIGKILL)
for nimg in range(64, 64_000, 64):
    tracker.log({"progress/nimg": nimg, "progress/kimg": nimg / 1000})
tracker.finish("failed")
print("training went on")
"""


def test_a_killed_wandb_service_is_said_once_and_nothing_raises(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILL_THE_SERVICE, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "training went on\n"
    assert done.stderr.count("W&B: rows not sent") == 1
    assert "Traceback" not in done.stderr


def test_off_imports_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from facegan.run.tracking import Tracker;"
        "t = Tracker(pathlib.Path(sys.argv[1]), 'off', {});"
        "t.log({'progress/nimg': 1}); t.log_images({}, {'progress/nimg': 1}); t.finish('finished');"
        "sys.exit('wandb' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert list(tmp_path.iterdir()) == []


def test_auto_follows_wandb_mode_and_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_run.resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_run.resolve_mode("auto") == "off"
    with pytest.raises(UsageError, match="one of auto, online"):
        wandb_run.resolve_mode("loud")


def test_a_key_in_netrc_counts_for_its_own_server_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    assert not wandb_run.has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_run.has_key()


def test_a_trained_run_shows_on_a_dashboard_what_a_person_looks_for(tmp_path: Path) -> None:
    """A real, tiny training, stopped and continued: one W&B run in two pieces."""
    for kimg in (0.03, 0.06):
        arguments = ["wgan-gp-64", str(tmp_path), str(kimg), 'wandb="offline"', "eval_kimg=0.03"]
        command = [sys.executable, str(Path(__file__).with_name("tiny.py")), *arguments]
        subprocess.run(command, check=True, capture_output=True)
    found: set[str] = set()
    for piece in pieces(tmp_path):
        assert summary(piece)["run_id"] == (tmp_path / "wandb" / "train.id").read_text().strip()
        for line in records(piece, "history"):
            found |= {key.partition(".")[0] for key in line["item"]}
    assert len(pieces(tmp_path)) == 2
    assert found >= {
        "progress/kimg",
        "progress/epoch",
        "loss/discriminator",
        "loss/generator",
        "loss/gp",
        "scores/real",
        "scores/fake",
        "grad/generator",
        "grad/discriminator",
        "lr/generator",
        "lr/discriminator",
        "speed/imgs_per_sec",
        "speed/data_wait_frac",
        "samples/ema",
    }


def test_a_preprocessing_is_a_wandb_job_of_its_own(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (80 * number, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    arguments = [
        str(tmp_path / "pictures"),
        str(tmp_path / "out"),
        "--size",
        "16",
        "--crop",
        "40",
        "--wandb",
        "offline",
    ]
    subprocess.run([sys.executable, "-m", "jobs", "preprocess", *arguments], check=True, capture_output=True)
    (piece,) = pieces(tmp_path / "out")
    (run,) = records(piece, "run")
    assert run["job_type"] == "preprocess"
    assert summary(piece)["summary"]["sets/16/train"] == 3
