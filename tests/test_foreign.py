"""Anybody's WebDataset tars: indexed once, nothing lost in silence, read behind the same interface."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from click.testing import CliRunner
from PIL import Image
from shard_sets import encode, pictures, write_tar

import shards
from facegan import files
from facegan.errors import FaceganError
from jobs.shards import command
from shards.errors import ShardError
from shards.format.index import Transform, load_index
from shards.format.tar import members
from shards.format.transform import FILTER
from shards.make import reading
from shards.make.claims import claimed
from shards.make.foreign import index_tars, known_index, read_tars
from shards.make.reading import ForeignTars
from shards.read.verify import verify_set

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its tars open


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two shards written by webdataset itself, JPEG, PNG and WebP in turn, with labels beside them."""
    forms = (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"))
    for shard, split in enumerate(("train", "val")):
        with webdataset.TarWriter(str(tmp_path / f"{split}-{shard:03d}.tar")) as writer:
            for i, image in enumerate(pictures(7, 24, 24, seed=shard)):
                extension, form = forms[i % 3]
                writer.write({"__key__": f"{split}{i}", extension: encode(image, form), "cls": str(i).encode()})
    return tmp_path


def decoded(path: Path) -> list[np.ndarray]:
    pipeline = webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8")
    return [next(sample[form] for form in ("jpg", "png", "webp") if form in sample) for sample in pipeline]


def test_the_images_are_those_that_webdataset_decodes(tars: Path) -> None:
    index_tars(ForeignTars(tars))
    opened = shards.open_set(tars)
    for split in ("train", "val"):
        images, expected = opened.split(split), decoded(next(tars.glob(f"{split}-*.tar")))
        wanted = np.array([6, 0, 3, 3, 1, 2, 5])
        assert np.array_equal(images.gather(wanted), np.stack([expected[i] for i in wanted]))
        assert images.keys(wanted) == [f"{split}{i}" for i in wanted]
    assert opened.index.members == "encoded" and opened.index.splits["val"].samples == 7


def test_a_stream_of_foreign_shards_has_the_same_interface_and_order(tars: Path) -> None:
    index_tars(ForeignTars(tars))
    images = shards.open_set(tars).split("train")
    ranks = [shards.Stream(images, batch_size=4, seed=3, rank=rank, world=2) for rank in range(2)]
    expected = decoded(next(tars.glob("train-*.tar")))
    for _ in range(6):
        keys = ranks[0].keys_at(np.arange(ranks[0].nimg, ranks[0].nimg + 4))
        batch = np.concatenate([next(rank).permute(0, 2, 3, 1).numpy() for rank in ranks])
        assert np.array_equal(batch, np.stack([expected[int(key[5:])] for key in keys]))


def test_grey_images_and_pictures_of_several_sizes_are_brought_to_one(tmp_path: Path) -> None:
    sizes = [(40, 60), (64, 64), (90, 33)]
    entries = [(f"{h}x{w}.png", encode(np.full((h, w, 3), 40 + h, np.uint8), "PNG")) for h, w in sizes]
    write_tar(tmp_path / "a.tar", entries)
    with pytest.raises(ShardError, match=r"pictures of 3 sizes .*1 of 40x60.*give --size 64"):
        index_tars(ForeignTars(tmp_path))
    assert not (tmp_path / "index.json").exists()
    index_tars(ForeignTars(tmp_path, size=32, channels=1))
    images = shards.open_set(tmp_path).split("train")
    assert np.array_equal(images.gather(np.arange(3))[:, 16, 16, 0], [80, 104, 130])
    assert images.gather(np.array([0])).shape == (1, 32, 32, 1)


def test_a_crop_is_cut_before_the_resize(tmp_path: Path) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[5:15, 5:15] = 200
    write_tar(tmp_path / "a.tar", [("a.png", encode(image, "PNG"))])
    index_tars(ForeignTars(tmp_path, size=10, crop="10"))
    assert (shards.open_set(tmp_path).split("train").gather(np.array([0])) == 200).all()
    (tmp_path / "index.json").unlink()
    with pytest.raises(ShardError, match="--crop needs --size"):
        index_tars(ForeignTars(tmp_path, crop="10"))
    with pytest.raises(ShardError, match="not one usable picture"):
        index_tars(ForeignTars(tmp_path, size=10, crop="30"))


def test_samples_without_a_usable_picture_are_listed_not_dropped_in_silence(tmp_path: Path) -> None:
    good = encode(pictures(1, 16, 16)[0], "JPEG")
    entries = [
        ("a.jpg", good), ("b.jpg", good[:200]), ("c.txt", b"no picture"), ("d.jpg", good), ("d.png", good),
        ("e.jpg", b"<html>"), ("sub.dir/f.jpg", good), ("g.jpg", b""), ("h.jpg", b"%!PS-Adobe-3.0 EPSF-3.0"),
    ]  # fmt: skip
    write_tar(tmp_path / "a.tar", entries)
    result = CliRunner().invoke(command, ["index", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "2 images 16x16x3 in 1 shards" in result.stdout and "6 left out" in result.stdout
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [reject["key"] for reject in rejects] == ["b", "c", "d", "e", "g", "h"]
    assert shards.open_set(tmp_path).split("train").keys(np.arange(2)) == ["a", "sub.dir/f"]


def test_indexing_again_changes_nothing_and_other_tars_are_refused(tars: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(command, ["index", str(tars)]).exit_code == 0
    before = (tars / "index.json").read_bytes()
    assert runner.invoke(command, ["index", str(tars)]).exit_code == 0
    assert (tars / "index.json").read_bytes() == before
    write_tar(tars / "val-009.tar", [("x.png", encode(pictures(1, 24, 24)[0], "PNG"))])
    with pytest.raises(ShardError, match=r"describes other tars than lie in .*; remove it"):
        runner.invoke(command, ["index", str(tars)], catch_exceptions=False)


def test_a_word_in_a_tars_name_says_its_split(tmp_path: Path) -> None:
    names = ["set-train-000.tar", "set-val-000.tar", "VALID_1.tar", "x.test.tar", "trainees-0.tar", "00000.tar"]
    for number, name in enumerate(names):
        write_tar(tmp_path / name, [(f"{number}.png", encode(pictures(1, 16, 16)[0], "PNG"))])
    result = CliRunner().invoke(command, ["index", str(tmp_path)])
    assert "train 3" in result.stdout and "val 2" in result.stdout and "test 1" in result.stdout
    found = {shard.name: shard.split for shard in load_index(tmp_path).shards}
    assert [found[name] for name in names] == ["train", "val", "val", "test", "train", "train"]


def test_shadow_files_of_macos_are_no_tars(tars: Path) -> None:
    (tars / "._train-000.tar").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(4080))
    assert not [shard for shard in index_tars(ForeignTars(tars)).shards if shard.name.startswith(".")]
    assert not verify_set(tars)
    assert known_index(ForeignTars(tars)) == load_index(tars)


def test_tars_in_a_read_only_folder_are_indexed_elsewhere(
    tars: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place, seen = tmp_path_factory.mktemp("index") / "set", 0

    def decoded_one(count: int) -> None:
        nonlocal seen
        seen += count

    (tars / "file").touch()
    with pytest.raises(ShardError, match=r"cannot be written.*--index DIR"):
        index_tars(ForeignTars(tars, index_folder=tars / "file"), decoded_one)
    assert not seen
    before = sorted(tars.iterdir())
    for _ in range(2):
        result = CliRunner().invoke(command, ["index", str(tars), "--index", str(place)])
        assert result.exit_code == 0, result.output
    assert sorted(tars.iterdir()) == before
    assert not verify_set(place)
    index_tars(ForeignTars(tars))
    here, there = shards.open_set(tars).split("train"), shards.open_set(place).split("train")
    assert np.array_equal(here.gather(np.arange(7)), there.gather(np.arange(7)))
    (place / "index.json").unlink()
    (place / "train-000.tar").unlink()
    (place / "train-000.tar").write_bytes(b"mine")
    with pytest.raises(ShardError, match="a file of that name is there already"):
        index_tars(ForeignTars(tars, index_folder=place))
    assert (place / "train-000.tar").read_bytes() == b"mine"


def test_a_picture_damaged_after_indexing_is_an_error_that_names_shard_and_sample(tars: Path) -> None:
    index_tars(ForeignTars(tars))
    path = tars / "train-000.tar"
    data = bytearray(path.read_bytes())
    start = data.index(b"train3.jpg") + 512
    data[start : start + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-000.tar: sample train3: .*damaged since it was indexed"):
        shards.open_set(tars).split("train").gather(np.arange(7))


@pytest.mark.parametrize("damage", ["flip", "zero", "cut", "unclosed"])
def test_a_damaged_tar_is_refused_where_others_drop_its_samples(tmp_path: Path, damage: str) -> None:
    """The same tar: webdataset ends early without a word, or fails; we always say where."""
    path = tmp_path / "a.tar"
    write_tar(path, [(f"{i:03d}.png", encode(image, "PNG")) for i, image in enumerate(pictures(10))])
    data = bytearray(path.read_bytes())
    header = data.index(b"003.png")
    if damage == "flip":
        data[header + 130] ^= 1
    if damage == "zero":
        data[header : header + 512] = bytes(512)
    if damage == "cut":
        data = data[: header + 600]
    if damage == "unclosed":
        data = data[:header]
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"a.tar: .*00[23].png"):
        index_tars(ForeignTars(tmp_path))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_forms_of_tar_give_the_entries_that_pythons_tarfile_gives(tmp_path: Path, form: int) -> None:
    names = ["a.jpg", "folder/" + "b" * 90 + ".jpg", "folder.d/ü.png", "d" * 60 + "/" + "e" * 80 + ".jpg"]
    if form != tarfile.USTAR_FORMAT:
        names.append("x" * 300 + ".jpg")
    path = tmp_path / "a.tar"
    write_tar(path, [(name, bytes([i]) * (700 * i)) for i, name in enumerate(names)], form)
    with tarfile.open(path, "a", format=form) as archive:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("empty")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size, m.isreg()) for m in archive]
    found = [(m.name.rstrip("/"), m.offset, m.size, m.plain) for m in members(path)]
    assert found == expected


def test_a_compressed_tar_says_what_to_do(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = 5000
        archive.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(5000)))
    with pytest.raises(ShardError, match=r"compressed as a whole.*gunzip"):
        index_tars(ForeignTars(tmp_path))


def test_a_picture_rotated_by_its_exif_tag_is_delivered_upright(tmp_path: Path) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pictures(1, 8, 16)[0]).save(stream, "JPEG", exif=exif)
    write_tar(tmp_path / "a.tar", [("a.jpg", stream.getvalue())])
    index_tars(ForeignTars(tmp_path))
    assert shards.open_set(tmp_path).split("train").gather(np.array([0])).shape == (1, 16, 8, 3)


