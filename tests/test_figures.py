"""Figures: what stands where, what is left untouched, what is left out."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from facegan import sampling
from facegan.errors import FaceganError
from facegan.networks import build_generator
from facegan.recipes import Recipe, load
from facegan.report import figures
from facegan.run.snapshot import write_snapshot
from jobs.cli import main
from jobs.synthetic.celeba import write_celeba
from shards import open_set


def small(name: str = "dcgan-64", **changes: object) -> Recipe:
    return dataclasses.replace(load(name), **{"ngf": 4, "ndf": 4, **changes})  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as facegan train leaves it: two grids, statistics, one snapshot."""
    recipe, folder = small(), tmp_path / "run"
    write_snapshot(folder / "snapshots", 2000, build_generator(recipe), recipe, 0, {})
    for nimg, value in ((0, 10), (2000, 200)):
        sampling.save_png(Image.new("RGB", (16, 16), (value,) * 3), folder / f"samples/fake-nimg-{nimg:012d}.png")
    rows = [{"progress/kimg": k, "loss/generator": 2.0 - k, "loss/real": 0.5} for k in range(3)]
    (folder / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"progress/k')
    return folder


def test_enlarging_repeats_pixels_and_invents_none() -> None:
    picture = Image.new("L", (2, 1))
    picture.putpixel((1, 0), 200)
    large = figures.enlarge(picture, 3)
    assert large.size == (6, 3) and sorted(set(large.tobytes())) == [0, 200]
    assert large.getpixel((2, 2)) == 0 and large.getpixel((3, 0)) == 200


def test_real_stands_left_of_generated() -> None:
    real, fake = torch.full((4, 3, 8, 8), 10, dtype=torch.uint8), torch.full((4, 3, 8, 8), 200, dtype=torch.uint8)
    picture = figures.real_and_fake(real, fake)
    bottom = picture.height - 1
    assert picture.getpixel((0, bottom))[0] == 10
    assert 200 in {picture.getpixel((x, bottom))[0] for x in range(18, picture.width)}


def test_train_mode_uses_batch_statistics_and_leaves_the_generator_alone() -> None:
    recipe = small()
    generator = build_generator(recipe).eval()
    before = copy.deepcopy(generator.state_dict())
    z = sampling.latents(0, 8, recipe.latent_dim)
    with torch.no_grad():
        expected = sampling.to_uint8(copy.deepcopy(generator).train()(z), "tanh")
    assert torch.equal(figures.generate_in_training(generator, z, "tanh"), expected)
    assert not torch.equal(expected, sampling.generate(generator, z))
    assert not generator.training
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())


