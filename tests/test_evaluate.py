"""`facegan evaluate` on a real set of shards and a real snapshot, through the command line."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from shard_sets import make_set
from tiny import tiny_recipe
from torch import nn

from facegan.errors import UsageError
from facegan.metrics import protocol
from facegan.networks import build_discriminator, build_generator
from facegan.run.checkpoint import write_checkpoint
from facegan.run.settings import RunSettings
from facegan.run.snapshot import load_snapshot, write_snapshot
from facegan.train.augment import sharpen
from facegan.train.objective import scale_images
from jobs.chosen import chosen_images, held_out, held_out_images, holding_out
from jobs.cli import main
from jobs.data import Data, describe_data
from jobs.measuring import as_subject, during_training, train_images
from shards import Stream, open_set
from shards.errors import ShardError
from shards.format.index import load_index
from shards.read import stage

CPU = torch.device("cpu")
KEYS = ("swd24", "msssim24", "randomnet_kd24", "faces24_real", "nearest_ratio24", "overfit_auc24")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with three splits, and a run of two snapshots and a checkpoint."""
    home = tmp_path_factory.mktemp("home")
    make_set(home / "set" / "16", {"train": [40, 8], "val": [12], "test": [24]}, 16, 16)
    recipe = tiny_recipe("dcgan-64")
    for nimg in (64_000, 128_000):
        torch.manual_seed(nimg)
        write_snapshot(home / "run" / "snapshots", nimg, build_generator(recipe), recipe, 0, {})
    weights = {f"discriminator/{k}": v for k, v in build_discriminator(recipe).state_dict().items()}
    write_checkpoint(home / "run" / "checkpoints", 128_000, weights, {})
    (home / "run" / "config.json").write_text(json.dumps({"settings": {"data": str(home / "set")}}))
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACEGAN_FEATURES", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("FACEGAN_INCEPTION", "FACEGAN_DATA", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return shutil.copytree(home / "run", tmp_path / "run")


def facegan(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in ("evaluate", *arguments)])


def test_every_metric_that_needs_no_file_is_measured_and_kept_with_its_protocol(run: Path) -> None:
    done = facegan(run)
    assert done.exit_code == 0, done.output
    for key in KEYS:
        assert re.search(rf"128 +metrics/{key} +\S+", done.stdout)
    stored = protocol.read(run)
    assert {m.metric for m in stored} == {"swd", "msssim", "randomnet", "faces", "nearest", "overfit"}
    assert {m.nimg for m in stored} == {128_000}
    assert all(m.protocol["split"] == "test" and len(m.protocol["set"]) == 64 for m in stored)
    with Image.open(run / "samples" / "nearest-nimg-000000128000.png") as nearest:
        assert nearest.size == (8 * 16 + 7 * 2, 2 * 16 + 2)  # eight samples above eight training images


def test_the_same_command_again_reads_what_it_measured(run: Path) -> None:
    first = facegan(run, "--metrics", "swd", "--json")
    kept = (run / protocol.FILE).stat().st_mtime_ns
    again = facegan(run, "--metrics", "swd", "--json")
    assert again.stdout == first.stdout
    assert "pictures a side" not in again.stderr
    assert (run / protocol.FILE).stat().st_mtime_ns == kept
    assert "pictures a side" in facegan(run, "--metrics", "swd", "--again").stderr
    assert "pictures a side" in facegan(run, "--metrics", "swd", "--seed", 1).stderr
    assert len(protocol.read(run)) == 2


def test_all_snapshots_are_measured_and_the_best_is_named(run: Path) -> None:
    done = facegan(run, "--all", "--metrics", "swd", "--n", 16)
    values = {m.nimg: m.values["metrics/swd16"] for m in protocol.read(run)}
    assert values.keys() == {64_000, 128_000}
    lowest = min(values, key=values.__getitem__)
    assert f"best metrics/swd16: {values[lowest]:.4g} at {lowest / 1000:g} kimg" in done.stdout


