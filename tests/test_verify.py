"""verify: whatever single thing is wrong with a set is found, and the sample named."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_sets import encode, make_set, pictures, write_tar

from facegan.files import sha256_file
from jobs.shards import command
from shards.format.columns import Shard, Table
from shards.format.index import Record, ShardIndex, Source, Split
from shards.format.png import END, Geometry, encode_records
from shards.make.foreign import index_tars
from shards.make.reading import ForeignTars
from shards.read.verify import Damage, verify_set

STRIDE = Geometry(8, 8, 3).stride


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make_set(folder, {"train": [4, 3], "val": [2]})
    return folder


@pytest.fixture(scope="module")
def attributed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose samples have attributes: a fixed-size JSON member each, and a side table."""
    folder = tmp_path_factory.mktemp("attributed")
    geometry, keys = Geometry(8, 8, 3, json=32), [f"{i:06d}" for i in range(3)]
    rows = [{"key": key, "source": f"{key}.jpg", "split": "train", "Smiling": i % 2} for i, key in enumerate(keys)]
    texts = [json.dumps({"Smiling": row["Smiling"]}).encode() for row in rows]
    shard, table = folder / "train-00000.tar", folder / "samples.jsonl"
    shard.write_bytes(bytes(encode_records(geometry, pictures(3), keys, texts)) + END)
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ShardIndex(
        members="stored-png", height=8, width=8, channels=3, splits={"train": Split(3, 1)}, shard_size=3,
        shards=(Shard(shard.name, "train", 3, shard.stat().st_size, sha256_file(shard)),),
        source=Source("test", "folder", 3, ""), attributes=("Smiling",),
        record=Record(geometry.stride, geometry.pixels, geometry.row, geometry.json),
        table=Table(table.name, table.stat().st_size, sha256_file(table)),
    ).write(folder)  # fmt: skip
    return folder


def test_a_whole_set_has_no_findings_and_every_byte_was_looked_at(whole: Path, attributed: Path) -> None:
    seen: list[int] = []
    assert verify_set(whole, seen.append) == []
    assert sum(seen) == sum(path.stat().st_size for path in whole.glob("*.tar"))
    assert verify_set(attributed) == []


