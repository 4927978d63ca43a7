"""Labels in anybody's tars: `.cls` and `.json` become attributes and identities, as a list's columns do."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from click.testing import CliRunner
from shard_sets import encode, pictures

import shards
from jobs.shards import command
from shards.errors import ShardError
from shards.format.labels import UNKNOWN
from shards.make import reading
from shards.make.foreign import index_tars, read_tars
from shards.make.reading import ForeignTars
from shards.read.labels import Subset
from shards.read.verify import verify_set

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its tars open
COUNT, A_TAR = 40, 8
PICTURE = encode(pictures(1, 16, 16)[0], "PNG")


def img2dataset(i: int) -> dict[str, Any]:
    """What img2dataset says of a picture, with fields of a user's own."""
    about = {"caption": f"face {i}", "url": f"https://host/{i}.jpg", "key": f"{i:09d}", "status": "success"}
    about |= {"error_message": None, "width": 512, "height": 400 + i, "exif": "{}", "sha256": "0" * 64}
    return about | {"Smiling": i % 2 * 2 - 1, "Male": i % 3 == 0, "age": float(20 + i), "similarity": 0.25 + i}


def write(folder: Path, samples: list[dict[str, Any]], split: str = "train") -> Path:
    """Tars by webdataset's own writer: members beside a picture."""
    folder.mkdir(exist_ok=True)
    with webdataset.ShardWriter(str(folder / f"{split}-%03d.tar"), maxcount=A_TAR, verbose=0) as writer:
        for i, sample in enumerate(samples):
            writer.write({"__key__": f"{split}{i:04d}", "png": PICTURE, **sample})
    return folder


