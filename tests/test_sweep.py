"""`facegan sweep`: the plan, real runs one after another, the table, continuing, stopping."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from shard_sets import make_set
from test_tracking import pieces, records, summary

from facegan.errors import UsageError
from jobs.cli import main
from jobs.sweep import Run, Sweep, plan, summarise, train_arguments

TINY = ("--resolution", "16", "--ngf", "4", "--ndf", "4", "--batch-size", "6", "--samples", "4", "--wandb", "off")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["sweep", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    make_set(folder / "16", {"train": [40, 8], "val": [16]}, 16, 16)
    return folder


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))


def test_the_plan_is_every_combination_with_every_seed() -> None:
    runs = plan("dcgan-64", ("lr=1e-4,2e-4", "ngf=8,16"), 3)
    assert len(runs) == 2 * 2 * 3
    assert len({run.name for run in runs}) == 12
    assert runs[0].name == "lr-1e-4_ngf-8_seed-0"
    assert runs[-1].values == {"lr": "2e-4", "ngf": "16"}
    assert runs[-1].seed == 2


def test_without_values_the_plan_is_the_seeds() -> None:
    assert [run.name for run in plan("dcgan-64", (), 2)] == ["seed-0", "seed-1"]


def test_a_range_is_one_value_and_the_same_field_again_adds_to_it() -> None:
    runs = plan("dcgan-64", ("real_labels=0.9", "real_labels=0.7,1.2"), 1)
    assert [run.values["real_labels"] for run in runs] == ["0.9", "0.7,1.2"]


@pytest.mark.parametrize("grid", ["lr=1e-4,1e-4", "lr=1e-4,x", "no_such_field=1", "lr"])
def test_an_impossible_plan_is_refused(grid: str) -> None:
    with pytest.raises(UsageError):
        plan("dcgan-64", (grid,), 1)


def test_names_hold_no_character_that_a_shell_or_a_path_minds() -> None:
    (run,) = plan("dcgan-64", ("wandb_group=a b/../$(x);'",), 1)
    assert run.name == "wandb_group-a-b-..-x-_seed-0"
    assert run.values == {"wandb_group": "a b/../$(x);'"}


def test_an_option_that_train_does_not_know_is_refused_before_anything_runs(tmp_path: Path) -> None:
    result = invoke("dcgan-64", "--set", "lr=1e-4", "--no-such-option", "--out", tmp_path / "sweep")
    assert result.exit_code == 2
    assert "--no-such-option" in result.stderr
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("words", [("--mix", "b=1"), ("--set", "mix=b=1")])
def test_a_mixture_that_leaves_nothing_for_data_is_refused_before_anything_runs(
    words: tuple[str, str], tmp_path: Path
) -> None:
    result = invoke("dcgan-64", *words, "--data", "a", "--out", tmp_path / "sweep", "--dry-run")
    assert (result.exit_code, result.output.strip()) == (
        2,
        "Error: --mix b=1: the shares add up to 1: nothing is left for --data",
    )


def test_an_element_s_arguments_are_data_for_the_batch_file(tmp_path: Path) -> None:
    out = tmp_path / "a sweep"
    result = invoke("dcgan-64", "--set", "lr=1e-4,2e-4", "--data", "my $data", "--out", out, "--element", 1)
    words = result.stdout.split("\0")
    assert words[:3] == ["dcgan-64", "--data", "my $data"]
    assert words[words.index("--set") + 1] == "lr=2e-4"
    assert words[words.index("--run-dir") + 1] == str(out / "lr-2e-4_seed-0")
    assert words[-1] == ""
    assert invoke("dcgan-64", "--set", "lr=1e-4,2e-4", "--out", out, "--element", 2).exit_code == 2


def test_a_sweep_trains_all_runs_and_ends_with_table_and_csv(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    command = (
        "dcgan-64",
        "--set",
        "lr=1e-4,2e-4",
        *TINY,
        "--kimg",
        "0.012",
        "--eval-kimg",
        "0.012",
        "--data",
        data,
    )
    result = invoke(*command, "--log-kimg", "0.006", "--out", out)
    assert result.exit_code == 0, result.output
    rows = table(out)
    assert [(row["run"], row["lr"], row["state"]) for row in rows] == [
        ("lr-1e-4_seed-0", "1e-4", "finished"),
        ("lr-2e-4_seed-0", "2e-4", "finished"),
    ]
    assert all(float(row["loss G"]) > 0 for row in rows)
    assert any(name.startswith("swd") for name in rows[0])
    assert json.loads((out / "lr-2e-4_seed-0/config.json").read_text())["values"]["d_lr"] == 2e-4

    before = {path: path.stat().st_mtime_ns for path in out.glob("*/outcome.json")}
    again = invoke(*command, "--log-kimg", "0.006", "--out", out)
    assert again.exit_code == 0
    assert again.stdout == result.stdout
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/outcome.json")} == before

    other = invoke(*command, "--log-kimg", "0.012", "--out", out)
    assert other.exit_code == 1
    assert "another --out" in other.stderr


def test_ctrl_c_saves_the_run_and_stops_the_sweep(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "sweep", "dcgan-64", "--seeds", "2", *TINY, "--data", str(data)]
    options = ["--kimg", "100", "--log-kimg", "0.006", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "seed-0/stats.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, said = process.communicate()
    assert process.returncode == 130, said
    assert json.loads((tmp_path / "seed-0/outcome.json").read_text())["state"] == "stopped"
    assert not (tmp_path / "seed-1").exists()
    assert "not ended" in output


def test_the_table_gives_mean_and_deviation_over_the_seeds(tmp_path: Path) -> None:
    sweep = Sweep("dcgan-64", [], plan("dcgan-64", ("lr=1e-4",), 2))
    for run, numbers in zip(sweep.runs, ([30.0, 10.0, 12.0], [25.0, 20.0]), strict=True):
        folder = tmp_path / run.name
        folder.mkdir()
        lines = [json.dumps({"progress/nimg": i, "metrics/swd1k": value}) for i, value in enumerate(numbers)]
        (folder / "stats.jsonl").write_text("\n".join(lines) + "\n" + '{"progress/ni')
        (folder / "outcome.json").write_text(json.dumps({"state": "finished", "nimg": 2000}))
    text = summarise(sweep, tmp_path)
    assert "lr=1e-4  15 ± 7.1" in text
    rows = table(tmp_path)
    assert [(row["swd1k"], row["swd1k best"], row["kimg"]) for row in rows] == [
        ("12.0", "10.0", "2.0"),
        ("20.0", "20.0", "2.0"),
    ]


def made_up_outcomes(out: Path, *states: str) -> None:
    """What the runs of a sweep over these learning rates leave behind."""
    for rate, state in zip(("1e-4", "2e-4"), states, strict=True):
        folder = out / f"lr-{rate}_seed-0"
        folder.mkdir(parents=True)
        (folder / "stats.jsonl").write_text(json.dumps({"progress/nimg": 60, "metrics/swd1k": float(rate)}) + "\n")
        (folder / "outcome.json").write_text(json.dumps({"state": state, "nimg": 60}))


def sweep_alone(out: Path, *options: str) -> None:
    """The command in a process without anybody's W&B settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-m", "jobs", "sweep", "dcgan-64", "--set", "lr=1e-4,2e-4", "--out", str(out)]
    subprocess.run([*command, *options], env=environment, check=True, capture_output=True)