def test_a_single_snapshot_folder_is_measured_into_its_run(run: Path) -> None:
    assert facegan(run / "snapshots" / "nimg-000000064000", "--metrics", "msssim").exit_code == 0
    assert [m.nimg for m in protocol.read(run)] == [64_000]


def test_runs_are_set_side_by_side_only_under_one_protocol(run: Path, home: Path, tmp_path: Path) -> None:
    other = shutil.copytree(home / "run", tmp_path / "other")
    facegan(other, "--metrics", "swd", "--n", 16)
    refused = facegan(run, "--metrics", "swd", "--compare", other)
    assert refused.exit_code == 1
    assert "cannot be compared:\n  n: 24 against 16" in refused.stderr
    beside = facegan(run, "--metrics", "swd", "--n", 16, "--compare", other)
    assert beside.exit_code == 0
    assert re.search(rf"metric +{run} +{other}", beside.stdout)
    assert "first: facegan evaluate" in facegan(run, "--metrics", "msssim", "--compare", other).stderr


def test_a_set_that_does_not_fit_and_a_run_without_a_set_are_explained(run: Path, tmp_path: Path) -> None:
    make_set(tmp_path / "wide", {"test": [10]}, 16, 20)
    wrong = facegan(run, "--data", tmp_path / "wide")
    assert wrong.exit_code == 1
    assert "16x20x3, the run makes 16x16x3" in wrong.stderr
    (run / "config.json").unlink()
    assert facegan(run).exit_code == 2
    assert "give --data" in facegan(run).stderr


def test_too_many_pictures_or_an_unknown_metric_are_refused(run: Path) -> None:
    assert "split 'test' has 24" in facegan(run, "--n", 100).stderr
    assert "there are swd, msssim" in facegan(run, "--metrics", "fid").stderr


def test_metrics_during_training_are_the_commands_own_and_are_kept(run: Path, home: Path) -> None:
    recipe = tiny_recipe("dcgan-64")
    torch.manual_seed(128_000)
    measure = during_training(open_set(home / "set"), recipe, RunSettings(run_dir=str(run)), CPU)
    row = measure(build_generator(recipe), 128_000)
    assert row.keys() >= {"metrics/swd12", "metrics/msssim12"}
    (stored, _) = protocol.read(run)
    assert stored.protocol["split"] == "val"  # test is what is reported later
    by_command = json.loads(facegan(run, "--metrics", "swd", "--split", "val", "--again", "--json").stdout)
    assert by_command[0]["values"] == pytest.approx(stored.values)
    assert by_command[0]["protocol"] == stored.protocol | {"snapshot": by_command[0]["protocol"]["snapshot"]}


def test_without_val_a_training_measures_on_what_it_trains_on_and_never_on_test(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "set" / "16", {"train": [40], "test": [24]}, 16, 16)
    settings, recipe = RunSettings(run_dir=str(run), eval_n=16), tiny_recipe("dcgan-64")
    measure = during_training(open_set(tmp_path / "set"), recipe, settings, CPU)
    measure(build_generator(recipe), 1000)
    assert {m.protocol["split"] for m in protocol.read(run)} == {"train"}
    assert "test stays unseen" in capsys.readouterr().err


