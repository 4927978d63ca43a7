"""Sets of JPEG and WebP members: the same samples, order, labels and checks as stored PNG, in fewer bytes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import draw, jpegs, write_folder, write_zip
from test_preprocess import make, table, tree

import shards
from jobs.cli import main
from shards.errors import ShardError
from shards.format.columns import SideTable, Table
from shards.format.index import Encoding, ShardIndex, load_index
from shards.format.members import Form
from shards.format.tar import members
from shards.format.transform import decode
from shards.make import closing, groups
from shards.make.writer import Options, close_set
from shards.read import encoded
from shards.read.labels import Subset
from shards.read.verify import verify_set

SIZE: dict[str, Any] = {"sizes": ((32, 32),), "attributes": True}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 pictures in a zip, the last 5 of them val, every third smiling, and a file that is none."""
    folder = tmp_path_factory.mktemp("source")
    names = [f"{i:06d}.jpg" for i in range(1, 24)]
    partition = "".join(f"{name} {int(i > 17)}\n" for i, name in enumerate(names))
    smiles = "".join(f"{name} {-1 if i % 3 else 1}\n" for i, name in enumerate(names))
    known = {"list_eval_partition.txt": partition, "list_attr_celeba.txt": f"23\nSmiling\n{smiles}"}
    write_folder(folder, {name: text.encode() for name, text in known.items()})
    return write_zip(folder / "img_align_celeba.zip", jpegs(22) | {"img_align_celeba/000023.jpg": b"none"})


