"""Annotations: CelebA's files as they are, LFW's folders, MNIST's labels, and what is wrong with any of them."""

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import write_folder, write_tar, write_zip

from shards.errors import ShardError
from shards.make import annotations, slots, sorting
from shards.make.annotations import Annotations, annotate
from shards.make.sources import list_source

NAMES = [f"img_align_celeba/{i:06d}.jpg" for i in range(1, 5)]
ATTRIBUTES = (
    "4\r\nMale Smiling \r\n"
    "000001.jpg -1  1\r\n000002.jpg  1 -1\r\n000003.jpg -1 -1\r\n000004.jpg  1  1\r\n"
)  # CRLF and double spaces as in the original
PARTITION = "000001.jpg 0\r\n000002.jpg 1\r\n000003.jpg 2\r\n000004.jpg 0\r\n"
IDENTITY = "000001.jpg 2880\r\n000002.jpg 2937\r\n000003.jpg 7\r\n000004.jpg 8692\r\n"
FILES = {"list_attr_celeba.txt": ATTRIBUTES, "list_eval_partition.txt": PARTITION, "identity_CelebA.txt": IDENTITY}


def source(folder: Path, names: list[str] = NAMES, **files: str) -> Path:
    """A folder of (empty) pictures with annotation files in it."""
    return write_folder(folder, dict.fromkeys(names, b"") | {name: text.encode() for name, text in files.items()})


def read(folder: Path, annotations: Path | None = None, holdout: int | None = None) -> Annotations:
    return annotate(list_source(folder, folder), folder, annotations, holdout)


def test_celebas_files_are_read_with_their_line_ends_and_double_spaces(tmp_path: Path) -> None:
    found = read(source(tmp_path, **FILES))
    assert found.names == ("Male", "Smiling")
    assert found.row(1) == {"attributes": [1, -1], "identity": 2937}
    assert found.splits.tolist() == [0, 1, 2, 0]
    assert json.loads(found.member(0)) == {"attributes": {"Male": -1, "Smiling": 1}, "identity": 2880}
    assert not found.notes


def test_files_are_found_beside_the_pictures_above_them_and_where_told(tmp_path: Path) -> None:
    folder = source(tmp_path / "set", **FILES)
    expected = read(folder).fingerprint
    assert read(folder / "img_align_celeba").fingerprint == expected
    plain = source(tmp_path / "other" / "pictures")
    packed = {f"{name}.gz": gzip.compress(text.encode()) for name, text in FILES.items()}
    assert read(plain, write_folder(tmp_path / "annotations", packed)).fingerprint == expected


KAGGLE = {
    "list_eval_partition.csv": "image_id,partition\n" + PARTITION.replace(" ", ",").replace("\r", ""),
    "list_attr_celeba.csv": "image_id,Male,Smiling\n"
    "000001.jpg,-1,1\n000002.jpg,1,-1\n000003.jpg,-1,-1\n000004.jpg,1,1\n",
}


def test_the_authors_own_folders_are_searched_from_their_zip_and_from_each_folder(tmp_path: Path) -> None:
    """CelebA/Img, CelebA/Anno, CelebA/Eval."""
    texts = {("Eval" if "eval" in name else "Anno") + f"/{name}": text for name, text in FILES.items()}
    root = source(tmp_path / "CelebA", [f"Img/{name}" for name in NAMES], **texts)
    archive = write_zip(root / "Img" / "img_align_celeba.zip", dict.fromkeys(NAMES, b""))
    for place in (archive, root / "Img" / "img_align_celeba", root):
        found = annotate(list_source(place, tmp_path), place, None, None)
        assert found.splits.tolist() == [0, 1, 2, 0], place
        assert found.row(1) == {"attributes": [1, -1], "identity": 2937}
        assert not found.notes


