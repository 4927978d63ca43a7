"""Pictures from a generator: exact bytes, exact places, whole files."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from facegan import sampling
from facegan.errors import UsageError
from facegan.run.history import sample_grids
from facegan.train.objective import scale_images


class Flat(nn.Module):
    """Every pixel is tanh of z's first entry; a BatchNorm shows the mode it ran in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.norm(z)[:, :1, None, None]).expand(-1, 3, 8, 8)


@pytest.mark.parametrize("value_range", ["tanh", "sigmoid"])
def test_bytes_survive_scaling_and_back(value_range: str) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(sampling.to_uint8(scale_images(every, value_range), value_range), every)


def test_values_out_of_range_are_clamped() -> None:
    wild = torch.tensor([-7.0, 7.0]).view(1, 1, 1, 2)
    assert sampling.to_uint8(wild, "tanh").flatten().tolist() == [0, 255]


def test_latents_are_a_prefix_of_longer_ones_and_differ_by_seed() -> None:
    assert torch.equal(sampling.latents(1, 3, 5), sampling.latents(1, 9, 5)[:3])
    assert not torch.equal(sampling.latents(1, 3, 5), sampling.latents(2, 3, 5))


def test_generate_runs_in_eval_mode_whatever_the_batch_and_puts_the_mode_back() -> None:
    generator, z = Flat().train(), torch.randn(7, 4) * 3
    images = sampling.generate(generator, z, batch=2)
    assert images.shape == (7, 3, 8, 8) and images.dtype == torch.uint8
    assert torch.equal(images, sampling.generate(generator, z, batch=7))
    assert generator.training and not generator.norm.num_batches_tracked


def test_grid_puts_image_k_at_row_k_div_columns() -> None:
    images = torch.arange(5, dtype=torch.uint8).mul(10).view(5, 1, 1, 1).expand(5, 3, 4, 6).contiguous()
    picture = sampling.grid(images, columns=2, gap=1)
    assert picture.size == (13, 14)
    assert [picture.getpixel(at)[0] for at in [(0, 0), (7, 0), (0, 5), (7, 5), (0, 10)]] == [0, 10, 20, 30, 40]
    assert picture.getpixel((6, 0)) == picture.getpixel((7, 10)) == (255, 255, 255)


def test_grid_is_about_square_by_itself_and_grey_images_stay_grey() -> None:
    picture = sampling.grid(torch.zeros(10, 1, 4, 4, dtype=torch.uint8), gap=0)
    assert picture.size == (16, 12) and picture.mode == "L"


def test_slerp_keeps_the_norm_and_meets_both_ends() -> None:
    start, end = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    way = sampling.interpolate(start, end, 5)
    assert torch.allclose(way.norm(dim=1), torch.full((5,), 2.0))
    assert torch.allclose(way[2], torch.tensor([2.0, 2.0, 0.0]) / 2**0.5)
    assert torch.allclose(way[[0, -1]], torch.stack([start, end]))


def test_linear_goes_straight_and_opposite_ends_do_not_break_slerp() -> None:
    start = torch.tensor([1.0, 0.0])
    assert torch.allclose(sampling.interpolate(start, -start, 3), torch.tensor([[1.0, 0], [0, 0], [-1, 0]]))
    middle = sampling.interpolate(start, torch.tensor([0.0, 1.0]), 3, "linear")[1]
    assert torch.allclose(middle, torch.tensor([0.5, 0.5]))


def test_interpolation_rows_start_and_end_at_latents_of_the_seed() -> None:
    rows, ends = sampling.interpolation_rows(3, 2, 4, 6), sampling.latents(3, 4, 6)
    assert rows.shape == (8, 6)
    assert torch.allclose(rows[[0, 3, 4, 7]], ends, atol=1e-6)


@pytest.mark.parametrize("steps, kind", [(1, "slerp"), (4, "cubic")])
def test_impossible_interpolations_are_refused(steps: int, kind: str) -> None:
    with pytest.raises(UsageError, match="expected at least 2 steps, slerp or linear"):
        sampling.interpolate(torch.ones(2), torch.ones(2), steps, kind)


def test_a_failed_save_leaves_the_old_picture_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sampling.save_png(Image.new("L", (4, 4), 7), tmp_path / "grid.png")

    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", lambda handle: fail("", ""))
    with pytest.raises(OSError, match="disk full"):
        sampling.save_png(Image.new("L", (4, 4), 9), path)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
    with Image.open(path) as kept:
        assert kept.getpixel((0, 0)) == 7


def test_pngs_hold_the_generated_bytes(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 5, 4), dtype=torch.uint8)
    paths = sampling.save_pngs(images, tmp_path / "out", first=9)
    assert [path.name for path in paths] == ["000009.png", "000010.png", "000011.png"]
    with Image.open(paths[1]) as picture:
        assert picture.tobytes() == images[1].permute(1, 2, 0).contiguous().numpy().tobytes()


def test_gif_has_every_frame_in_order(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (0, 128, 255)]
    path = sampling.save_gif(frames, tmp_path / "training.gif", seconds=0.1, hold=1.0)
    with Image.open(path) as movie:
        assert movie.n_frames == 3
        durations = []
        for k in range(3):
            movie.seek(k)
            durations.append(movie.info["duration"])
        assert durations == [100, 100, 1000]
    with pytest.raises(UsageError, match="at least one frame"):
        sampling.save_gif([], tmp_path / "empty.gif")


def test_sample_grids_are_sorted_by_images_seen(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for name in ("fake-nimg-000200000.png", "fake-nimg-000000000.png", "real.png"):
        Image.new("L", (2, 2)).save(tmp_path / "samples" / name)
    assert [nimg for nimg, _ in sample_grids(tmp_path)] == [0, 200000]
