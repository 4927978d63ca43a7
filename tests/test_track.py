"""The replay of a run folder to trackers: every value once, whatever is called how often."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from test_tracking import pieces, records

from facegan.metrics import Measurement, record
from facegan.track.events import read_events
from facegan.track.trackers import INSTALL
from jobs.cli import main

LINES = [
    {"progress/nimg": k * 64, "progress/kimg": k * 0.064, "loss/generator": 0.1 * k, "scores/real": 1 / 3 - k}
    for k in range(1, 6)
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five lines of statistics, a measured one, held-out losses at the step of a line, a measurement, grids."""
    folder = tmp_path / "faces-1"
    (folder / "samples").mkdir(parents=True)
    write_lines(folder, LINES)
    more: list[dict[str, float]] = [
        {"progress/nimg": 320, "progress/kimg": 0.32, "loss/held_out_real": 0.7},
        {"progress/nimg": 320, "progress/kimg": 0.32, "metrics/swd1k": 21.25},
    ]
    write_lines(folder, more)
    (folder / "config.json").write_text(
        json.dumps({"recipe": "dcgan-64", "values": {"g_lr": 2e-4}, "settings": {}})
    )
    record(folder, [Measurement("swd", 320, {"metrics/swd1k": 21.25, "metrics/swd1k_16": 20.0}, {"n": 1024})])
    for nimg in (0, 320):
        Image.new("RGB", (8, 8), (nimg % 255, 0, 0)).save(folder / "samples" / f"fake-nimg-{nimg:012d}.png")
    return folder


def write_lines(folder: Path, rows: list[dict[str, float]]) -> None:
    with (folder / "stats.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def expected(run: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    values = {(key, row["progress/nimg"]): value for row in rows for key, value in row.items()}
    return values | {("metrics/swd1k_16", 320): 20.0}


def track(run: Path, target: str) -> str:
    result = CliRunner().invoke(main, ["track", str(run), "--to", target])
    assert result.exit_code == 0, result.stderr
    return result.output


def test_each_number_of_a_step_is_one_event_s(run: Path) -> None:
    told = [(key, event.step) for event in read_events(run) for key in [*event.values, *event.pictures]]
    assert len(told) == len(set(told)) == len(expected(run)) + 2
    assert [event.step for event in read_events(run)] == sorted(event.step for event in read_events(run))


def on_tensorboard(run: Path) -> list[tuple[str, int, float]]:
    """Numbers with their value, pictures with -1."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted((run / "tensorboard").glob("events.*"))
    found = [
        (event.step, value)
        for path in files
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    ]
    told = [
        (value.tag, step, value.tensor.double_val[0] if value.tensor.double_val else -1.0) for step, value in found
    ]
    return [row for row in told if row[0] != "config/text_summary"]


def test_tensorboard_has_every_value_once_after_two_replays_and_a_longer_run(run: Path) -> None:
    pytest.importorskip("tensorboard")
    pictures = [("samples/ema", 0, -1.0), ("samples/ema", 320, -1.0)]
    assert "10 events sent, 0 were there" in track(run, "tensorboard")
    once = sorted((key, step, value) for (key, step), value in expected(run).items())
    assert sorted(on_tensorboard(run)) == sorted(once + pictures)
    assert "0 events sent, 10 were there" in track(run, "tensorboard")
    assert sorted(on_tensorboard(run)) == sorted(once + pictures)
    write_lines(run, [{"progress/nimg": 384, "progress/kimg": 0.384, "loss/generator": 0.6}])
    assert "1 events sent, 10 were there" in track(run, "tensorboard")
    once = sorted((key, step, value) for (key, step), value in expected(run).items())
    assert sorted(on_tensorboard(run)) == sorted(once + pictures)


def test_wandb_offline_has_every_value_once_after_two_replays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "10 events sent, 0 were there" in track(run, "wandb")
    assert "0 events sent, 10 were there" in track(run, "wandb")
    rows = [record["item"] for piece in pieces(run) for record in records(piece, "history")]
    chosen = ("loss/", "metrics/")
    found = [(k, row["progress/kimg"], v) for row in rows for k, v in row.items() if k.startswith(chosen)]
    want = [(key, step / 1000, value) for (key, step), value in expected(run).items() if key.startswith(chosen)]
    assert sorted(found) == sorted(want)


def test_mlflow_has_every_value_once_after_two_replays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "10 events sent, 0 were there" in track(run, "mlflow")
    assert "0 events sent, 10 were there" in track(run, "mlflow")
    client = mlflow.MlflowClient((run / "mlruns").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("facegan").experiment_id])
    history = {
        (key, m.step): m.value
        for key in found.data.metrics
        for m in client.get_metric_history(found.info.run_id, key)
    }
    assert history == expected(run)
    assert found.data.params["g_lr"] == "0.0002"


ON_TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps(SQLiteStorage.get_logs("facegan", "faces-1"), default=str))
"""


def test_trackio_has_every_value_once_after_two_replays(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    told = []
    for _ in range(2):  # in processes of their own: it reads TRACKIO_DIR when it is imported
        command = [sys.executable, "-m", "jobs", "track", str(run), "--to", "trackio"]
        env = os.environ | {"TRACKIO_DIR": str(tmp_path / "board")}
        told.append(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    assert "10 events sent, 0 were there" in told[0] and "0 events sent, 10 were there" in told[1]
    assert "metrics logging" not in told[0]  # of this machine's processor
    read = subprocess.run([sys.executable, "-c", ON_TRACKIO], env=env, check=True, capture_output=True, text=True)
    rows = json.loads(read.stdout.splitlines()[-1])
    found = [(key, row["step"], row[key]) for row in rows for key in row if "/" in key]
    numbers = sorted(value for value in found if not value[0].startswith("samples/"))
    assert numbers == sorted((key, step, value) for (key, step), value in expected(run).items())
    assert sorted(value[:2] for value in found if value not in numbers) == [
        ("samples/ema", 0),
        ("samples/ema", 320),
    ]


@pytest.mark.parametrize("target", ["tensorboard", "trackio", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named_with_its_install_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setitem(sys.modules, target, None)
    result = CliRunner().invoke(main, ["track", str(run), "--to", target])
    assert result.exit_code == 2
    assert INSTALL[target] in result.stderr and "pip install" in result.stderr


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["track", str(tmp_path), "--to", "tensorboard"])
    assert result.exit_code == 1 and "nothing to replay here" in result.stderr