@pytest.fixture(scope="module")
def sets(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the set of each form."""
    forms = {"png": {}, "jpeg": {"members": "jpeg"}, "webp": {"members": "webp", "quality": 100}}
    outs = {name: tmp_path_factory.mktemp(name) for name in forms}
    for name, form in forms.items():
        make(archive, outs[name], **SIZE, **form)
    return {name: out / "32" for name, out in outs.items()}


def pixels(folder: Path, split: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    images = shards.open_set(folder).split(split)
    return images.gather(np.arange(len(images)))


@pytest.mark.parametrize("split", ["train", "val"])
def test_jpeg_members_are_near_the_pixels_of_stored_png_and_webp_of_100_has_them(
    sets: dict[str, Path], split: str
) -> None:
    stored = pixels(sets["png"], split)
    assert len(stored) == {"train": 18, "val": 4}[split]
    assert np.array_equal(pixels(sets["webp"], split), stored)
    apart = np.abs(pixels(sets["jpeg"], split).astype(int) - stored)
    assert 0 < apart.mean() < 4
    encoded = np.stack([decode(Form("jpeg", 95).encode(image), 3) for image in stored])
    assert np.array_equal(pixels(sets["jpeg"], split), encoded)  # encoded once, cropped and resized before that


def test_the_index_says_form_quality_and_codec_and_the_side_files_are_those_of_stored_png(
    sets: dict[str, Path],
) -> None:
    stored, jpeg, webp = (load_index(sets[name]) for name in ("png", "jpeg", "webp"))
    assert [(i.members, i.encoding and i.encoding.quality) for i in (jpeg, webp)] == [("jpeg", 95), ("webp", 100)]
    assert stored.encoding is None and "encoding" not in json.loads((sets["png"] / "index.json").read_text())
    assert "simplejpeg" in jpeg.software and webp.software["libwebp"] != "unknown"
    assert jpeg.splits == webp.splits == stored.splits and jpeg.rejects == stored.rejects
    assert jpeg.table == stored.table and jpeg.source == stored.source and jpeg.attributes == ("Smiling",)
    assert jpeg.fingerprint != stored.fingerprint
    said = CliRunner().invoke(main, ["shards", "info", str(sets["jpeg"])]).stdout
    assert "members      jpeg, quality 95" in said


def test_slices_and_workers_write_the_same_bytes(archive: Path, sets: dict[str, Path], tmp_path: Path) -> None:
    for index in (1, 0):
        assert make(archive, tmp_path, **SIZE, members="jpeg", slice=(index, 2), workers=1) == {}
    close_set(tmp_path)
    assert tree(tmp_path / "32") == tree(sets["jpeg"])
    assert not list(tmp_path.rglob("*.members"))


def test_a_shard_that_was_lost_on_the_way_is_written_again(
    archive: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    make(archive, tmp_path, **SIZE, members="jpeg", slice=(0, 2))
    lost = tmp_path / "32" / "train-00001.tar"
    lost.write_bytes(b"cut")
    make(archive, tmp_path, **SIZE, members="jpeg")
    assert tree(tmp_path / "32") == tree(sets["jpeg"])


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({}, "members: jpeg there, png asked for; quality: 95 there, None asked for"),
        ({"members": "webp"}, "members: jpeg there, webp asked for"),
        ({"members": "jpeg", "quality": 90}, "quality: 95 there, 90 asked for"),
    ],
)
def test_another_form_in_the_same_place_is_refused(
    archive: Path, sets: dict[str, Path], form: dict[str, Any], said: str
) -> None:
    with pytest.raises(ShardError, match=said):
        make(archive, sets["jpeg"].parent, **SIZE, **form)
    with pytest.raises(ShardError, match="members: png there, jpeg asked for"):
        make(archive, sets["png"].parent, **SIZE, members="jpeg")


def test_a_set_begun_before_there_were_forms_is_one_of_stored_png(
    archive: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(sets["png"], tmp_path / "32")
    plan = json.loads((tmp_path / "32" / "preprocess.json").read_text())
    del plan["fixed"]["members"], plan["fixed"]["quality"]
    (tmp_path / "32" / "preprocess.json").write_text(json.dumps(plan))
    assert make(archive, tmp_path, **SIZE)[tmp_path / "32"] == load_index(sets["png"])
    with pytest.raises(ShardError, match="members: png there, webp asked for"):
        make(archive, tmp_path, **SIZE, members="webp")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
@pytest.mark.parametrize(("name", "extension"), [("jpeg", "jpg"), ("webp", "webp")])
def test_webdataset_reads_them(sets: dict[str, Path], name: str, extension: str) -> None:
    wds = pytest.importorskip("webdataset")
    tars = [str(path) for path in sorted(sets[name].glob("train-*.tar"))]
    samples = list(wds.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in table(sets[name])[:18]]
    assert samples[0]["json"] == {"attributes": {"Smiling": 1}, "identity": None}
    assert np.array_equal(np.stack([sample[extension] for sample in samples]), pixels(sets[name], "train"))


def test_labels_conditions_and_keys_are_those_of_stored_png(sets: dict[str, Path]) -> None:
    for name in ("jpeg", "webp"):
        stored, encoded = shards.open_set(sets["png"]), shards.open_set(sets[name])
        chosen = encoded.labels("train").where("Smiling=1")
        assert np.array_equal(chosen, stored.labels("train").where("Smiling=1")) and len(chosen) == 6
        subset = Subset(encoded.split("train"), chosen)
        assert subset.keys(np.arange(6)) == [f"{1 + 3 * i:06d}" for i in range(6)]
        assert np.array_equal(subset.gather(np.arange(6)), pixels(sets[name], "train")[chosen])


@pytest.mark.parametrize("share", [None, 3])
def test_a_staged_set_reads_alike_with_its_labels_whole_or_a_few_shards_at_a_time(
    sets: dict[str, Path], tmp_path: Path, share: int | None
) -> None:
    index = load_index(sets["jpeg"])
    limit = None if share is None else share * int(index.shards.bytes.max())
    staged = shards.open_set(sets["jpeg"], stage=tmp_path, stage_limit=limit)
    images = staged.split("train")
    assert np.array_equal(images.gather(np.arange(4)), pixels(sets["jpeg"], "train")[:4])
    assert staged.labels("train").names == ("Smiling",)


def test_the_stream_of_jpeg_members_goes_on_anywhere(sets: dict[str, Path]) -> None:
    images = shards.open_set(sets["jpeg"]).split("train")
    whole, stopped = (shards.Stream(images, 4, seed=3) for _ in range(2))
    batches = [next(whole) for _ in range(12)]
    stopped.seek(7 * 4)
    assert all(np.array_equal(next(stopped), batch) for batch in batches[7:])


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_is_found_and_that_of_a_member_with_its_sample(
    sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped") / "set"
    shutil.copytree(sets["jpeg"], folder)
    tar = folder / "train-00001.tar"
    place = data.draw(st.integers(0, tar.stat().st_size - 1))
    hit = [member for member in members(tar) if member.offset <= place < member.offset + member.size]
    flip(tar, 8 * place + data.draw(st.integers(0, 7)))
    found = verify_set(folder)
    assert {damage.file for damage in found} == {"train-00001.tar"}
    if hit:
        assert [damage.sample for damage in found] == [hit[0].name.split(".")[0]]


def test_one_flipped_bit_of_stored_png_with_attributes_is_one_finding(
    sets: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(sets["png"], tmp_path / "set")
    flip(tmp_path / "set" / "train-00001.tar", 8 * 700)
    (found,) = verify_set(tmp_path / "set")
    assert found.sample == "000005 (record 0 of 4)"


def test_side_files_of_members_are_verified_and_needed(sets: dict[str, Path], tmp_path: Path) -> None:
    assert verify_set(sets["jpeg"]) == [] == verify_set(sets["webp"])
    shutil.copytree(sets["jpeg"], tmp_path / "set")
    flip(tmp_path / "set" / "members.bin", 300)
    (found,) = verify_set(tmp_path / "set")
    assert found.file == "members.bin"
    flip(tmp_path / "set" / "train-00001.tar", 8 * 700)
    assert [damage.file for damage in verify_set(tmp_path / "set")] == ["members.bin", "train-00001.tar"]
    with pytest.raises(ShardError, match=r"member table is missing or damaged.*facegan preprocess"):
        shards.open_set(tmp_path / "set").split("train")


@pytest.mark.parametrize(("members", "quality"), [("jpeg", 98), ("webp", 100)])
def test_grey_images_of_any_shape_come_back_grey(members: str, quality: int) -> None:
    image = draw(5, 47, 62)[..., :1].transpose(1, 0, 2)  # not contiguous, as resize gives them
    back = decode(Form(members, quality).encode(image), 1)
    assert back.shape == image.shape
    assert np.abs(back.astype(int) - image).mean() <= (0 if quality == 100 else 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--quality", "90"], "--quality is of JPEG and WebP"),
        (["--members", "jpeg", "--quality", "0"], "0 is not in the range"),
        (["--members", "gif"], "'gif' is not one of"),
    ],
)
def test_what_cannot_be_had_is_said_at_once(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["preprocess", str(tmp_path), str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2 and said in result.stderr.replace("\n", " ")


@pytest.mark.parametrize("members", ["stored-png", "encoded", "jpeg"])
def test_an_index_whose_members_and_encoding_do_not_fit_is_refused(sets: dict[str, Path], members: str) -> None:
    index = load_index(sets["png" if members == "stored-png" else "jpeg"])
    fields = {name: getattr(index, name) for name in ShardIndex.__dataclass_fields__}
    other = None if members == "jpeg" else Encoding(95, Table("members.bin", 1, "0" * 64))
    with pytest.raises(ShardError, match="encoding: expected one, with JPEG and WebP alone"):
        ShardIndex(**fields | {"members": members, "encoding": other})


def test_a_training_on_them_stops_and_goes_on(sets: dict[str, Path], tmp_path: Path) -> None:
    common = ["--data", str(sets["jpeg"]), "--where", "Smiling=1", "--batch-size", "4", "--wandb", "off"]
    common += ["--set", "resolution=32", "--run-dir", str(tmp_path / "run")]
    for length in (["--kimg", "0.008"], ["--kimg", "0.016", "--stage", str(tmp_path / "stage")]):
        command = [sys.executable, "-m", "jobs", "train", "mlp-64", *common, *length]
        subprocess.run(command, check=True, capture_output=True, text=True)
    outcome = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert (outcome["state"], outcome["nimg"]) == ("finished", 16)
    assert len((tmp_path / "run" / "starts.jsonl").read_text().splitlines()) == 2


def test_a_side_that_webp_cannot_have_is_refused_before_any_work() -> None:
    for members_form, side in (("webp", 16383), ("jpeg", 16384), ("png", 16384)):
        Options(Path("s"), Path("o"), ((side, 8),), members=members_form)
    with pytest.raises(ShardError, match=r"--members webp: 8x16384 pixels.*at most 16,383: use jpeg or png"):
        Options(Path("s"), Path("o"), ((8, 16384),), members="webp")


def test_the_member_table_of_a_large_set_comes_in_parts_of_which_readers_take_those_they_need(
    archive: Path, sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GROUP_SAMPLES", 8)
    make(archive, tmp_path / "whole", **SIZE, members="jpeg")
    for number in (1, 0, 2):
        make(archive, tmp_path / "out", **SIZE, members="jpeg", slice=(number, 3))
    monkeypatch.setattr(closing, "read_part", None)  # closing reads the groups' summaries alone
    close_set(tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    folder = tmp_path / "out" / "32"
    assert [table.samples for table in load_index(folder).member_tables] == [8, 8, 6]
    assert not (folder / "members.bin").exists() and not verify_set(folder)
    for split in ("train", "val"):
        assert np.array_equal(pixels(folder, split), pixels(sets["jpeg"], split))
    staged = shards.open_set(folder, stage=tmp_path / "stage").split("val")
    assert np.array_equal(staged.gather(np.arange(4)), pixels(folder, "val"))
    assert [
        path.name for path in staged.files.hold(load_index(folder).member_tables[2]).parent.glob("members-*")
    ] == ["members-00002.bin"]
    (folder / "members-00000.bin").write_bytes(b"damaged")
    assert len(pixels(folder, "val")) == 4
    with pytest.raises(ShardError, match=r"members-00000\.bin: the member table is missing or damaged"):
        pixels(folder, "train")
    assert [damage.file for damage in verify_set(folder)] == ["members-00000.bin"]


def test_a_group_closed_before_member_tables_came_in_parts_gets_its_part(archive: Path, tmp_path: Path) -> None:
    make(archive, tmp_path, **SIZE, members="jpeg", slice=(0, 2))
    make(archive, tmp_path, **SIZE, members="jpeg", slice=(1, 2))
    summary = tmp_path / "32" / ".parts" / "group-00000.json"
    content = json.loads(summary.read_text())
    del content["members"]
    summary.write_text(json.dumps(content))
    (tmp_path / "32" / "members.bin").unlink()
    close_set(tmp_path)
    assert len(pixels(tmp_path / "32", "train")) == 18


@pytest.mark.parametrize("wrong", ["beside a whole one", "too few"])
def test_parts_of_a_member_table_that_do_not_fit_are_refused(sets: dict[str, Path], wrong: str) -> None:
    index = load_index(sets["jpeg"])
    fields = {name: getattr(index, name) for name in ShardIndex.__dataclass_fields__}
    part = SideTable("members-00000.bin", 1, "0" * 64, 22 if wrong == "beside a whole one" else 3)
    encoding = index.encoding if wrong == "beside a whole one" else Encoding(95, None)
    with pytest.raises(ShardError, match=r"table: expected none beside|tables: expected 22 samples in all"):
        ShardIndex(**fields | {"encoding": encoding, "member_tables": (part,)})


def test_after_a_wait_for_the_disk_the_bytes_of_the_next_members_are_announced(
    sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, announced = [getrusage(RUSAGE_SELF).ru_majflt], list[bytes]()
    monkeypatch.setattr(encoded, "getrusage", lambda whose: SimpleNamespace(ru_majflt=waits[0]))

    def note(space: Any, starts: Any, sizes: Any) -> None:
        spans = zip(starts.tolist(), sizes.tolist(), strict=True)
        announced.extend(space[start : start + size].tobytes() for start, size in spans)

    monkeypatch.setattr(encoded, "will_need", note)
    images: Any = shards.open_set(sets["jpeg"]).split("train")
    images.will_need(np.array([3, 0]))
    assert not announced, "from memory nothing is"
    waits[0] += 1
    images.will_need(np.array([3, 0]))
    assert np.array_equal([decode(data, 3) for data in announced], images.gather(np.array([3, 0])))
    for _ in range(encoded.WARM):
        images.will_need(np.array([1]))
    assert len(announced) == 2 + encoded.WARM, "well announced batches wait for nothing"
    images.will_need(np.array([1]))
    assert len(announced) == 2 + encoded.WARM, "until the disk is long done"