def labelled(folder: Path, split: str = "train") -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    labels = shards.open_set(folder).labels(split)
    return labels.names, labels.values, labels.identities


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two splits, whose tars by name are test, train, val; only train and val have labels."""
    samples = [{"json": img2dataset(i), "cls": i // 4} for i in range(COUNT)]
    for split, some in (("train", samples[:24]), ("val", samples[24:]), ("test", [{}] * 3)):
        write(tmp_path / "tars", some, split)
    return tmp_path / "tars"


def test_classes_and_numbers_that_webdataset_wrote_come_with_the_pixels(
    tars: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        index_tars(ForeignTars(tars))
    names, values, identities = labelled(tars)
    assert names == ("cls", "width", "height", "Smiling", "Male", "age")
    i = np.arange(24)
    expected = [i // 4, 0 * i + 512, 400 + i, i % 2, i % 3 == 0, 20 + i]  # -1 is no, as CelebA says it
    assert np.array_equal(values, np.stack(expected, axis=1))
    assert np.array_equal(identities, i // 4)
    assert labelled(tars, "val")[1][:, 0].tolist() == [n // 4 for n in range(24, 40)]
    assert (labelled(tars, "test")[1] == UNKNOWN).all() and (labelled(tars, "test")[2] == -1).all()
    opened = shards.open_set(tars)
    images = opened.split("train")
    chosen = Subset(images, opened.choose("train", "Smiling=1,Male=0"))
    assert chosen.keys(np.arange(len(chosen))) == [f"train{n:04d}" for n in i if n % 2 and n % 3]
    stream = shards.Stream(images, batch_size=6, seed=1)
    keys = stream.keys_at(np.arange(6))
    _, beside = next(stream.labelled(opened.labels("train")))
    assert beside.values[:, names.index("height")].tolist() == [400 + int(key[5:]) for key in keys]
    assert not verify_set(tars)
    assert "are no attributes: caption, error_message, exif, key, sha256, similarity, status, url" in caplog.text
    assert "of 43 samples some lack a label, and keep the others: cls 3, width 3," in caplog.text
    described = CliRunner().invoke(command, ["info", str(tars)])
    assert "attributes   cls, width, height, Smiling, Male, age" in described.output


def test_labels_are_the_same_whatever_slices_read_them_and_in_parts(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = index_tars(ForeignTars(tars, index_folder=tmp_path / "whole"))
    sliced = ForeignTars(tars, index_folder=tmp_path / "sliced")
    for part in (2, 0, 1):
        read_tars(sliced, (part, 3))
    assert index_tars(sliced).labels == whole.labels
    monkeypatch.setattr(reading, "GROUP_BYTES", 1)
    parts = index_tars(ForeignTars(tars, index_folder=tmp_path / "parts"))
    assert len(parts.labels) == len(parts.shards) > 3 and parts.attributes == whole.attributes
    for split in ("train", "val", "test"):
        expected, found = (labelled(tmp_path / name, split) for name in ("whole", "parts"))
        assert np.array_equal(found[1], expected[1])
        pairs = set(zip(found[2].tolist(), expected[2].tolist(), strict=True))  # the numbers may be others
        assert len(pairs) == len(set(found[2].tolist())) == len(set(expected[2].tolist()))


def test_a_stage_fetches_the_labels_of_tars_too(tars: Path, tmp_path: Path) -> None:
    index_tars(ForeignTars(tars))
    staged = shards.open_set(tars, stage=tmp_path / "stage")
    assert np.array_equal(staged.labels("val").values, labelled(tars, "val")[1])
    assert (staged.folder / "members.labels.npy").exists()


def test_closing_reads_nothing_that_was_kept_of_samples(tars: Path) -> None:
    whole = index_tars(ForeignTars(tars))
    (tars / "index.json").unlink()
    for part in (0, 1):
        read_tars(ForeignTars(tars), (part, 2))
    for record in (tars / ".index").glob("*.scan"):
        record.unlink()
    index = index_tars(ForeignTars(tars))
    assert (index.shards, index.table, index.labels) == (whole.shards, whole.table, whole.labels)


@pytest.mark.parametrize("group_bytes", [1, 1 << 40])
def test_a_field_that_is_no_number_later_on_is_named_and_not_used(
    group_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reading, "GROUP_BYTES", group_bytes)
    monkeypatch.setattr("shards.make.fields.FIRST", 4)
    samples = [{"json": {"a": i, "b": i, "c": -i}, "cls": i * 10_000} for i in range(COUNT)]
    samples[30]["json"]["b"] = "many"
    del samples[21]["json"]["c"]
    samples[22]["json"]["c"] = None
    samples[35]["json"]["later"] = 1
    write(tmp_path, samples)
    with caplog.at_level(logging.WARNING):
        index_tars(ForeignTars(tmp_path))
    names, values, identities = labelled(tmp_path)
    assert names == ("a", "c")  # a class above 32,767 is an identity alone
    assert values[:, 0].tolist() == list(range(COUNT)) and np.array_equal(identities, np.arange(COUNT))
    assert values[[20, 21, 22, 23], 1].tolist() == [-20, UNKNOWN, UNKNOWN, -23]
    assert "are no attributes: cls, b, later" in caplog.text and "keep the others: c 2" in caplog.text
    assert not verify_set(tmp_path)


def test_a_sample_whose_labels_cannot_be_read_keeps_its_picture(tmp_path: Path) -> None:
    bad: list[bytes] = [
        b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}", b'{"a": 1, "b": "'
        + b"x" * (1 << 20) + b'"}', b'{"a": 1e999}', b'{"a": NaN, "b": Infinity}', b'{"a": {"a": 1}}',
    ]  # fmt: skip
    good = [{"json": {"a": 7, "x=y": 1, "u,v": 1, "": 1, "\ud800": 1, "n" * 90: 1}} for _ in range(3)]
    samples = [
        *good,
        *({"json": text} for text in bad[:7]),
        {"cls": b"seven"},
        {"cls": b"1_0"},
        {"pyd": b"cos\nsystem"},
    ]
    write(tmp_path / "kept", samples)
    index = index_tars(ForeignTars(tmp_path / "kept"))
    names, values, _ = labelled(tmp_path / "kept")
    assert index.splits["train"].samples == len(samples) and not index.rejects.count
    assert names == ("a",) and values[:, 0].tolist() == [7] * 3 + [UNKNOWN] * 10
    write(tmp_path / "other", [*good, *({"json": text} for text in bad[7:])])
    index = index_tars(ForeignTars(tmp_path / "other"))
    assert index.splits["train"].samples == 6 and not index.labels
    with pytest.raises(ShardError, match=r"without labels.*remove index.json"):
        shards.open_set(tmp_path / "other").labels("train")


def test_an_identity_in_json_holds_where_there_is_no_class(tmp_path: Path) -> None:
    people = [10**12, 5, 5, 10**12, None, 5]
    write(tmp_path, [{"json": {"identity": person}} for person in people])
    index_tars(ForeignTars(tmp_path))
    names, values, identities = labelled(tmp_path)
    assert (names, values.shape) == ((), (6, 0)) and identities.tolist() == [0, 1, 1, 0, -1, 1]


def test_files_of_the_folders_owner_stay_and_those_of_an_earlier_index_go(
    tars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tars / "labels.npy").write_bytes(b"mine")
    (tars / "members.txt").write_bytes(b"mine")
    with monkeypatch.context() as patched:
        patched.setattr(reading, "GROUP_BYTES", 1)
        index_tars(ForeignTars(tars))
    (tars / "index.json").unlink()
    for tar in sorted(tars.glob("*.tar"))[:2]:
        tar.unlink()
    index_tars(ForeignTars(tars))
    beside = sorted(path.name for path in tars.iterdir() if path.suffix != ".tar")
    ours = ["index.json", "index.npy", "members.bin", "members.labels.npy", "rejects.jsonl"]
    assert beside == sorted([*ours, "labels.npy", "members.txt"])
    assert (tars / "labels.npy").read_bytes() == b"mine"


def test_tars_exchanged_between_slices_are_read_again_with_the_labels_of_the_new_ones(tars: Path) -> None:
    for part in (0, 1):
        read_tars(ForeignTars(tars), (part, 2))
    write(tars, [{"json": {"new": i}} for i in range(A_TAR)])  # the first tar of train: it says what is read
    index_tars(ForeignTars(tars))
    names, values, _ = labelled(tars)
    assert "new" in names and values[:A_TAR, names.index("new")].tolist() == list(range(A_TAR))
    assert labelled(tars, "val")[1][:, names.index("cls")].tolist() == [n // 4 for n in range(24, 40)]


def test_a_record_of_an_earlier_version_is_read_again(tars: Path) -> None:
    """It had no labels: a set begun then and closed now has them all."""
    (tars / ".index").mkdir()
    for tar in tars.glob("*.tar"):
        conditions = [tar.stat().st_size, tar.stat().st_mtime_ns, None, "none", 3]
        shard = {"name": tar.name, "split": "train", "samples": 0, "bytes": 1, "sha256": "0" * 64}
        record = {"conditions": conditions, "rows": "0" * 64, "shard": shard, "sizes": [], "rejects": []}
        (tars / ".index" / f"{tar.name}.json").write_text(json.dumps(record))
        (tars / ".index" / f"{tar.name}.rows").touch()
    index_tars(ForeignTars(tars))
    assert len(labelled(tars)[1]) == 24 and not (tars / ".index").exists()
