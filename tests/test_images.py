"""Reading images by number: stored shards as arrays, whole splits on a device, sets found by their folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shard_sets import make_set, write_index

import shards
from shards.errors import ShardError
from shards.format.columns import Shard
from shards.format.png import Geometry


@pytest.mark.parametrize(("height", "width", "channels"), [(64, 64, 3), (9, 5, 1), (62, 47, 3), (1, 1, 3)])
def test_gather_gives_the_pixels_written_whatever_the_size(
    tmp_path: Path, height: int, width: int, channels: int
) -> None:
    written = make_set(tmp_path, {"train": [3, 0, 5, 1], "val": [2]}, height, width, channels)
    opened = shards.open_set(tmp_path)
    for split, expected in written.items():
        images = opened.split(split)
        wanted = np.random.default_rng(0).integers(0, len(expected), 40)
        assert np.array_equal(images.gather(wanted), expected[wanted])
        assert images.keys(wanted) == [f"{split[0]}{number:06d}" for number in wanted]
        assert len(images) == len(expected)
        assert images.gather(wanted[:0]).shape == (0, height, width, channels)
        assert images.batch(wanted[:0]).shape == (0, channels, height, width)


def test_a_batch_lies_in_the_order_of_channels_last_and_becomes_dense_with_its_first_conversion(
    tmp_path: Path,
) -> None:
    written = make_set(tmp_path, {"train": [6]})["train"]
    batch = shards.open_set(tmp_path).split("train").batch(np.array([5, 0, 5]))
    assert batch.shape == (3, 3, 8, 8) and batch.dtype == torch.uint8
    assert batch.stride(1) == 1 and batch.stride(3) == 3
    for dense in (batch.float(), torch.empty_like(batch).copy_(batch), batch.to(torch.bfloat16)):
        assert dense.is_contiguous(memory_format=torch.channels_last)
        assert np.array_equal(dense.float().numpy().transpose(0, 2, 3, 1), written[[5, 0, 5]])


def mappings_below(folder: Path) -> int:
    """Shards of the set that this process has mapped; not the columns of its index."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return sum(str(folder) in line and line.endswith(".tar") for line in lines)


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_shards_that_are_mapped_keep_no_descriptor_and_are_unmapped_with_their_images(tmp_path: Path) -> None:
    make_set(tmp_path, {"train": [2] * 40})
    before = open_descriptors()
    images = shards.open_set(tmp_path).split("train")
    images.gather(np.arange(80))
    assert (mappings_below(tmp_path), open_descriptors()) == (40, before)
    del images
    assert mappings_below(tmp_path) == 0


def test_no_more_shards_are_mapped_than_a_limit_and_the_least_recently_used_go(tmp_path: Path) -> None:
    written = make_set(tmp_path, {"train": [3] * 30})["train"]
    images = shards.open_set(tmp_path).split("train")
    images.mapped.limit = 8
    rng = np.random.default_rng(0)
    for _ in range(60):
        wanted = rng.integers(0, 90, 6)
        assert np.array_equal(images.gather(wanted), written[wanted])
        assert mappings_below(tmp_path) == images.mapped.count <= 8
    images.gather(np.array([0]))
    for shard in range(1, 9):
        images.gather(np.array([0, 3 * shard]))
    assert "train-00000.tar" in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert np.array_equal(images.gather(np.arange(90)), written)  # one batch of more shards than the limit


def test_a_gathered_batch_is_the_callers_to_change(tmp_path: Path) -> None:
    written = make_set(tmp_path, {"train": [4]})["train"]
    images = shards.open_set(tmp_path).split("train")
    images.gather(np.array([1]))[:] = 0
    assert np.array_equal(images.gather(np.array([1]))[0], written[1])


@pytest.mark.parametrize("wanted", [[-1], [4], [0, 9]])
def test_a_sample_that_does_not_exist_is_refused(tmp_path: Path, wanted: list[int]) -> None:
    make_set(tmp_path, {"train": [4]})
    with pytest.raises(ShardError, match="there are 0 to 3"):
        shards.open_set(tmp_path).split("train").gather(np.array(wanted))


