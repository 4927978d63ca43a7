"""A run begun from another run's networks."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import result, tiny_job, tiny_recipe

from facegan.errors import FaceganError
from facegan.run.checkpoint import newest_checkpoint
from facegan.run.folder import check_resume
from facegan.run.snapshot import load_snapshot
from facegan.train.finetune import begin_from
from facegan.train.loop import train
from facegan.train.state import State

RECIPE = tiny_recipe("face-64", lr_schedule="constant")  # half runs are made longer here


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("first") / "run"
    assert train(tiny_job(RECIPE, run)).state == "finished"
    return run


def fresh() -> State:
    return State(RECIPE, 1, tiny_job(RECIPE, Path("unused")).machine)


def test_it_begins_with_the_averaged_generator_and_the_discriminator(first: Path) -> None:
    state = fresh()
    assert "discriminator of nimg-" in begin_from(state, first)
    average = load_snapshot(first).generator.state_dict()
    checkpoint = newest_checkpoint(first / "checkpoints", pytest.fail)
    assert checkpoint is not None and state.average is not None
    fitted = {"to_range.1.change", "to_range.1.bias", "to_range.2.weight"}  # anew, whenever a generator is stored
    assert all(average[name].any() for name in fitted)
    for network in (state.generator, state.average):
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, average[name] * (name not in fitted), rtol=0, atol=0)
    for name, value in state.discriminator.state_dict().items():
        assert torch.equal(value, checkpoint.tensors[f"discriminator/{name}"])


def test_a_snapshot_alone_leaves_the_discriminator_new(first: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(load_snapshot(first).path, alone)
    state, untouched = fresh(), fresh()
    assert "the discriminator is new" in begin_from(state, alone)
    assert torch.equal(next(state.discriminator.parameters()), next(untouched.discriminator.parameters()))
    assert not torch.equal(next(state.generator.parameters()), next(untouched.generator.parameters()))


def test_another_network_is_refused_by_name_and_shape(first: Path, tmp_path: Path) -> None:
    wider = tiny_job(dataclasses.replace(RECIPE, ngf=2 * RECIPE.ngf), tmp_path / "run", init_from=str(first))
    with pytest.raises(FaceganError, match=r"--init-from .*its generator is another network.*expected") as refused:
        train(wider)
    given = f"--set resolution={RECIPE.resolution} --set ngf={RECIPE.ngf} --set ndf={RECIPE.ndf}"
    assert f"train what it was made by: {RECIPE.name} {given}" in str(refused.value)


def test_a_run_begun_so_trains_resumes_and_needs_its_origin_no_longer(first: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    shutil.copytree(first, origin)
    settings = {"seed": 1, "init_from": str(origin)}
    assert train(tiny_job(RECIPE, tmp_path / "whole", **settings)).state == "finished"
    half = dataclasses.replace(RECIPE, kimg=RECIPE.kimg / 2)
    assert train(tiny_job(half, tmp_path / "cut", **settings)).state == "finished"
    shutil.rmtree(origin)
    assert train(tiny_job(RECIPE, tmp_path / "cut", **settings)).state == "finished"
    assert result(tmp_path / "cut")[0] == result(tmp_path / "whole")[0]


def test_a_run_of_before_the_flag_existed_resumes(first: Path) -> None:
    config = json.loads((first / "config.json").read_text())
    del config["settings"]["init_from"]
    job = tiny_job(RECIPE, first)
    check_resume(config, job.recipe, job.settings, job.data)
    other = dataclasses.replace(job.settings, init_from="elsewhere")
    with pytest.raises(FaceganError, match="init_from"):
        check_resume(config, job.recipe, other, job.data)