def test_without_val_a_training_measures_on_what_it_holds_out_and_never_trains_on_that(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_set(tmp_path / "set" / "16", {"train": [130, 70], "test": [24]}, 16, 16)
    opened = open_set(tmp_path / "set")
    settings = holding_out(opened, RunSettings(run_dir=str(tmp_path / "new"), eval_kimg=1.0, eval_n=16))
    assert settings.hold_out == 16
    assert holding_out(opened, RunSettings(eval_kimg=0)).hold_out == 0
    learned = chosen_images(opened, settings)
    keys = set(learned.keys(np.arange(len(learned))))
    whole = opened.split("train")
    kept = set(whole.keys(held_out(200, 16)))
    assert len(keys) == 184 and not keys & kept and keys | kept == set(whole.keys(np.arange(200)))
    stream = Stream(learned, batch_size=8, seed=1)
    assert set(stream.keys_at(np.arange(184))) == keys
    assert describe_data(Data(opened), stream)["samples"] == 184  # what `facegan status` takes for an epoch
    followed = held_out_images(opened, settings)
    assert followed is not None and torch.equal(followed, whole.batch(held_out(200, 16)))
    measure = during_training(opened, tiny_recipe("dcgan-64"), dataclasses.replace(settings, run_dir=str(run)), CPU)
    measure(build_generator(tiny_recipe("dcgan-64")), 1000)
    assert {(m.protocol["split"], m.protocol["n"]) for m in protocol.read(run)} == {("train, held out 16", 16)}
    assert "16 pictures of train are held out" in capsys.readouterr().err
    config = {"settings": {"data": "", "hold_out": 16}, "data": {"fingerprint": opened.fingerprint}}
    (run / "config.json").write_text(json.dumps(config))
    assert len(train_images(opened, "test", run) or ()) == 184
    with pytest.raises(UsageError, match="--hold-out 200: expected less than the 200 of train"):
        holding_out(opened, RunSettings(hold_out=200))


def test_what_is_held_out_is_enough_to_measure_by_or_nothing(run: Path, home: Path, tmp_path: Path) -> None:
    make_set(tmp_path / "small" / "16", {"train": [79]}, 16, 16)
    make_set(tmp_path / "tiny" / "16", {"train": [7]}, 16, 16)
    opened, recipe = open_set(tmp_path / "small"), tiny_recipe("dcgan-64")
    asked = RunSettings(run_dir=str(tmp_path / "new"), eval_kimg=1.0, eval_n=8)
    settings = holding_out(opened, asked)
    assert settings.hold_out == 0
    measure = during_training(opened, recipe, dataclasses.replace(settings, run_dir=str(run)), CPU)
    assert "metrics/swd8" in measure(build_generator(recipe), 1000)
    for count in (-1, 7):
        with pytest.raises(
            UsageError, match=f"--hold-out {count}: expected 0, or at least the 8 that metrics need"
        ):
            holding_out(opened, dataclasses.replace(asked, hold_out=count))
    for place, n in ((home / "set", -5), (home / "set", 7), (tmp_path / "tiny", 8)):
        with pytest.raises(UsageError, match=r"--eval-kimg measures by -?\d pictures .* expected at least 8"):
            during_training(open_set(place), recipe, dataclasses.replace(asked, eval_n=n), CPU)


def test_with_a_stage_for_some_shards_nothing_is_held_out_and_one_shard_is_measured_by(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "ROOM_TIMEOUT", 1.0)
    make_set(tmp_path / "set", {"train": [16] * 20}, 16, 16)
    size = load_index(tmp_path / "set").shards[0].bytes
    opened = open_set(tmp_path / "set", stage=tmp_path / "stage", stage_limit=14 * size)
    asked = RunSettings(run_dir=str(tmp_path / "new"), eval_kimg=1.0, eval_n=100)
    with pytest.raises(UsageError, match=r"--hold-out 8: these are spread over all shards.* raise --stage-gb"):
        holding_out(opened, dataclasses.replace(asked, hold_out=8))
    settings = holding_out(opened, asked)
    assert settings.hold_out == 0 and held_out_images(opened, settings) is None
    recipe = tiny_recipe("dcgan-64")
    measure = during_training(opened, recipe, dataclasses.replace(settings, run_dir=str(run)), CPU)
    stream = Stream(chosen_images(opened, settings), batch_size=8, seed=1)
    assert "metrics/swd16" in measure(build_generator(recipe), 0)
    for _ in range(40):
        next(stream)
    assert "metrics/swd16" in measure(build_generator(recipe), 320)
    assert {m.protocol["split"] for m in protocol.read(run)} == {"train, first shard"}
    assert "the stage holds only some shards at a time" in capsys.readouterr().err


def test_what_a_run_held_out_is_left_out_of_its_own_set_and_split_alone(run: Path, home: Path) -> None:
    opened = open_set(home / "set")
    for split, fingerprint, expected in (
        ("train", opened.fingerprint, 8),
        ("val", opened.fingerprint, 48),
        ("train", "of another set", 48),
    ):
        config = {"settings": {"split": split, "hold_out": 40}, "data": {"fingerprint": fingerprint}}
        (run / "config.json").write_text(json.dumps(config))
        assert len(train_images(opened, "test", run) or ()) == expected
    with pytest.raises(UsageError, match=r"all of train are held out \(--hold-out 48\): give a smaller --hold-out"):
        chosen_images(opened, RunSettings(hold_out=48))


def test_an_unknown_split_is_named_with_those_there_are(home: Path) -> None:
    with pytest.raises(ShardError, match="no split 'tset', it has train, val, test"):
        holding_out(open_set(home / "set"), RunSettings(split="tset"))


def test_a_training_measures_what_it_is_told_and_is_refused_a_best_that_nothing_gives(
    run: Path, home: Path
) -> None:
    def measuring(**settings: object) -> Callable[[nn.Module, int], dict[str, float]]:
        return during_training(
            open_set(home / "set"), tiny_recipe("dcgan-64"), RunSettings(run_dir=str(run), **settings), CPU
        )

    measure = measuring(eval_metrics="randomnet", best_metric="randomnet_coverage12")
    assert "metrics/randomnet_coverage12" in measure(build_generator(tiny_recipe("dcgan-64")), 1000)
    with pytest.raises(UsageError, match="--best-metric fid1k_full: none of swd,"):
        measuring(best_metric="fid1k_full")
    with pytest.raises(UsageError, match="unknown metric 'speed'"):
        measuring(eval_metrics="speed")


def test_overfit_uses_the_critic_of_the_snapshots_own_time_or_says_that_there_is_none(run: Path) -> None:
    done = facegan(run, "--all", "--metrics", "overfit")
    assert done.exit_code == 0, done.output
    assert [m.nimg for m in protocol.read(run)] == [128_000]
    assert "overfit: not measured at 64 kimg" in done.stderr
    recipe = tiny_recipe("dcgan-64")
    torch.manual_seed(9)
    weights = {f"discriminator/{k}": v for k, v in build_discriminator(recipe).state_dict().items()}
    write_checkpoint(run / "checkpoints", 64_000, weights, {})
    facegan(run, "--all", "--metrics", "overfit")
    early, late = (m.values for m in protocol.read(run))
    assert early != late


def test_the_critic_scores_images_as_it_saw_them_in_training(tmp_path: Path) -> None:
    recipe = tiny_recipe("dcgan-64", sharpen=1.0)
    critic = build_discriminator(recipe)
    weights = {f"discriminator/{k}": v for k, v in critic.state_dict().items()}
    write_checkpoint(tmp_path / "checkpoints", 64_000, weights, {})
    write_snapshot(tmp_path / "snapshots", 64_000, build_generator(recipe), recipe, 0, {})
    score = as_subject(load_snapshot(tmp_path), tmp_path, CPU).critic
    images = torch.randint(256, (4, 3, *recipe.resolution), dtype=torch.uint8)
    expected = critic.eval()(sharpen(scale_images(images, recipe.value_range), 1.0))
    assert score is not None
    torch.testing.assert_close(score(images), expected.detach())


def test_two_launched_ranks_share_the_work_and_write_once(run: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, "-m", "jobs", "evaluate", str(run), "--metrics", "swd", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (two,) = json.loads(done.stdout)
    (one,) = json.loads(facegan(run, "--metrics", "swd", "--again", "--json").stdout)
    assert two["values"] == pytest.approx(one["values"], rel=1e-4)
