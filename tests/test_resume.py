"""A run that is stopped, killed or robbed of unsynced files and started again equals the uninterrupted one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import ADAPTIVE, result, tiny_job, tiny_recipe

from facegan import recipes
from facegan.errors import FaceganError
from facegan.files import sha256_file
from facegan.run import stopping
from facegan.run.snapshot import load_snapshot
from facegan.train.job import Job
from facegan.train.loop import train

pytestmark = pytest.mark.slow
TINY = Path(__file__).with_name("tiny.py")

# Each recipe as it is, and the techniques no published recipe uses.
CASES = [(name, {}) for name in recipes.recipe_classes()] + [
    ("dcgan-64", {"diffaugment": "color,translation,cutout", "instance_noise": 0.1, "real_labels": "0.7,1.2"}),
    ("face-64", ADAPTIVE),
    ("face-64", {"sharpen": 1.0, "lr_schedule": "cooldown", "lr_cooldown": 0.8}),
    (
        "dcgan-64",
        {"loss": "relativistic", "r1_gamma": 1.0, "r2_gamma": 1.0, "critic_norm": "none", "penalty_every": 3},
    ),
    (
        "dcgan-64",
        {"loss": "hinge", "spectral_norm": True, "critic_norm": "none", "d_optimizer": "sgd", "flip": True},
    ),
    ("wgan-gp-64", {"critic_norm": "layer", "n_critic": 3, "fresh_latents": True}),
]
IDS = [f"{name}{'+' if changes else ''}{'-'.join(changes)[:30]}" for name, changes in CASES]


@pytest.fixture(autouse=True)
def look_after_every_step(monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)


def interrupted(job: Job, at: int) -> Job:
    """The job with somebody who leaves a stop-file once `at` images were seen."""

    def leave_stop_file(nimg: int, total: int, row: dict[str, float]) -> None:
        if nimg >= at:
            (Path(job.settings.run_dir) / "stop").touch()

    return Job(**{**vars(job), "progress": leave_stop_file})


@pytest.mark.parametrize(("name", "changes"), CASES, ids=IDS)
def test_a_stopped_run_goes_on_bit_for_bit(name, changes, tmp_path):
    recipe = tiny_recipe(name, **changes)
    assert train(tiny_job(recipe, tmp_path / "whole")).state == "finished"
    stopped = train(interrupted(tiny_job(recipe, tmp_path / "parts"), at=24))
    assert (stopped.state, stopped.nimg) == ("stopped", 24)
    assert load_snapshot(tmp_path / "parts").nimg == 24
    assert train(tiny_job(recipe, tmp_path / "parts")).state == "finished"
    assert result(tmp_path / "parts") == result(tmp_path / "whole")


def test_a_second_run_of_the_same_command_only_says_that_it_is_done(tmp_path):
    recipe = tiny_recipe("mlp-64")
    train(tiny_job(recipe, tmp_path))
    before = result(tmp_path)
    outcome = train(tiny_job(recipe, tmp_path))
    assert (outcome.state, result(tmp_path)) == ("finished", before)


def test_a_finished_run_can_be_made_longer(tmp_path):
    train(tiny_job(tiny_recipe("mlp-64", kimg=0.06), tmp_path / "longer"))
    train(tiny_job(tiny_recipe("mlp-64", kimg=0.12), tmp_path / "longer"))
    train(tiny_job(tiny_recipe("mlp-64", kimg=0.12), tmp_path / "whole"))
    assert result(tmp_path / "longer")[0] == result(tmp_path / "whole")[0]


def test_a_run_that_cooled_down_goes_back_up_when_it_is_made_longer(tmp_path):
    cooling = {"lr_schedule": "cooldown", "lr_cooldown": 0.5, "lr_final": 0.1, "batch_size": 12}
    for kimg in (0.12, 0.24):
        train(tiny_job(tiny_recipe("mlp-64", kimg=kimg, **cooling), tmp_path))
    rates = [row["lr/generator"] for row in result(tmp_path)[1] if "lr/generator" in row]
    full = tiny_recipe("mlp-64").g_lr
    assert rates[:5] == pytest.approx([full] * 5) and full / 10 < rates[9] < full / 3
    assert rates[10] == pytest.approx(full) and full / 10 < rates[-1] < full / 3


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"g_lr": 0.5}, {}),
        ({"batch_size": 12}, {}),
        ({}, {"seed": 9}),
        ({}, {"precision": "bf16"}),
        ({}, {"threads": 2}),
    ],
)
def test_going_on_with_another_configuration_is_refused_by_name(change, setting, tmp_path):
    train(tiny_job(tiny_recipe("mlp-64"), tmp_path))
    before = result(tmp_path)
    name, given = next(iter((change | setting).items()))
    with pytest.raises(FaceganError, match=rf"{name}: stored .*, given {given!r}"):
        train(tiny_job(tiny_recipe("mlp-64", **change), tmp_path, **setting))
    assert result(tmp_path) == before


def test_settings_that_change_nothing_computed_may_differ(tmp_path):
    train(tiny_job(tiny_recipe("mlp-64"), tmp_path))
    job = tiny_job(
        tiny_recipe("mlp-64", kimg=0.09), tmp_path, log_kimg=0.03, checkpoint_minutes=1, batch_per_rank=3
    )
    assert train(job).nimg == 90


def test_an_old_checkpoint_whose_removal_was_interrupted_goes_at_the_next_start(tmp_path):
    job = tiny_job(tiny_recipe("mlp-64", kimg=0.06), tmp_path, checkpoint_kimg=0.012)
    train(job)
    newest = max((tmp_path / "checkpoints").glob("nimg-*"))
    names = {path.name for path in newest.parent.glob("nimg-*")}
    shutil.copytree(newest, newest.with_name("nimg-000000000001"))
    train(job)
    assert {path.name for path in newest.parent.glob("nimg-*")} == names


def test_a_run_from_before_cuda_graphs_had_a_flag_goes_on(tmp_path):
    train(tiny_job(tiny_recipe("mlp-64"), tmp_path))
    for path in [tmp_path / "config.json", *tmp_path.glob("checkpoints/nimg-*/*.json")]:
        config = json.loads(path.read_text())
        settings = config.get("config", config).get("settings")
        if settings:
            settings["compile"] = "graph" if settings.pop("cuda_graphs") == "on" else "off"
            path.write_text(json.dumps(config))
    for manifest in tmp_path.glob("checkpoints/nimg-*/manifest.json"):
        hashes = {name: sha256_file(manifest.with_name(name)) for name in json.loads(manifest.read_text())}
        manifest.write_text(json.dumps(hashes))
    assert train(tiny_job(tiny_recipe("mlp-64", kimg=0.09), tmp_path)).nimg == 90


def test_unsynced_files_lost_with_the_power_change_nothing(tmp_path):
    """What was written after the last checkpoint is torn away or left half, as a power loss may do."""
    recipe = tiny_recipe("dcgan-64", kimg=0.12)
    train(tiny_job(recipe, tmp_path / "whole"))
    train(interrupted(tiny_job(recipe, tmp_path / "parts", checkpoint_kimg=0.036), at=60))
    run = tmp_path / "parts"
    newest = max((run / "checkpoints").glob("nimg-*"))
    (newest / "state.safetensors").write_bytes(b"\0" * 100)
    lines = (run / "stats.jsonl").read_text()
    (run / "stats.jsonl").write_text(lines[:-40])
    (run / "checkpoints" / ".nimg-000000000066.part").mkdir()
    assert train(tiny_job(recipe, run)).state == "finished"
    assert result(run) == result(tmp_path / "whole")
    assert list(newest.parent.glob(f"{newest.name}.damaged-*"))


def run_ranks(arguments: list[str], world: int) -> list[subprocess.Popen[str]]:
    """The ranks of one run as a launcher would start them, on the loopback."""
    port = str(random.Random(os.getpid() + time.monotonic_ns()).randrange(20000, 30000))
    processes = []
    for rank in range(world):
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TINY.parent.parent)}
        if world > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            env |= {"LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, str(TINY), *arguments]
        processes.append(
            subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
    return processes


def finish(processes: list[subprocess.Popen[str]], timeout: float = 120) -> list[int]:
    for process in processes:
        process.communicate(timeout=timeout)
    return [process.returncode for process in processes]


def wait_for_stats(run_dir: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Return once the run has written its first line; fails with the end of a rank that died before."""
    while not (run_dir / "stats.jsonl").exists():
        time.sleep(0.02)
        dead = next((p for p in processes if p.poll() is not None), None)
        assert dead is None, dead.communicate()[1][-3000:]


