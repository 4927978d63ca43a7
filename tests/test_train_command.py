"""`facegan train`: flags made from the recipes, the dry run, the set, and real runs with their exit codes."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from click.testing import CliRunner, Result
from shard_sets import make_set
from tiny import tiny_recipe

from facegan import recipes
from facegan.errors import UsageError
from facegan.recipes import recipe_classes
from facegan.run.machine import Machine
from facegan.run.settings import RunSettings
from jobs import training
from jobs.chosen import holding_out
from jobs.cli import main
from jobs.data import Data, open_data
from jobs.training import check_batch, keep_resolved
from shards import Stream, open_set
from shards.errors import ShardError
from shards.read import images as read_images

TINY = ("--resolution", "16", "--ngf", "4", "--ndf", "4", "--batch-size", "6", "--samples", "4", "--wandb", "off")


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["train", *arguments], env=environment)


def origins(*arguments: str, **environment: str) -> dict[str, tuple[str, str]]:
    """Field -> (value, origin) as the dry run prints them."""
    result = invoke(*arguments, "--dry-run", **environment)
    assert result.exit_code == 0, result.output
    rows = [line.split(maxsplit=2) for line in result.output.splitlines()[3:]]
    return {row[0]: (row[1], row[2]) for row in rows}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    make_set(folder / "16", {"train": [40, 8], "val": [6]}, 16, 16)
    return folder


def process(data: Path, run_dir: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "jobs",
        "train",
        "dcgan-64",
        *TINY,
        "--data",
        str(data),
        "--run-dir",
        str(run_dir),
    ]
    return subprocess.Popen(
        [*command, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", recipe_classes())
def test_each_recipe_s_help_shows_its_own_options_and_defaults(name: str) -> None:
    recipe = recipe_classes()[name]
    text = " ".join(invoke(name, "--help").output.split())
    for field in recipe.options():
        assert f"--{field.replace('_', '-')}" in text
    assert f"[default: {recipe().batch_size}]" in text
    assert f"[default: {recipe().resolution}]" in text


def test_the_list_names_every_recipe() -> None:
    output = invoke("--help").output
    assert all(f"\n  {name} " in output for name in recipe_classes())


def test_dry_run_shows_where_each_value_came_from(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps({"recipe": "dcgan-64", "values": {"ngf": 8, "ndf": 8, "latent_dim": 8}, "settings": {"seed": 5}})
    )
    values = origins(
        *(
            "dcgan-64",
            "--config",
            str(config),
            "--ngf",
            "32",
            "--set",
            "gp_weight=10",
            "--set",
            "critic_norm=layer",
        ),
        FACEGAN_NGF="16",
        FACEGAN_NDF="16",
    )
    assert values["ngf"] == ("32", "--ngf")
    assert values["ndf"] == ("16", "FACEGAN_NDF")
    assert values["latent_dim"] == ("8", f"--config {config}")
    assert values["seed"] == ("5", f"--config {config}")
    assert values["gp_weight"] == ("10.0", "--set gp_weight=10")
    assert values["kernel"] == ("4", recipe_classes()["dcgan-64"].source("kernel"))
    assert values["run_dir"][0] == "runs/dcgan-64"


def test_every_setting_reads_its_environment_variable() -> None:
    values = origins("dcgan-64", FACEGAN_DATA="/somewhere", FACEGAN_VERIFY="1", FACEGAN_KIMG="3", FACEGAN_LR="1e-5")
    assert values["data"] == ("/somewhere", "FACEGAN_DATA")
    assert values["verify"] == ("True", "FACEGAN_VERIFY")
    assert (values["kimg"][0], values["epochs"][0]) == ("3.0", "0.0")
    assert values["g_lr"] == values["d_lr"] == ("1e-05", "FACEGAN_LR")


def test_impossible_values_are_refused_before_anything_is_built() -> None:
    result = invoke("dcgan-64", "--loss", "nothing-known", "--dry-run")
    assert result.exit_code == 2
    assert "hinge" in result.stderr


def test_both_lengths_at_once_are_refused() -> None:
    result = invoke("dcgan-64", "--kimg", "1", "--epochs", "1", "--dry-run")
    assert result.exit_code == 2
    assert "kimg" in result.stderr


def test_missing_data_ends_in_one_error_with_the_preprocess_command(tmp_path: Path) -> None:
    for arguments in ([], ["--data", str(tmp_path / "none")]):
        result = invoke("wgan-gp-64", *arguments)
        assert result.exit_code == 1
        assert "facegan preprocess SRC " in result.stderr
        assert "--recipe wgan-gp-64" in result.stderr


def test_a_set_of_another_size_is_refused_with_both_ways_out(data: Path) -> None:
    result = invoke("dcgan-64", "--data", str(data / "16"))
    assert result.exit_code == 1
    assert "facegan preprocess SRC" in result.stderr


def test_a_run_finishes_and_the_same_command_ends_at_once(data: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run = process(data, tmp_path / "run", "--kimg", "0.03")
        _, said = run.communicate()
        assert run.returncode == 0, said
        assert "Finished at 0.03 kimg" in said
        assert f"facegan sample {tmp_path / 'run'}" in said
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["sources"]["kimg"] == "--kimg"
    assert config["data"]["fingerprint"]
    assert "was cropped unknown, dcgan-64 crops 150" in said
    assert (tmp_path / "run/samples/real.png").exists()


def test_a_run_without_val_holds_pictures_out_and_keeps_them_out_when_it_continues(tmp_path: Path) -> None:
    make_set(tmp_path / "set/16", {"train": [120]}, 16, 16)
    measured = ("--eval-kimg", "0.03", "--eval-metrics", "swd", "--eval-n", "8")
    for kimg in ("0.03", "0.06"):
        run = process(tmp_path / "set", tmp_path / "run", "--kimg", kimg, *measured)
        _, said = run.communicate()
        assert run.returncode == 0 and "8 pictures of train are held out" in said, said
    assert json.loads((tmp_path / "run/config.json").read_text())["settings"]["hold_out"] == 8
    rows = [json.loads(line) for line in (tmp_path / "run/stats.jsonl").read_text().splitlines()]
    assert {row["progress/nimg"] / row["progress/epoch"] for row in rows} == {112.0}
    assert sum("metrics/swd8" in row for row in rows) == 2


def test_a_run_that_began_without_metrics_has_nothing_held_out_later(tmp_path: Path) -> None:
    """Nor has one of a version that did not know the setting."""
    make_set(tmp_path / "set/16", {"train": [120]}, 16, 16)
    opened, settings = open_set(tmp_path / "set"), RunSettings(run_dir=str(tmp_path), eval_kimg=1.0, eval_n=8)
    assert holding_out(opened, keep_resolved(settings)).hold_out == 8
    stored = {"precision": "bf16", "cuda_graphs": "off", "threads": 3}
    for older in (stored, stored | {"hold_out": 0}):
        (tmp_path / "config.json").write_text(json.dumps({"settings": older}))
        assert holding_out(opened, keep_resolved(settings)).hold_out == 0


def test_a_run_shorter_than_a_line_of_stats_tells_its_speed(data: Path, tmp_path: Path) -> None:
    _, said = process(data, tmp_path / "run", "--kimg", "0.03", "--log-kimg", "1").communicate()
    assert re.search(r"^dcgan-64: 30 / 30 img \(100 %\), [\d.,]+/s, D ", said, re.MULTILINE), said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_same_command_continues(
    data: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run_dir = tmp_path / "run"
    run = process(data, run_dir, "--kimg", "100", "--log-kimg", "0.006")
    wait_for(run_dir / "stats.jsonl", run)
    run.send_signal(number)
    _, said = run.communicate()
    assert run.returncode == code, said
    assert "The same command continues" in said
    nimg = json.loads((run_dir / "outcome.json").read_text())["nimg"]
    run = process(data, run_dir, "--kimg", str((nimg + 60) / 1000))
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert f"continuing {run_dir / 'checkpoints'}" in said


def test_under_a_launcher_a_stopped_run_exits_0_and_the_outcome_says_it(data: Path, tmp_path: Path) -> None:
    run = process(data, tmp_path, "--kimg", "100", "--log-kimg", "0.006", ACCELERATE_MIXED_PRECISION="no")
    wait_for(tmp_path / "stats.jsonl", run)
    (tmp_path / "stop").touch()
    _, said = run.communicate()
    assert run.returncode == 0, said
    assert json.loads((tmp_path / "outcome.json").read_text())["state"] == "stopped"


def test_ranks_with_too_few_images_for_batchnorm_are_refused_with_the_ways_out(data: Path, tmp_path: Path) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [process(data, tmp_path / "run", **meeting, RANK=str(i), LOCAL_RANK=str(i)) for i in range(2)]
    said = ranks[0].communicate(timeout=120)[1] + ranks[1].communicate(timeout=120)[1]
    assert [rank.returncode for rank in ranks] == [2, 2], said
    assert "a batch of 6 over 2 ranks: 3 images a rank, and each rank's BatchNorm sees no others" in said
    assert "Ask for 1 ranks or fewer, or --batch-size 16" in said and "--sync-bn" not in said
    assert "Traceback" not in said


def test_a_run_begun_with_few_images_a_rank_for_batchnorm_goes_on_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, settings = tiny_recipe("dcgan-64"), RunSettings(run_dir=str(tmp_path))
    cpu, gpu = (cast(Machine, SimpleNamespace(world=2, device=torch.device(kind))) for kind in ("cpu", "cuda"))
    with pytest.raises(
        UsageError, match=r"sees no others; it needs 8\. Ask for 1 ranks or fewer, or --batch-size 16"
    ):
        check_batch(recipe, settings, cpu)
    with pytest.raises(UsageError, match=r"it needs 8\. Give --sync-bn, or ask for 1 ranks or fewer"):
        check_batch(recipe, settings, gpu)
    (tmp_path / "checkpoints/nimg-000000000060").mkdir(parents=True)
    check_batch(recipe, settings, cpu)
    assert "3 images a rank, and each rank's BatchNorm sees no others" in caplog.text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_stop_file_ends_a_plain_run_with_85(data: Path, tmp_path: Path) -> None:
    run = process(data, tmp_path, "--kimg", "100", "--log-kimg", "0.006")
    wait_for(tmp_path / "stats.jsonl", run)
    (tmp_path / "stop").touch()
    _, said = run.communicate()
    assert run.returncode == 85, said


def test_what_auto_became_stays_when_the_run_continues(data: Path, tmp_path: Path) -> None:
    for length in (("--kimg", "0.012", "--threads", "1"), ("--kimg", "0.024")):  # the second would take all cores
        run = process(data, tmp_path, *length)
        _, said = run.communicate()
        assert run.returncode == 0, said
    assert json.loads((tmp_path / "config.json").read_text())["settings"]["threads"] == 1


def wait_for(path: Path, run: subprocess.Popen[str]) -> None:
    while not path.exists() or not path.stat().st_size:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)


def test_verify_finds_a_flipped_bit_before_the_training(tmp_path: Path) -> None:
    make_set(tmp_path / "16", {"train": [12]}, 16, 16)
    shard = tmp_path / "16/train-00000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    result = invoke("dcgan-64", *TINY, "--data", str(tmp_path), "--verify", "--run-dir", str(tmp_path / "run"))
    assert result.exit_code == 1
    assert "train-00000.tar" in result.stderr
    assert not (tmp_path / "run").exists()


def test_verify_of_a_staged_set_leaves_it_to_the_stage_which_hashes_every_shard(tmp_path: Path) -> None:
    make_set(tmp_path / "16", {"train": [12]}, 16, 16)
    settings = RunSettings(data=str(tmp_path), stage=str(tmp_path / "stage"), verify=True)
    recipe = recipes.from_values("dcgan-64", {"resolution": "16"})
    open_data(recipe, settings).images(settings)
    shard = tmp_path / "16/train-00000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    shutil.rmtree(tmp_path / "stage")
    with pytest.raises(ShardError, match=r"train-00000\.tar: fetched twice"):
        open_data(recipe, settings).images(settings)


def test_what_the_first_start_resolved_is_kept_but_for_recordings_that_need_one_gpu(tmp_path: Path) -> None:
    stored = {"precision": "bf16", "cuda_graphs": "on", "threads": 3}
    (tmp_path / "config.json").write_text(json.dumps({"settings": stored}), encoding="utf-8")
    kept = keep_resolved(RunSettings(run_dir=str(tmp_path)))
    assert (kept.precision, kept.cuda_graphs, kept.threads) == ("bf16", "auto", 3)
    assert keep_resolved(RunSettings(run_dir=str(tmp_path), cuda_graphs="off")).cuda_graphs == "off"
    (tmp_path / "config.json").write_text(
        json.dumps({"settings": stored | {"cuda_graphs": "off"}}), encoding="utf-8"
    )
    assert keep_resolved(RunSettings(run_dir=str(tmp_path))).cuda_graphs == "off"


@pytest.mark.parametrize(("before", "now"), [("graph", "auto"), ("off", "off")])
def test_a_run_folder_from_before_cuda_graphs_had_a_flag_is_read(before: str, now: str, tmp_path: Path) -> None:
    stored = {"precision": "fp32", "compile": before, "threads": 3}
    (tmp_path / "config.json").write_text(json.dumps({"settings": stored}), encoding="utf-8")
    assert keep_resolved(RunSettings(run_dir=str(tmp_path))).cuda_graphs == now


def test_a_damaged_config_is_written_anew_by_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert keep_resolved(RunSettings(run_dir=str(tmp_path))) == RunSettings(run_dir=str(tmp_path))


def test_more_shards_than_are_mapped_are_read_in_streams_but_a_run_goes_on_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_set(tmp_path / "set", {"train": [2] * 16})
    opened = open_set(tmp_path / "set")
    data, run = Data(opened), RunSettings(run_dir=str(tmp_path / "run"))
    images = opened.split("train")
    assert data.order(run, images, 4) == "global" and Stream(images, 4, seed=0).order.name == "global"
    monkeypatch.setattr(read_images, "MAX_MAPPINGS", 15)
    assert data.order(run, images, 4) == "window"
    assert data.order(dataclasses.replace(run, cache="device"), images, 4) == "global"
    large = Stream(images, 4, seed=0)
    assert large.order.name == "window of 2 streams"
    training._warn_of_remapping(large)
    assert not caplog.records
    (tmp_path / "run").mkdir()
    for stored, kept in (("window of 2 streams", "window"), ("global", "global")):
        (tmp_path / "run" / "config.json").write_text(json.dumps({"data": {"order": stored}}))
        assert data.order(run, images, 4) == kept
    training._warn_of_remapping(Stream(images, 4, seed=0, order="global"))
    assert "16 shards are shuffled as one, as this run began" in caplog.text
    images.version = 1
    assert Stream(images, 4, seed=0).order.name == "global"