@given(st.integers(0, 8 * 3 * STRIDE - 1))
@example(8 * 100)  # behind the name in the header
@example(8 * (512 + 10))  # in the PNG's head
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_a_record_is_found_and_its_sample_named(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flipped") / "set"
    shutil.copytree(whole, folder)
    flip(folder / "train-00001.tar", bit)
    (found,) = verify_set(folder)
    assert found.file == "train-00001.tar"
    place = bit // 8 // STRIDE
    assert found.sample is not None and f"(record {place} of 3)" in found.sample
    if not bit // 8 % STRIDE < 100:  # a bit of the name itself changes the key
        assert found.sample.startswith(f"t{4 + place:06d} ")


@given(st.integers(0, 8 * (512 + 512) - 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_of_the_attributes_is_found_and_its_sample_named(
    attributed: Path, tmp_path_factory: pytest.TempPathFactory, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flipped") / "set"
    shutil.copytree(attributed, folder)
    geometry = Geometry(8, 8, 3, json=32)
    flip(folder / "train-00000.tar", 8 * (2 * geometry.stride - 1024) + bit)
    (found,) = verify_set(folder)
    assert found.sample == "000001 (record 1 of 3)"


def test_a_flipped_bit_behind_the_last_sample_is_found(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "set")
    flip(tmp_path / "set" / "val-00000.tar", 8 * (2 * STRIDE + 700))
    (found,) = verify_set(tmp_path / "set")
    assert "closing blocks" in found.what


@pytest.mark.parametrize(
    ("size", "sample", "what"),
    [
        (STRIDE + 700, "t000001", "record 1 and all after it are lost (3 of 4)"),
        (2 * STRIDE, None, "record 2 and all after it are lost (2 of 4)"),
        (4 * STRIDE, None, "all samples are there, the closing blocks"),
        (0, None, "record 0 and all after it are lost (4 of 4)"),
    ],
)
def test_a_truncated_shard_says_from_which_sample_on(
    whole: Path, tmp_path: Path, size: int, sample: str | None, what: str
) -> None:
    shutil.copytree(whole, tmp_path / "set")
    path = tmp_path / "set" / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:size])
    (found,) = verify_set(tmp_path / "set")
    assert (found.file, found.sample) == ("train-00000.tar", sample)
    assert what in found.what


def test_missing_foreign_exchanged_and_lengthened_shards_are_found(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(whole, folder)
    (folder / "val-00000.tar").unlink()
    shutil.copy(folder / "train-00001.tar", folder / "train-00002.tar")
    other = tmp_path / "other"
    make_set(other, {"train!": [4]})  # other pixels: the seed is the name's length
    shutil.copy(other / "train!-00000.tar", folder / "train-00000.tar")
    with (folder / "train-00001.tar").open("ab") as stream:
        stream.write(b"x")
    found = {damage.file: damage.what for damage in verify_set(folder)}
    assert found.keys() == {"val-00000.tar", "train-00002.tar", "train-00000.tar", "train-00001.tar"}
    assert found["val-00000.tar"] == "missing, with 2 samples of split val"
    assert "foreign shard" in found["train-00002.tar"]
    assert "another shard: each sample is sound" in found["train-00000.tar"]
    assert "1 bytes longer" in found["train-00001.tar"]


def test_an_index_that_disagrees_is_found(whole: Path, attributed: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "set")
    flip(tmp_path / "set" / "index.json", 8 * 300)
    (found,) = verify_set(tmp_path / "set")
    assert found.file == "index.json"
    shutil.copytree(attributed, tmp_path / "other")
    table = tmp_path / "other" / "samples.jsonl"
    table.write_text(table.read_text().replace("000002", "000009"))
    (found,) = verify_set(tmp_path / "other")
    assert found == Damage("samples.jsonl", "its SHA-256 is not the one in the index: one of the two was changed")


def test_a_flipped_bit_in_anybodys_tar_names_the_sample(tmp_path: Path) -> None:
    images = pictures(3, 16, 16)
    write_tar(tmp_path / "a.tar", [(f"face{i}.jpg", encode(image, "JPEG")) for i, image in enumerate(images)])
    index_tars(ForeignTars(tmp_path))
    assert verify_set(tmp_path) == []
    whole = (tmp_path / "a.tar").read_bytes()
    flip(tmp_path / "a.tar", 8 * (whole.index(b"face1.jpg") + 512 + 100))
    assert [(found.file, found.sample) for found in verify_set(tmp_path)] == [("a.tar", "face1")]
    (tmp_path / "a.tar").write_bytes(whole)
    flip(tmp_path / "a.tar", 8 * (whole.index(b"face2.jpg") + 130))
    (found,) = verify_set(tmp_path)
    assert "after face1.jpg: damaged, its checksum does not fit" in found.what


def test_the_command_exits_1_where_a_set_is_damaged_and_lists_the_findings(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "64")
    runner = CliRunner()
    result = runner.invoke(command, ["verify", str(tmp_path)])
    assert result.exit_code == 0 and f"{tmp_path / '64'}: whole" in result.stdout
    flip(tmp_path / "64" / "train-00000.tar", 8 * 700)
    result = runner.invoke(command, ["verify", str(tmp_path), "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == 1 and report["whole"] is False
    assert report["damage"][str(tmp_path / "64")][0]["sample"] == "t000000 (record 0 of 4)"
    (tmp_path / "64" / "index.json").unlink()
    result = runner.invoke(command, ["verify", str(tmp_path / "64")])
    assert result.exit_code == 1 and "there is no such file" in result.stdout


@pytest.mark.parametrize("name", ["verify", "info", "index"])
@pytest.mark.parametrize(
    ("address", "copy"),
    [
        (
            "s3://faces/celeba/64",
            r"s3://faces/celeba/64: .* folder of this machine.*\(aws s3 sync s3://faces/celeba/64",
        ),
        ("gs://faces/64", r"gcloud storage rsync -r gs://faces/64 DIR"),
        ("https://me:pa55@host/64?5ecr37", r"https://host/64\?\.\.\.: .*copy the set first, then give the copy"),
    ],
)
def test_commands_that_need_a_folder_say_so_of_an_address(name: str, address: str, copy: str) -> None:
    result = CliRunner().invoke(command, [name, address])
    said = result.stderr.strip().splitlines()[-1]
    assert result.exit_code == 2
    assert re.search(copy, said)
    assert not re.search("pa55|5ecr37", result.output)


def test_info_describes_a_set_and_draws_random_samples(whole: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    text = runner.invoke(command, ["info", str(whole)]).stdout
    assert "9 images 8x8x3 in 3 shards" in text and "train: 7 in 2 shards" in text
    sheet = tmp_path / "sheet.png"
    arguments = ["info", str(whole), "--json", "--contact-sheet", str(sheet), "--n", "4", "--split", "train"]
    described = json.loads(runner.invoke(command, arguments).stdout)
    assert (described["samples"], described["shards"], described["height"]) == (9, 3, 8)
    drawn = np.asarray(Image.open(sheet))
    assert drawn.shape == (2 * 10 + 2, 2 * 10 + 2, 3)
    assert drawn[2:10, 2:10].tobytes() in {image.tobytes() for image in pictures(7, seed=5)}


def test_slices_of_a_check_find_together_what_the_whole_check_finds(tmp_path: Path) -> None:
    make_set(tmp_path, {"train": [4] * 7})
    for number in (0, 3, 6):
        flip(tmp_path / f"train-{number:05d}.tar", 8 * 700)
    (tmp_path / "stranger.tar").touch()
    whole = verify_set(tmp_path)
    parts = [verify_set(tmp_path, part=(part, 3)) for part in range(3)]
    assert [found for part in parts for found in part] == whole and len(whole) == 4 and all(parts)
    done = CliRunner().invoke(command, ["verify", str(tmp_path), "--slice", "1/3"])
    assert done.exit_code == 1 and "train-00003.tar" in done.stdout and "train-00000.tar" not in done.stdout
