"""`bench/deviations.py`: 1 for images of the same kind; what was changed in them shows, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shard_sets import make_set
from tiny import tiny_job, tiny_recipe
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))
import deviations

from facegan.train.loop import train

COLUMNS = ["64", "32", "16", "finest", "border", "direction 1", "direction 2", "direction 3"]


@pytest.fixture(scope="module")
def real() -> Tensor:
    """(32, 3, 64, 64) uint8 of every frequency, around grey."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn((32, 3, 64, 64), generator=random)
    coarse = torch.nn.functional.interpolate(torch.randn((32, 3, 8, 8), generator=random), 64, mode="bilinear")
    return (128 + 10 * noise + 20 * coarse).clamp(0, 255).to(torch.uint8)


def ratios(real: Tensor, images: Tensor) -> dict[str, float]:
    return dict(zip(COLUMNS, deviations.Deviations(real)(images).tolist(), strict=True))


def test_other_pictures_of_the_same_kind_have_ratios_of_one(real: Tensor) -> None:
    assert ratios(real, real.flip(3)) == pytest.approx(dict.fromkeys(COLUMNS, 1.0), abs=0.1)


def test_twice_the_contrast_is_two_at_every_level_and_nothing_along_normalised_directions(real: Tensor) -> None:
    wide = (128 + 2 * (real.float() - 128)).clamp(0, 255).to(torch.uint8)
    found = ratios(real, wide)
    for column in ("64", "32", "16", "finest", "border"):
        assert found[column] == pytest.approx(2, abs=0.15), found
    assert found["direction 1"] == pytest.approx(1, abs=0.1)


def test_noise_at_the_edge_is_seen_at_the_border_most(real: Tensor) -> None:
    edged = real.clone()
    edged[..., :2, :] = (real[..., :2, :].float() * 3 - 256).clamp(0, 255).to(torch.uint8)
    found = ratios(real, edged)
    assert found["border"] > 1.3 and found["border"] > found["64"] + 0.2
    assert found["finest"] == pytest.approx(1, abs=0.05)  # the window has nothing at the edge


def test_blur_takes_the_finest_and_leaves_the_coarse(real: Tensor) -> None:
    blurred = torch.nn.functional.avg_pool2d(real.float(), 3, 1, 1, count_include_pad=False).to(torch.uint8)
    found = ratios(real, blurred)
    assert found["finest"] < 0.2 < found["64"] < 0.4 < 0.8 < found["32"] < found["16"]


def test_runs_print_a_row_of_the_average_and_one_of_what_trains(tmp_path: Path) -> None:
    data, runs = tmp_path / "data", []
    make_set(data, {"train": [40], "val": [20]}, 16, 16)
    for seed in (0, 1):
        runs.append(tmp_path / f"run-{seed}")
        train(tiny_job(tiny_recipe("face-64", ema_kimg=0.01), runs[-1], seed=seed))
    command = [sys.executable, deviations.__file__, "--data", str(data), *map(str, runs)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == ["| other real pictures", "| average", "| generator"]
    assert {len(row) for row in rows[2:]} == {len(rows[0])} and " to " in rows[3][2]