def test_kaggles_folders_are_searched_from_each_of_them_and_in_its_zip(tmp_path: Path) -> None:
    names = [f"img_align_celeba/{name}" for name in NAMES]
    root = source(tmp_path / "archive", names, **KAGGLE)
    files = dict.fromkeys(names, b"") | {name: text.encode() for name, text in KAGGLE.items()}
    zipped, tarred = (
        write_zip(tmp_path / "a" / "archive.zip", files),
        write_tar(tmp_path / "a" / "archive.tar", files),
    )
    for place in (root, root / "img_align_celeba", root / "img_align_celeba" / "img_align_celeba", zipped, tarred):
        found = annotate(list_source(place, tmp_path), place, None, None)
        assert found.splits.tolist() == [0, 1, 2, 0], place
        assert (found.names, found.row(1)["attributes"]) == (("Male", "Smiling"), [1, -1])
        assert not found.notes


@pytest.mark.parametrize("kind", ["txt", "csv"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace(",", ";").encode(),
        lambda text: text.replace(",", " , ").replace(" ", "  ").encode(),
        lambda text: text.replace(".jpg", ".JPG").encode(),
        lambda text: text.replace("0000", "img_align_celeba/0000").encode(),
        lambda text: text.replace("0000", "img_align_celeba\\0000").encode(),
        lambda text: text.replace(".jpg", ".png").encode(),
        lambda text: ("\n" + text + "\n\n").encode(),
        lambda text: gzip.compress(text.encode()),
        lambda text: (text + text.splitlines()[-1]).encode(),
    ],
)
def test_the_form_of_a_file_does_not_matter(tmp_path: Path, kind: str, change: Callable[[str], bytes]) -> None:
    files = KAGGLE if kind == "csv" else {name: text.replace("\r", "") for name, text in FILES.items()}
    for name, text in files.items():
        (tmp_path / name.upper()).write_bytes(change(text))
    found = read(source(tmp_path / "celeba"))
    assert found.splits.tolist() == [0, 1, 2, 0]
    assert (found.names, found.row(1)["attributes"]) == (("Male", "Smiling"), [1, -1])


def test_a_source_that_looks_like_celeba_but_has_no_partition_is_told_of(tmp_path: Path) -> None:
    assert "looks like CelebA" in read(source(tmp_path / "a" / "x")).notes[0]
    assert "looks like CelebA" in read(source(tmp_path / "celeba" / "x", ["000001.jpg", "000002.png"])).notes[0]
    assert not read(source(tmp_path / "b" / "x", ["000001.jpg", "000002.jpg"])).notes
    assert not read(source(tmp_path / "celeb" / "x", ["me.jpg"])).notes
    assert not read(source(tmp_path / "c" / "x"), holdout=1).notes


def test_a_file_that_contradicts_itself_is_refused_and_one_that_is_short_is_told_of(tmp_path: Path) -> None:
    twice = source(tmp_path / "a", **{"identity_CelebA.txt": IDENTITY + "000002.jpg 5"})
    with pytest.raises(ShardError, match=r"identity_CelebA.txt: 000002.jpg comes twice"):
        read(twice)
    short = read(
        source(
            tmp_path / "b", NAMES[:2], **FILES | {"list_attr_celeba.txt": "".join(ATTRIBUTES.splitlines(True)[:4])}
        )
    )
    assert "states 4 pictures and has 2" in short.notes[0]


def test_annotations_of_more_pictures_than_there_are_fit(tmp_path: Path) -> None:
    found = read(source(tmp_path, NAMES[2:], **FILES))
    assert [found.row(i)["identity"] for i in range(2)] == [7, 8692]
    assert found.splits.tolist() == [2, 0]


def test_a_picture_without_attributes_is_kept_and_said(tmp_path: Path) -> None:
    shorter = "".join(ATTRIBUTES.splitlines(keepends=True)[:-1])
    found = read(source(tmp_path, **FILES | {"list_attr_celeba.txt": shorter}))
    assert found.row(3) == {"attributes": None, "identity": 8692}
    assert "leaves 1 pictures out" in found.notes[0]


