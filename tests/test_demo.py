"""The demo: one command from nothing to pictures, interrupted, continued and shown again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from facegan import sampling
from facegan.errors import FaceganError
from facegan.run.snapshot import load_snapshot
from jobs import demo
from jobs.cli import main

DEMO = [sys.executable, "-m", "jobs", "demo", "--faces", "80", "--kimg", "0.128", "--dir"]


def start(folder: Path) -> "subprocess.Popen[str]":
    """The demo as a terminal starts it: a process group of its own, which Ctrl-C reaches whole."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*DEMO, str(folder)],
        env=env,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    with process:
        said, _ = process.communicate(timeout=300)
    return process.returncode, said


def test_demo_interrupted_continues_finishes_and_shows_again(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = start(folder)
    while not (folder / "run/starts.jsonl").exists() and first.poll() is None:
        time.sleep(0.05)
    if first.poll() is None:
        os.killpg(first.pid, signal.SIGINT)
    code, said = finish(first)
    assert code == 130, said
    assert "the same command continues" in said and "Traceback" not in said
    assert json.loads((folder / "run/outcome.json").read_text())["state"] == "stopped"

    code, said = finish(start(folder))
    assert code == 0, said
    assert json.loads((folder / "run/outcome.json").read_text())["nimg"] == 128
    for name in ("before-after.png", "training.gif", "losses.png", "run/samples/real.png"):
        with Image.open(folder / name) as picture:
            picture.load()
        assert name in said
    assert "swd12, lower is better" in said and said.count("\n  facegan ") >= 3

    made = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}
    code, said = finish(start(folder))
    assert code == 0 and "$ facegan" not in said, said
    assert made == {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}

    untrained = load_snapshot(folder / f"run/snapshots/nimg-{0:012d}")
    z = sampling.latents(0, 64, untrained.recipe.latent_dim)
    grid = sampling.grid(sampling.generate(untrained.generator, z))
    with Image.open(folder / f"run/samples/fake-nimg-{0:012d}.png") as before:
        assert before.tobytes() == grid.tobytes()


@pytest.mark.parametrize("rate, kimg", [(1, demo.LEAST_KIMG), (200, 32.0), (10_000, demo.MOST_KIMG)])
def test_length_follows_the_speed_within_bounds(rate: float, kimg: float) -> None:
    assert demo.length_for(160, rate) == kimg


def test_speed_is_the_median_of_the_statistics(tmp_path: Path) -> None:
    rows = [{"progress/kimg": k, "speed/imgs_per_sec": speed} for k, speed in enumerate((20.0, 200.0, 210.0))]
    (tmp_path / "stats.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"loss/held_out": 1.0}])
    )
    assert demo.images_per_second(tmp_path) == 200


def test_a_folder_begun_otherwise_is_refused(tmp_path: Path) -> None:
    demo.make_plan(tmp_path, 80, 0)
    result = CliRunner().invoke(main, ["demo", "--dir", str(tmp_path), "--faces", "90"])
    assert result.exit_code == 1 and "--faces 80 --seed 0" in result.output
    (tmp_path / "demo.json").write_text("{")
    result = CliRunner().invoke(main, ["demo", "--dir", str(tmp_path), "--faces", "80"])
    assert result.exit_code == 1 and "damaged" in result.output and "Traceback" not in result.output


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text('{"recipe": "dcgan-64"}')
    with pytest.raises(FaceganError, match="a demo of dcgan-64, not of face-64"):
        demo.make_plan(tmp_path, 80, 0)
    assert not (tmp_path / "demo.json").exists()
    (tmp_path / "run/config.json").write_text("{")
    demo.make_plan(tmp_path, 80, 0)


def test_a_failed_step_ends_the_demo_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    demo.write_json(tmp_path / "demo.json", {"faces": 80, "seed": 0, "kimg": 0.64})
    (tmp_path / "shards").write_text("in the way")
    result = CliRunner().invoke(main, ["demo", "--dir", str(tmp_path), "--faces", "80"])
    assert result.exit_code == 1
    assert "not finished" in result.output and "Traceback" not in capfd.readouterr().err


def test_importing_the_demo_needs_no_torch() -> None:
    code = "import sys, jobs.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_folder_called_shards_where_the_demo_starts_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shards").mkdir()
    monkeypatch.chdir(tmp_path)
    demo.run_command("preprocess", "--help")  # would exit otherwise


def test_a_step_that_fails_ends_whoever_asked_for_it_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    """Also outside a command, as `bench/speedrun.py` asks."""
    with pytest.raises(SystemExit) as ended:
        demo.run_command("recipes", "no-such-recipe")
    assert ended.value.code == 2
    assert "the same command continues it" in capfd.readouterr().err
