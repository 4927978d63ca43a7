"""Labels come with the pixels, and choose which samples are read."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from pictures import jpegs, write_folder, write_zip

import shards
from facegan.run.settings import RunSettings
from jobs.chosen import chosen_images
from shards.errors import ShardError
from shards.make import groups
from shards.make.writer import Options, preprocess
from shards.read.labels import Subset

COUNT = 12


def from_before(folder: Path) -> Path:
    """The set as it was made before there were columns of labels."""
    index = shards.load_index(folder)
    for table in index.labels:
        (folder / table.name).unlink()
    dataclasses.replace(index, labels=()).write(folder)
    return folder


@pytest.fixture(scope="module", params=["columns", "side table"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Twelve pictures; every second smiles, the first five are male, identities 7 and 9 in turn; ten are train."""
    where = tmp_path_factory.mktemp("labelled")
    names = [f"{i:06d}.jpg" for i in range(1, COUNT + 1)]
    attributes = [f"{name}  {1 if i % 2 else -1}  {1 if i < 5 else -1}" for i, name in enumerate(names)]
    write_folder(
        where,
        {
            "list_attr_celeba.txt": "\n".join([str(COUNT), "Smiling Male", *attributes, ""]).encode(),
            "identity_CelebA.txt": "".join(f"{name} {7 + 2 * (i % 2)}\n" for i, name in enumerate(names)).encode(),
            "list_eval_partition.txt": "".join(f"{name} {i // 10}\n" for i, name in enumerate(names)).encode(),
        },
    )
    source = write_zip(where / "img_align_celeba.zip", jpegs(COUNT))
    preprocess(Options(source, where / "out", ((16, 16),), shard_size=4))
    made = where / "out" / "16"
    return from_before(made) if request.param == "side table" else made


def test_labels_are_those_of_the_annotation_files(folder: Path) -> None:
    labels = shards.open_set(folder).labels("train")
    assert labels.names == ("Smiling", "Male")
    assert labels.values.tolist() == [[i % 2, int(i < 5)] for i in range(10)]
    assert labels.identities.tolist() == [0, 1] * 5
    assert len(shards.open_set(folder).labels("val")) == 2


@pytest.mark.parametrize("streams", [None, 3])
def test_a_batch_comes_with_the_labels_of_its_samples(folder: Path, streams: int | None) -> None:
    opened = shards.open_set(folder)
    images, labels = opened.split("train"), opened.labels("train")
    stream = shards.Stream(images, batch_size=6, seed=1, rank=1, world=2, streams=streams)
    for (batch, beside), _ in zip(stream.labelled(labels), range(9), strict=False):
        positions = np.arange(stream.nimg - 3, stream.nimg)
        numbers = np.array([int(key) - 1 for key in stream.keys_at(positions)])
        assert beside.values.tolist() == labels.values[numbers].tolist()
        assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), images.gather(numbers))


def test_labels_of_the_whole_split_are_refused_beside_a_part_of_it(folder: Path) -> None:
    opened = shards.open_set(folder)
    labels, subset = opened.labels("train"), Subset(opened.split("train"), opened.choose("train", "Smiling=1"))
    stream = shards.Stream(subset, batch_size=5, seed=1)
    with pytest.raises(ShardError, match=r"labels of 10 samples for a stream of 5: .*subset\.numbers"):
        next(stream.labelled(labels))
    _, beside = next(stream.labelled(labels[subset.numbers()]))
    assert beside.values.tolist() == [[1, int(int(key) <= 5)] for key in stream.keys_at(np.arange(5))]


@pytest.mark.parametrize("streams", [None, 2])
def test_a_subset_streams_each_of_its_samples_once_an_epoch_and_no_other(folder: Path, streams: int | None) -> None:
    opened = shards.open_set(folder)
    images = chosen_images(opened, RunSettings(where="Smiling=1, Male=0"))
    assert images.keys(np.arange(len(images))) == ["000006", "000008", "000010"]
    stream = shards.Stream(images, batch_size=2, seed=3, streams=streams)
    read = stream.keys_at(np.arange(12))
    for first in range(0, 12, 2):
        wanted = np.array([int(key) - 1 for key in read[first : first + 2]])
        assert np.array_equal(next(stream).permute(0, 2, 3, 1).numpy(), opened.split("train").gather(wanted))
    assert [sorted(read[first : first + 3]) for first in range(0, 12, 3)] == [["000006", "000008", "000010"]] * 4
    assert isinstance(images, Subset)
    whole = opened.split("train").gather(np.array([5, 7, 9]))
    assert np.array_equal(images.gather(np.arange(3)), whole)
    assert np.array_equal(shards.DeviceImages(images, "cpu").gather(np.arange(3)), whole)


@pytest.mark.parametrize("where", ["Smile=1", "Smiling", "Smiling=yes", "", "Smiling=1;Male=0"])
def test_conditions_that_cannot_be_read_name_the_attributes_there_are(folder: Path, where: str) -> None:
    with pytest.raises(ShardError, match=r"ATTRIBUTE=NUMBER.*Smiling, Male"):
        shards.open_set(folder).labels("train").where(where)


def test_conditions_that_nobody_meets_are_said(folder: Path) -> None:
    with pytest.raises(ShardError, match="no sample of 10 meets it"):
        shards.open_set(folder).labels("train").where("Smiling=3")


def test_a_set_without_a_side_table_says_so(tmp_path: Path) -> None:
    from shard_sets import make_set

    make_set(tmp_path, {"train": [3]})
    with pytest.raises(ShardError, match="no side table"):
        shards.open_set(tmp_path).labels("train")


def test_a_value_that_no_attribute_has_is_damage(folder: Path, tmp_path: Path) -> None:
    from_before(shutil.copytree(folder, tmp_path / "16"))
    table = tmp_path / "16" / "samples.jsonl"
    table.write_text(table.read_text().replace("-1", "99999", 1).replace('"0000', '"0', 1))  # as long as before
    with pytest.raises(ShardError, match="a row of the side table is damaged"):
        shards.open_set(tmp_path / "16").labels("train")


def test_labels_are_read_from_the_parts_that_tell_of_the_split_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GROUP_SAMPLES", 5)
    preprocess(Options(folder.parent.parent / "img_align_celeba.zip", tmp_path, ((16, 16),), shard_size=2))
    from_before(tmp_path / "16")
    opened, whole = shards.open_set(tmp_path / "16"), shards.open_set(folder)
    assert [table.samples for table in opened.index.side_tables] == [4, 4, 4]
    for split in ("train", "val"):
        found, expected = opened.labels(split), whole.labels(split)
        assert (found.values.tolist(), found.identities.tolist()) == (
            expected.values.tolist(),
            expected.identities.tolist(),
        )
    assert opened.where("train", "Male=1, Smiling=0").tolist() == [0, 2, 4]
    for name in ("samples-00000.jsonl", "samples-00001.jsonl"):
        (tmp_path / "16" / name).unlink()
    assert opened.labels("val").values.tolist() == whole.labels("val").values.tolist()
    with pytest.raises(ShardError, match=r"samples-00000\.jsonl: cannot be read"):
        opened.labels("train")
    with (tmp_path / "16" / "samples-00002.jsonl").open("ab") as table:
        table.write(b"more")
    with pytest.raises(ShardError, match=r"samples-00002\.jsonl: cannot be read .* bytes, the index says"):
        opened.where("val", "Male=0")