def test_thirty_kills_in_a_chain_leave_no_trace(tmp_path):
    """Two ranks, killed 30 times at random moments, every third time within the writing of a checkpoint."""

    def arguments(run: str, kimg: float) -> list[str]:
        often = ["checkpoint_kimg=0.012", "log_kimg=0.012", "sample_kimg=0.6"]
        return ["dcgan-64", str(tmp_path / run), str(kimg), *often]

    dice = random.Random(0)
    kills_in_writing = 0
    for kill in range(30):
        processes = run_ranks(arguments("killed", 600), 2)
        checkpoints = tmp_path / "killed" / "checkpoints"
        before = set(checkpoints.glob("nimg-*"))
        deadline = time.monotonic() + 300  # a busy machine takes a minute to start two ranks
        while set(checkpoints.glob("nimg-*")) <= before:
            time.sleep(0.002)
            assert all(p.poll() is None for p in processes), finish(processes)
            assert time.monotonic() < deadline, "no checkpoint was written"
        if kill % 3 == 0:
            while not list(checkpoints.glob(".nimg-*.part")) and time.monotonic() < deadline:
                pass
            kills_in_writing += bool(list(checkpoints.glob(".nimg-*.part")))
        else:
            time.sleep(dice.random() * 0.15)
        victims = processes if kill % 2 else processes[kill // 2 % 2 :][:1]
        for process in victims:
            process.kill()
        if len(victims) == 1:  # the other one must notice by itself, within a minute
            survivor = next(p for p in processes if p is not victims[0])
            survivor.wait(timeout=60)
        finish(processes)
    assert kills_in_writing >= 5
    kimg = int(max(checkpoints.glob("nimg-*")).name[5:]) / 1000 + 0.12
    assert finish(run_ranks(arguments("killed", kimg), 2), 300) == [0, 0]
    assert finish(run_ranks(arguments("whole", kimg), 2), 300) == [0, 0]
    assert result(tmp_path / "killed") == result(tmp_path / "whole")


def test_a_killed_run_says_at_its_next_start_what_happened(tmp_path):
    (process,) = run_ranks(["mlp-64", str(tmp_path), "60", "checkpoint_kimg=0.06"], 1)
    while not list((tmp_path / "checkpoints").glob("nimg-*")):
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    finish([process])
    nimg = int(max((tmp_path / "checkpoints").glob("nimg-*")).name[5:])
    assert not (tmp_path / "outcome.json").exists()
    (again,) = run_ranks(["mlp-64", str(tmp_path), f"{(nimg + 60) / 1000}", "checkpoint_kimg=0.06"], 1)
    assert finish([again]) == [0]
    first, second = (json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines())
    assert (first["nimg"], first["previous"]) == (0, "")
    assert second["nimg"] >= nimg and "killed" in second["previous"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_finishes_the_step_saves_and_exits_with_its_own_code(number, code, tmp_path):
    (process,) = run_ranks(["mlp-64", str(tmp_path), "600"], 1)
    wait_for_stats(tmp_path, [process])
    process.send_signal(number)
    assert finish([process]) == [code]
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["state"] == "stopped"
    newest = max((tmp_path / "checkpoints").glob("nimg-*"))
    assert outcome["nimg"] == int(newest.name[5:]) > 0


def test_a_stop_file_ends_a_run_with_85_and_is_gone_at_the_next_start(tmp_path):
    (process,) = run_ranks(["mlp-64", str(tmp_path), "600"], 1)
    wait_for_stats(tmp_path, [process])
    (tmp_path / "stop").touch()
    assert finish([process]) == [85]
    nimg = json.loads((tmp_path / "outcome.json").read_text())["nimg"]
    (again,) = run_ranks(["mlp-64", str(tmp_path), str((nimg + 60) / 1000)], 1)
    assert finish([again]) == [0]


def test_a_loss_that_is_not_finite_stops_the_run_by_name_and_keeps_the_last_checkpoint(tmp_path):
    recipe = tiny_recipe("mlp-64", kimg=0.3)
    job = tiny_job(recipe, tmp_path, checkpoint_kimg=0.03)
    images = job.stream.images.float()
    state = {}

    class Poisoned(type(job.stream)):
        def __next__(self):
            return images[:6].to(torch.uint8)

    job.stream.__class__ = Poisoned
    from facegan.train import step

    real_update = step.Step._update

    def update(self, which, parts, gradients):
        grads, terms = gradients
        if parts[0].nimg == 60 and which == "discriminator":
            grads = [g * float("nan") for g in grads]
        real_update(self, which, parts, (grads, terms))
        if parts[0].nimg == 60 and which == "generator":
            state["weights"] = [p.clone() for p in self.state.discriminator.parameters()]

    step.Step._update = update
    try:
        outcome = train(job)
    finally:
        step.Step._update = real_update
    assert outcome.state == "failed" and outcome.exit_code == 1
    assert "grad/discriminator" in outcome.reason and "60" in outcome.reason
    assert all(torch.isfinite(p).all() for p in state["weights"])
    newest = max((tmp_path / "checkpoints").glob("nimg-*"))
    assert int(newest.name[5:]) == 60
    shutil.rmtree(tmp_path)