def test_slices_read_the_tars_and_what_was_read_is_not_read_again(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tars / "other-000.tar", [("a.jpg", encode(pictures(1, 24, 24)[0], "PNG")), ("bad.jpg", b"nothing")])
    for copy in ("whole", "sliced"):
        (tmp_path / copy).mkdir()
        for tar in tars.glob("*.tar"):
            shutil.copy2(tar, tmp_path / copy)
    whole, sliced = index_tars(ForeignTars(tmp_path / "whole")), tmp_path / "sliced"
    read: list[Path] = []
    before = reading.sha256_file
    monkeypatch.setattr(reading, "sha256_file", lambda path: read.append(path) or before(path))
    for part in ("1/2", "0/2"):
        result = CliRunner().invoke(command, ["index", str(sliced), "--slice", part])
        assert (result.exit_code, f"Slice {part} is read" in result.output) == (0, True)
    assert sorted(path.name for path in read) == ["other-000.tar", "train-000.tar", "val-001.tar"]
    os.utime(sliced / "val-001.tar", (1, 1))  # as where it was exchanged for another
    index = index_tars(ForeignTars(sliced))
    assert [path.name for path in read[3:]] == ["val-001.tar"]
    assert (index.shards, index.table, index.rejects) == (whole.shards, whole.table, whole.rejects)
    assert not (sliced / ".index").exists()
    assert index_tars(ForeignTars(sliced, size=24)).transform == Transform(
        "square", FILTER
    )  # other options: nothing of the old records is taken