def test_an_image_viewer_sees_the_same_pixels(tmp_path: Path) -> None:
    make_set(tmp_path, {"train": [2]}, 16, 16)
    images = shards.open_set(tmp_path).split("train")
    record = (tmp_path / "train-00000.tar").read_bytes()[512:]
    (tmp_path / "first.png").write_bytes(record)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "first.png")), images.gather(np.array([0]))[0])


def test_the_device_holds_the_same_images_behind_the_same_order(tmp_path: Path) -> None:
    make_set(tmp_path, {"train": [5, 4]})
    images = shards.open_set(tmp_path).split("train")
    device = shards.DeviceImages(images, "cpu")
    wanted = np.array([8, 0, 3])
    assert torch.equal(device.batch(wanted), images.batch(wanted))
    assert device.batch(wanted).is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(device.gather(wanted), images.gather(wanted))
    assert device.keys(wanted) == images.keys(wanted)
    streams = (shards.Stream(each, batch_size=4, seed=1) for each in (images, device))
    assert all(torch.equal(a, b) for _, a, b in zip(range(6), *streams, strict=False))
    with pytest.raises(ShardError, match="there are 0 to 8"):
        device.batch(np.array([9]))


def test_a_set_is_found_by_its_folder_or_by_its_resolution(tmp_path: Path) -> None:
    make_set(tmp_path / "64", {"train": [1]}, 16, 16)
    make_set(tmp_path / "62x47", {"train": [1]}, 62, 47)
    assert shards.open_set(tmp_path / "62x47").height == 62
    (tmp_path / "62x47" / "index.npy").rename(tmp_path / "kept")
    assert shards.open_set(tmp_path, resolution=16).width == 16  # and the columns of the other are not read
    (tmp_path / "kept").rename(tmp_path / "62x47" / "index.npy")
    with pytest.raises(ShardError, match=r"several sets \(62x47 \(62 px\), 64 \(16 px\)\)"):
        shards.open_set(tmp_path)
    with pytest.raises(ShardError, match="no set of resolution 128; there is 62x47"):
        shards.open_set(tmp_path, resolution=128)
    with pytest.raises(ShardError, match="no set of resolution 64; there is 62x47"):
        shards.open_set(tmp_path / "62x47", resolution=64)
    with pytest.raises(ShardError, match=r"empty/index.json: there is no such file"):
        shards.open_set(tmp_path / "empty")


def test_a_missing_split_is_named_beside_those_there_are(tmp_path: Path) -> None:
    make_set(tmp_path, {"train": [1], "val": [1]})
    with pytest.raises(ShardError, match="no split 'test', it has train, val"):
        shards.open_set(tmp_path).split("test")


def test_a_missing_or_truncated_shard_is_said_when_the_split_is_opened(tmp_path: Path) -> None:
    make_set(tmp_path, {"train": [2, 2], "val": [1]})
    shard = tmp_path / "train-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(
        ShardError, match=r"train-00001.tar: [\d,]+ bytes, the index says [\d,]+; .facegan shards ver"
    ):
        shards.open_set(tmp_path).split("train")
    shard.unlink()
    with pytest.raises(ShardError, match=r"train-00001.tar: in the index, but cannot be read: No such file"):
        shards.open_set(tmp_path).split("train")
    assert len(shards.open_set(tmp_path).split("val")) == 1


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, shards; print(sorted({'torch', 'numpy', 'PIL', 'webdataset'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_opening_hashes_and_reads_nothing_so_that_the_first_batch_comes_at_once(tmp_path: Path) -> None:
    """200,000 images of 64 px in sparse files, whose hash in the index cannot be right."""
    geometry = Geometry(64, 64, 3)
    entries = []
    for number in range(20):
        path = tmp_path / f"train-{number:05d}.tar"
        path.touch()
        os.truncate(path, geometry.shard_bytes(10_000))
        entries.append(Shard(path.name, "train", 10_000, path.stat().st_size, "0" * 64))
    write_index(tmp_path, entries, geometry)
    batch = next(shards.Stream(shards.open_set(tmp_path).split("train"), batch_size=128, seed=0))
    assert batch.shape == (128, 3, 64, 64)
    assert not batch.any()