def test_an_empty_field_loses_its_own_value_and_no_other(tmp_path: Path) -> None:
    lines = ("000001.jpg,,1", "000002.jpg,-1.0,", "000003.jpg,,", "000004.jpg,True,NA", "000001.jpg,,1")
    text = "\n".join(("image_id,Male,Smiling", *lines))
    folder = source(tmp_path, **{"list_attr_celeba.csv": text})
    found = read(folder)
    assert [found.row(i)["attributes"] for i in range(4)] == [[None, 1], [-1, None], None, [1, None]]
    assert found.notes[:2] == [
        f"{folder}/list_attr_celeba.csv leaves 1 pictures out: they have no such annotation",
        f"{folder}/list_attr_celeba.csv lacks values of 3 pictures: their others are kept",
    ]
    assert max(len(found.member(i)) for i in range(4)) <= found.member_bytes
    contradiction = f"{text}\n000001.jpg,2,1"
    (folder / "list_attr_celeba.csv").write_text(contradiction)
    with pytest.raises(ShardError, match=r"000001\.jpg comes twice, with different values"):
        read(folder)


def test_a_picture_without_a_split_is_an_error_unless_held_out(tmp_path: Path) -> None:
    folder = source(tmp_path, **FILES | {"list_eval_partition.txt": PARTITION.replace("000003", "900003")})
    with pytest.raises(ShardError, match=r"1 pictures without a split.*000003\.jpg.*--holdout"):
        read(folder)
    assert read(folder, holdout=1).splits.tolist().count(1) == 1


def test_files_of_other_pictures_are_not_used_and_said(tmp_path: Path) -> None:
    found = read(source(tmp_path, ["a.jpg", "b.jpg"], **FILES))
    assert found.names == ()
    assert found.splits.tolist() == [0, 0]
    assert len(found.notes) == 3


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("list_attr_celeba.txt", "Male Smiling\n000001.jpg 1 1\n", "count of pictures in line 1"),
        ("list_attr_celeba.txt", "4\nMale Smiling\n000001.jpg 1\n", "1 values, expected 2"),
        ("list_attr_celeba.txt", "4\nMale Smiling\n000001.jpg 1 x\n", "expected whole numbers"),
        ("list_attr_celeba.txt", "4\nMale Smiling\n000001.jpg 1 99999\n", "99999"),
        ("identity_CelebA.txt", "000001.jpg 99999999999999\n", "out of range"),
        ("list_eval_partition.txt", PARTITION.replace("2.jpg 1", "2.jpg 3"), "without a split 0, 1 or 2"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, file: str, text: str, message: str) -> None:
    with pytest.raises(ShardError, match=message) as caught:
        read(source(tmp_path, **FILES | {file: text}))
    assert file in str(caught.value)


def test_a_folder_without_annotations_is_refused_where_it_was_named(tmp_path: Path) -> None:
    folder = source(tmp_path / "set")
    with pytest.raises(ShardError, match="none of list_attr"):
        read(folder, tmp_path)


def test_holdout_is_a_fixed_draw_that_does_not_follow_the_order(tmp_path: Path) -> None:
    names = [f"{i:03d}.jpg" for i in range(100)]
    found = read(source(tmp_path, names), holdout=20)
    held = np.flatnonzero(found.splits == 1)
    assert len(held) == 20
    assert np.array_equal(held, np.flatnonzero(read(tmp_path, holdout=20).splits == 1))
    assert 5 < (held < 50).sum() < 15
    fewer = np.flatnonzero(read(tmp_path, holdout=10).splits == 1)
    assert set(fewer) < set(held)
    with pytest.raises(ShardError, match="none would be left"):
        read(tmp_path, holdout=100)