def test_rows_of_another_reading_than_the_record_are_read_again(
    tars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the rows and the record of a reading with other options: the old record is of other rows."""
    small = encode(np.zeros((8, 8, 3), np.uint8), "PNG")
    write_tar(tars / "train-001.tar", [("a.png", small), ("b.png", encode(pictures(1, 24, 24)[0], "PNG"))])
    how = {"size": 16, "crop": "16"}
    read_tars(ForeignTars(tars, **how), (0, 1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "sync", killed)  # when all is written, before it has its name
        with pytest.raises(KeyboardInterrupt):
            read_tars(ForeignTars(tars, size=16), (0, 1))
    index_tars(ForeignTars(tars, **how))
    images = shards.open_set(tars).split("train")
    assert images.keys(np.arange(len(images))) == [*(f"train{i}" for i in range(7)), "b"]  # a is too small
    assert not verify_set(tars)


@pytest.mark.parametrize("name", ["sizes", "shard", "lengths", "conditions"])
def test_a_record_without_all_it_should_say_counts_as_none(tars: Path, name: str) -> None:
    read_tars(ForeignTars(tars), (0, 1))
    record = tars / ".index" / "train-000.tar.scan"
    head, _, samples = record.read_bytes().partition(b"\n")
    known = json.loads(head)
    del known[name]
    record.write_bytes(json.dumps(known).encode() + b"\n" + samples)
    (tars / ".index" / "group-00000.json").unlink()
    assert index_tars(ForeignTars(tars)).splits["train"].samples == 7
    assert not verify_set(tars)


def test_a_slice_at_work_refuses_those_that_overlap_and_the_last_command(tars: Path) -> None:
    with claimed(tars, (0, 2)):
        with pytest.raises(FaceganError, match="live job"):
            read_tars(ForeignTars(tars), (0, 2))
        read_tars(ForeignTars(tars), (1, 2))
        with pytest.raises(FaceganError, match="live job"):
            index_tars(ForeignTars(tars))
        assert (tars / ".index").exists()
    index_tars(ForeignTars(tars))
    assert sorted(path.name for path in tars.iterdir() if path.name.startswith(".")) == []


def test_the_member_table_of_many_samples_comes_in_parts(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_tars(ForeignTars(tars, index_folder=tmp_path / "whole"))
    monkeypatch.setattr(reading, "GROUP_BYTES", 1)
    index = index_tars(ForeignTars(tars, index_folder=tmp_path / "parts"))
    assert len(index.member_tables) > 1 and index.table is None
    assert sum(table.samples for table in index.member_tables) == index.shards.samples.sum()
    found, expected = (shards.open_set(tmp_path / name).split("train") for name in ("parts", "whole"))
    numbers = np.random.default_rng(0).permutation(len(expected))
    assert np.array_equal(found.gather(numbers), expected.gather(numbers))
    assert found.keys(numbers) == expected.keys(numbers)
