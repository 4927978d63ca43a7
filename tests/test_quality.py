"""The protocol of bench/quality.py: equal time by measured rates, settled statistics, a table between its marks."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from shard_sets import make_set
from tiny import tiny_recipe

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))
import quality

from facegan.networks import build_generator
from facegan.networks.standing import set_standing_statistics


def options(work: Path, **values: object) -> argparse.Namespace:
    return argparse.Namespace(**{"recipe": ["slow", "fast"], "work": work, "kimg": 0.0, "minutes": [5.0], **values})


def test_minutes_become_images_by_each_recipes_own_rate(tmp_path: Path) -> None:
    known = {"slow": 100.0, "fast": 150.0}
    assert dict(quality.budgets(options(tmp_path), known)) == {"5 min": {"slow": 30.0, "fast": 45.0}}
    assert dict(quality.budgets(options(tmp_path, kimg=10.0), known)) == {"10 kimg": {"slow": 10.0, "fast": 15.0}}


def test_rates_once_measured_are_kept(tmp_path: Path) -> None:
    (tmp_path / "rates.json").write_text(json.dumps({"slow": 1.0, "fast": 2.0, "other": 3.0}))
    assert quality.rates(options(tmp_path)) == {"slow": 1.0, "fast": 2.0, "other": 3.0}


def test_a_changed_recipe_has_a_folder_of_its_own() -> None:
    names = {
        quality.name(recipe) for recipe in ("face-64", "face-64 --kernel 3", "face-64  --kernel 3", "dcgan-64")
    }
    assert len(names) == 3 and "face-64" in names


def test_settled_statistics_are_those_of_the_generators_own_maps() -> None:
    torch.manual_seed(0)
    recipe = tiny_recipe("face-64")
    generator = build_generator(recipe)
    set_standing_statistics(generator, recipe.latent_dim)
    z = torch.randn(512, recipe.latent_dim)
    settled = generator(z).detach()
    torch.testing.assert_close(settled.mean(), generator.train()(z).detach().mean(), atol=0.01, rtol=0)
    assert any(b.abs().sum() > 0 for name, b in generator.named_buffers() if "running_mean" in name)


def test_a_table_shows_the_mean_and_the_worst_seed() -> None:
    seeds = [{"swd": 10.0, "face": 0.9}, {"swd": 14.0, "face": 0.8}]
    reals = ("other real pictures", "", [], [{"swd": 7.7, "face": 0.97}])
    text = quality.table([reals, ("`face-64`", "5 min", [30.0], seeds)])
    assert text.splitlines()[-1] == "| `face-64` | 5 min | 30.0 | 2 | 12 (14) | 0.85 (0.8) |"
    assert text.splitlines()[-2] == "| other real pictures |  |  |  | 7.7 | 0.97 |"


def test_draws_of_real_pictures_have_none_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "measure", lambda options, opened, subject: subject.generate(torch.empty(2, 1)))
    monkeypatch.setattr(quality, "MOST", 2)
    make_set(tmp_path, {"train": [6, 4], "test": [3]})
    opened, chosen = quality.open_set(tmp_path), argparse.Namespace(split="test")
    drawn = [quality.real_pictures(chosen, opened, "train", draw) for draw in range(3)]
    assert len({image.numpy().tobytes() for image in torch.cat(drawn)}) == 6


def test_real_pictures_are_measured_once_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def count(options: object, opened: object, split: str, draw: int) -> dict[str, float]:
        seen.append((split, draw))
        return {"swd": float(draw)}

    monkeypatch.setattr(quality, "real_pictures", count)
    make_set(tmp_path / "set", {"train": [6], "test": [3]})
    opened, chosen = quality.open_set(tmp_path / "set"), argparse.Namespace(split="test", work=tmp_path, draws=1)
    rows = [list(quality.real_rows(chosen, opened)) for _ in range(2)]
    assert rows[0] == rows[1] and rows[0][1][3] == [{"swd": 0.0}, {"swd": 1.0}, {"swd": 2.0}]
    assert seen == [("val", 0), ("train", 0), ("train", 1), ("train", 2)]


def test_choices_by_training_pictures_have_no_row_and_no_ratio_of_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(quality, "evaluate", lambda comparison, names: asked.append(names) or [])
    monkeypatch.setattr(quality, "row", lambda measured: {})
    monkeypatch.setattr(quality, "inception_extractor", lambda *_: None)
    make_set(tmp_path / "set", {"train": [6], "val": [3], "test": [3]}, 64, 64)
    opened = quality.open_set(tmp_path / "set")
    chosen = argparse.Namespace(split="train", draws=2, work=tmp_path, inception="", trust_inception=None)
    assert [row[0] for row in quality.real_rows(chosen, opened)] == ["other real pictures"]
    assert len(asked) == 2 and not any("nearest" in names for names in asked)
    list(quality.real_rows(argparse.Namespace(**{**vars(chosen), "split": "val"}), opened))
    assert all("nearest" in names for names in asked[2:]) and len(asked) == 2 + 4 * 2


def test_several_draws_of_latents_are_measured_and_their_means_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts: list[float] = []

    def evaluate(comparison: quality.Comparison, names: list[str]) -> list[object]:
        firsts.append(float(comparison.subject.generate(torch.full((1, 1), 1.0)).sum() + comparison.seed))
        return []

    monkeypatch.setattr(quality, "evaluate", evaluate)
    monkeypatch.setattr(quality, "row", lambda measured: {"metrics/swd1k": firsts[-1]})
    monkeypatch.setattr(quality, "faces_and_eyes", lambda images: {})
    monkeypatch.setattr(quality, "inception_extractor", lambda *_: None)
    make_set(tmp_path / "set", {"train": [6], "val": [3], "test": [3]})
    opened = quality.open_set(tmp_path / "set")
    subject = quality.Subject(lambda z: z.view(-1, 1, 1, 1).expand(-1, 3, 64, 64).byte(), 1, 0)
    chosen = argparse.Namespace(split="val", draws=3, work=tmp_path, inception="", trust_inception=None)
    numbers = quality.measure(chosen, opened, subject)
    assert len(set(firsts)) == 3 and list(numbers.values()) == [sum(firsts) / 3]
    one = argparse.Namespace(**{**vars(chosen), "draws": 1})
    assert quality.measured_by(chosen) == "val-3-draws" and quality.measured_by(one) == "val"


def test_a_table_replaces_the_one_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- q -->\nold\n<!-- /q -->\nafter\n")
    quality.write_between(page, "q", "new")
    assert page.read_text() == "before\n<!-- q -->\nnew\n<!-- /q -->\nafter\n"
    quality.write_between(page, "other", "added")
    assert page.read_text().endswith("<!-- other -->\nadded\n<!-- /other -->\n")


@pytest.mark.parametrize("value", [0, 255])
def test_there_is_no_face_in_a_blank_picture(value: int) -> None:
    pytest.importorskip("cv2")
    blank = torch.full((2, 3, 64, 64), value, dtype=torch.uint8)
    assert quality.faces_and_eyes(blank) == {"face": 0.0, "eyes": 0.0}