def test_lfws_folders_are_the_identities(tmp_path: Path) -> None:
    found = read(source(tmp_path, ["Ann_Lee/Ann_Lee_0001.jpg", "Bo/Bo_0001.jpg", "Bo/Bo_0002.jpg"]))
    assert [found.row(i)["identity"] for i in range(3)] == ["Ann_Lee", "Bo", "Bo"]
    assert read(source(tmp_path, ["other.jpg"])).row(0)["identity"] is None


def test_members_never_exceed_the_room_that_the_set_gives_them(tmp_path: Path) -> None:
    wide = ATTRIBUTES.replace("000002.jpg  1 -1", "000002.jpg  1000 -1000")
    found = read(source(tmp_path, **FILES | {"list_attr_celeba.txt": wide}))
    assert max(len(found.member(i)) for i in range(4)) <= found.member_bytes
    assert len(json.dumps({"attributes": {"Male": 1000, "Smiling": -1000}, "identity": 8692})) <= found.member_bytes


def test_part_keeps_what_belongs_to_the_positions(tmp_path: Path) -> None:
    found = read(source(tmp_path, **FILES))
    part = found.part(np.array([3, 1]))
    assert [part.row(0), part.row(1)] == [found.row(3), found.row(1)]


def mnist(folder: Path, stem: str, labels: list[int]) -> None:
    images = struct.pack(">4I", 0x803, len(labels), 2, 2) + bytes(4 * len(labels))
    (folder / f"{stem}-images-idx3-ubyte").write_bytes(images)
    data = struct.pack(">2I", 0x801, len(labels)) + bytes(labels)
    (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(data))


def test_mnists_labels_are_attributes_and_t10k_is_the_test_split(tmp_path: Path) -> None:
    mnist(tmp_path, "t10k", [7, 2])
    alone = read(tmp_path)
    assert (alone.names, [alone.row(i)["attributes"] for i in range(2)]) == (("label",), [[7], [2]])
    assert alone.splits.tolist() == [0, 0]  # nothing else to train on
    mnist(tmp_path, "train", [5, 0, 4])
    both = read(tmp_path)
    assert both.splits.tolist() == [2, 2, 0, 0, 0]
    assert [both.row(i)["attributes"] for i in range(5)] == [[7], [2], [5], [0], [4]]


def test_real_annotations_fit_their_pictures(real_pictures: Path) -> None:
    folder = real_pictures / "celeba-mini"
    own, whole = read(folder), read(folder, folder / "whole-annotations")
    assert np.bincount(own.splits).tolist() == [4889, 485, 630]
    assert own.row(0)["identity"] == 2880
    assert own.row(5000) == whole.row(5000)
    assert len(own.names) == 40
    assert not own.notes


def test_annotations_are_the_same_whether_memory_or_a_disk_holds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{folder}/{number:03d}.jpg" for folder in ("a", "b") for number in range(40)]  # a name means both
    lines = [f"{number:03d}.JPG {number % 3 - 1} {number}\n" for number in range(39)]
    identity = "".join(f"{number:03d}.jpg {number // 2}\n" for number in range(40) if number != 7)
    files = {"list_attr_celeba.txt": f"39\nMale Smiling\n{''.join(lines)}", "identity_CelebA.txt": identity}
    folder = source(tmp_path / "source", names, **files)
    whole = read(folder)
    monkeypatch.setattr(sorting, "RUN_BYTES", 8)
    for module in (annotations, slots):
        monkeypatch.setattr(module, "BLOCK" if module is annotations else "AT_ONCE", 7)
    found = read(folder)
    assert isinstance(found.values, np.memmap) and not isinstance(whole.values, np.memmap)
    assert (found.fingerprint, found.member_bytes, found.notes) == (
        whole.fingerprint,
        whole.member_bytes,
        whole.notes,
    )
    assert found.identities is not None
    assert (
        [*found.identities] == [*found.identities[:]] == [None if n % 40 == 7 else n % 40 // 2 for n in range(80)]
    )
    assert [found.row(n)["attributes"] for n in (3, 43, 39)] == [[-1, 3], [-1, 3], None]