@pytest.mark.parametrize("options", [(), ("--table",)])
def test_a_finished_sweep_is_a_wandb_run_with_the_table_in_the_group_of_its_trainings(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    out = tmp_path / "rates"
    made_up_outcomes(out, "finished", "finished")
    sweep_alone(out, "--wandb", "offline", "--wandb-project", "ours", *options)
    (piece,) = pieces(out)
    (run,) = records(piece, "run")
    expected = {"project": "ours", "run_group": "rates", "job_type": "sweep", "display_name": "rates"}
    assert {key: run[key] for key in expected} == expected
    assert summary(piece)["config"]["tried"] == {"lr": ["1e-4", "2e-4"]}
    assert summary(piece)["summary"]["sweep/finished"] == 2
    (file,) = piece.glob("files/media/table/sweep/table_*.table.json")
    logged = json.loads(file.read_text())
    assert [dict(zip(logged["columns"], row, strict=True))["swd1k"] for row in logged["data"]] == [1e-4, 2e-4]
    trainings = train_arguments(Sweep("dcgan-64", [], plan("dcgan-64", (), 1)), out, Run("seed-0", {}, 0))
    assert trainings[trainings.index("--wandb-group") + 1] == run["run_group"]


@pytest.mark.parametrize(
    ("state", "options"), [("stopped", ("--wandb", "offline")), ("finished", ("--wandb", "off"))]
)
def test_a_sweep_that_goes_on_or_has_wandb_off_is_not_logged(
    tmp_path: Path, state: str, options: tuple[str, ...]
) -> None:
    made_up_outcomes(tmp_path, "finished", state)
    sweep_alone(tmp_path, *options, "--table")
    assert (tmp_path / "sweep.csv").exists()
    assert not (tmp_path / "wandb").exists()


def test_slurm_gets_the_whole_sweep_as_one_array(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    answers = {"sinfo": "gpu*|4|64|512000|gpu:a100:4|1-00:00:00|up", "sbatch": "77", "squeue": ""}
    for program, answer in answers.items():
        path = tmp_path / "bin" / program
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{tmp_path}/{program}.calls\necho "{answer}"\n')
        path.chmod(0o755)
    result = invoke("dcgan-64", "--set", "lr=1e-4,2e-4", "--seeds", 2, *TINY, "--data", data, "--slurm")
    assert result.exit_code == 0, result.output
    words = (tmp_path / "sbatch.calls").read_text().splitlines()
    assert "--array=0-3" in words
    job = words[-(len(TINY) + 9) :]
    assert job == [
        *("dcgan-64", *TINY, "--data", str(data), "--set", "lr=1e-4,2e-4", "--seeds", "2"),
        *("--out", "runs/sweep-dcgan-64"),
    ]
    assert len(json.loads((tmp_path / "runs/sweep-dcgan-64/sweep.json").read_text())["runs"]) == 4
    assert "77" in result.output
    assert "--table" in result.output


def test_the_best_of_a_share_is_its_highest_and_of_a_distance_its_lowest(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    rows = [{"metrics/swd1k": a, "metrics/randomnet_recall1k": b} for a, b in ((9.0, 0.2), (7.0, 0.6), (8.0, 0.4))]
    (tmp_path / "one" / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summarise(Sweep("dcgan-64", [], [Run("one", {}, 0)]), tmp_path)
    (line,) = csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines())
    assert (line["swd1k best"], line["randomnet_recall1k best"]) == ("7.0", "0.6")
