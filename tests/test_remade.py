"""Shards that are made again: what is known of them is forgotten first, whatever they hold now."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_sets import pictures as random_pictures

from shards.make.closing import close_set
from shards.make.writer import Options, preprocess
from shards.read.verify import verify_set


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "faces").mkdir()
    for number, image in enumerate(random_pictures(6, 64, 64)):
        Image.fromarray(image).save(tmp_path / "faces" / f"{number}.png")
    return tmp_path / "faces"


def make(source: Path, index: int, members: str = "png") -> Path:
    """Write one of two slices, of one shard each; the folder of the set."""
    out = source.parent / "out"
    preprocess(Options(source, out, ((64, 64),), "none", slice=(index, 2), shard_size=3, members=members))
    return out / "64"


@pytest.mark.parametrize("members", ["png", "webp"])
def test_a_shard_made_of_another_picture_is_told_by_its_hash(source: Path, members: str) -> None:
    """Stored PNG shards have one length whatever they hold, WebP ones another."""
    for index in (0, 1):
        folder = make(source, index, members)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(source / "1.png")
    (folder / "train-00000.tar").unlink()
    make(source, 0, members)
    close_set(folder.parent)
    assert not verify_set(folder)


def test_pictures_that_were_mended_are_samples(source: Path) -> None:
    whole = {path: path.read_bytes() for path in sorted(source.iterdir())[:3]}
    for path in whole:
        path.write_bytes(b"no picture")
    for index in (0, 1):
        folder = make(source, index)
    for path, data in whole.items():
        path.write_bytes(data)
    (folder / ".parts" / "train-00000.jsonl").unlink()
    make(source, 0)
    (index,) = close_set(folder.parent).values()
    assert (index.splits["train"].samples, index.rejects and index.rejects.count) == (6, 0)
    assert not verify_set(folder)


def test_a_summary_of_other_shards_than_lie_there_is_written_again(source: Path) -> None:
    for index in (0, 1):
        folder = make(source, index, "webp")
    (summary,) = (folder / ".parts").glob("group-*.json")
    first = summary.read_text()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(source / "1.png")
    (folder / "train-00000.tar").unlink()
    make(source, 0, "webp")
    summary.write_text(first)
    close_set(folder.parent)
    assert not verify_set(folder)