def test_train_mode_draws_dropout_by_its_seed() -> None:
    recipe = load("wgan-gp-lfw")
    generator, z = build_generator(recipe).eval(), sampling.latents(0, 4, recipe.latent_dim)
    assert generator.dropout > 0
    same, again, other = (figures.generate_in_training(generator, z, "tanh", seed) for seed in (1, 1, 2))
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_checkerboard_draws_the_same_twice_and_spares_the_global_generator() -> None:
    state = torch.get_rng_state()
    one, two = figures.checkerboard(small()), figures.checkerboard(small())
    assert one.tobytes() == two.tobytes()
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dcgan-64", "train mode: batch statistics"),
        ("mlp-64", "train mode: the same, as this generator has neither batch statistics nor dropout"),
    ],
)
def test_the_train_mode_row_names_what_its_generator_has(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions: list[str] = []
    above = figures.above
    monkeypatch.setattr(figures, "above", lambda rows, said: captions.extend(said) or above(rows, said))
    recipe = dataclasses.replace(load(name), ngf=4)
    figures.eval_and_train(build_generator(recipe), torch.zeros(2, recipe.latent_dim), "tanh")
    assert captions[1] == says


def test_every_recipe_has_a_checkerboard_figure_of_its_own_or_dcgans() -> None:
    dcgan = figures.checkerboard(load("dcgan-64")).tobytes()
    for name in ("mlp-64", "dcgan-28"):
        assert figures.checkerboard_of(load(name)).tobytes() == dcgan
    assert figures.checkerboard_of(load("wgan-gp-lfw")).tobytes() != dcgan


def test_statistics_survive_a_cut_last_line_but_no_other_damage(run: Path) -> None:
    assert [row["progress/kimg"] for row in figures.read_stats(run)] == [0, 1, 2]
    (run / "stats.jsonl").write_text('{"broken\n{"progress/kimg": 1}\n')
    with pytest.raises(FaceganError, match="line 1: not JSON"):
        figures.read_stats(run)
    with pytest.raises(FaceganError, match="no statistics"):
        figures.read_stats(run / "nowhere")


def test_loss_curves_draw_the_panels_that_have_values() -> None:
    rows = [{"progress/kimg": k, "loss/generator": float(k), "loss/real": 1.0} for k in range(3)]
    two, one = (
        figures.loss_curves(rows),
        figures.loss_curves([{"progress/kimg": k, "loss/generator": 0.5} for k in range(2)]),
    )
    assert two.width == 2 * one.width + figures.GAP
    with pytest.raises(FaceganError, match="no losses"):
        figures.loss_curves([{"progress/kimg": 1}])


def test_before_and_after_are_the_first_and_last_grid(run: Path) -> None:
    picture = figures.before_and_after(run)
    values = {picture.getpixel((x, picture.height - 1)) for x in range(picture.width)}
    assert {(10, 10, 10), (200, 200, 200)} <= values
    (run / "samples" / f"fake-nimg-{0:012d}.png").unlink()
    with pytest.raises(FaceganError, match="expected at least 2"):
        figures.before_and_after(run)


def test_figures_command_draws_all_and_runs_again(run: Path) -> None:
    for _ in range(2):
        result = CliRunner().invoke(main, ["figures", str(run)])
        assert result.exit_code == 0, result.output
    names = {path.name for path in (run / "figures").iterdir()}
    assert names == {
        *("samples-80.png", "interpolation.png", "enlarged.png", "eval-train.png", "checkerboard.png"),
        *("losses.png", "before-after.png", "training.gif"),
    }
    with Image.open(run / "figures/samples-80.png") as picture:
        assert picture.size == (10 * 66 - 2, 8 * 66 - 2)
    with Image.open(run / "figures/training.gif") as movie:
        assert movie.n_frames == 2


def test_figures_shows_held_out_faces_beside_generated_ones(run: Path, tmp_path: Path) -> None:
    faces = write_celeba(tmp_path / "faces", 80, workers=1)
    for arguments in (
        ["preprocess", str(faces / "img_align_celeba"), str(tmp_path / "shards"), "--size", "64", "--workers", "1"],
        ["figures", str(run), "--data", str(tmp_path / "shards"), "--split", "test"],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    with Image.open(run / "figures/real-fake.png") as picture:
        first = open_set(tmp_path / "shards").split("test").gather(np.arange(1))[0]
        assert picture.crop((0, 22, 64, 86)).tobytes() == first.tobytes()  # below the caption
        assert picture.width == 2 * (5 * 66 - 2) + figures.GAP


def test_figures_shows_training_faces_where_none_are_held_out(run: Path, tmp_path: Path) -> None:
    write_celeba(tmp_path / "faces", 40, workers=1)
    source, shards = str(tmp_path / "faces/img_align_celeba"), str(tmp_path / "shards")
    for arguments in (
        ["preprocess", source, shards, "--size", "64", "--workers", "1", "--holdout", "0"],
        ["figures", str(run), "--data", shards],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert set(open_set(shards).index.splits) == {"train"}
    assert (run / "figures/real-fake.png").exists() and (run / "figures/training.gif").exists()


def test_figures_says_what_a_run_has_no_material_for(run: Path) -> None:
    (run / "stats.jsonl").unlink()
    result = CliRunner().invoke(main, ["figures", str(run)])
    assert result.exit_code == 0
    assert "losses: left out" in result.output and not (run / "figures/losses.png").exists()


def test_sample_gives_the_same_grid_for_the_same_seed(run: Path, tmp_path: Path) -> None:
    names = {"a": "1", "b": "1", "c": "2"}
    for name, seed in names.items():
        out = tmp_path / f"{name}.png"
        result = CliRunner().invoke(
            main, ["sample", str(run), "--n", "6", "--columns", "3", "--seed", seed, "--out", str(out)]
        )
        assert result.exit_code == 0 and str(out) in result.output
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in names)
    assert a == b != c
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (3 * 66 - 2, 2 * 66 - 2)


def test_sample_folder_holds_single_pictures_that_the_grid_shows(run: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["sample", str(run), "--n", "3", "--out", str(tmp_path / "faces")]).exit_code == 0
    assert runner.invoke(main, ["sample", str(run), "--n", "3", "--out", str(tmp_path / "grid.png")]).exit_code == 0
    names = sorted(path.name for path in (tmp_path / "faces").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]
    with Image.open(tmp_path / "faces/000001.png") as one, Image.open(tmp_path / "grid.png") as grid:
        assert one.tobytes() == grid.crop((66, 0, 130, 64)).tobytes()


def test_sample_takes_a_snapshot_folder_and_interpolates(run: Path) -> None:
    snapshot = next((run / "snapshots").iterdir())
    result = CliRunner().invoke(main, ["sample", str(snapshot), "--interpolate", "linear", "--n", "16"])
    assert result.exit_code == 0, result.output
    (made,) = (run / "samples").glob("linear-*.png")
    assert str(made) in result.output


def test_sample_makes_the_gif_of_the_training(run: Path) -> None:
    assert CliRunner().invoke(main, ["sample", str(run), "--gif"]).exit_code == 0
    with Image.open(run / "samples/training.gif") as movie:
        assert movie.n_frames == 2


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--gif", "--out", "x.png"], "ending in .gif"),
        (["--interpolate", "slerp", "--out", "x.jpg"], "ending in .png"),
    ],
)
def test_sample_explains_an_unfit_name(run: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["sample", str(run), *arguments])
    assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output


def test_sample_explains_a_folder_without_snapshots(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["sample", str(tmp_path)])
    assert result.exit_code == 1 and "no snapshot" in result.output
