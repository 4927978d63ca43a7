"""Synthetic faces: CelebA's layout to the byte, the same faces every time, whole or continued."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.synthetic.attributes import ATTRIBUTES, attributes
from jobs.synthetic.celeba import draw_face, split_of, write_celeba
from jobs.synthetic.traits import draw_traits
from shards.errors import ShardError

ANNOTATIONS = ("list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_celeba(tmp_path_factory.mktemp("synthetic") / "faces", 100, seed=3)


def test_pictures_have_celebas_names_and_size(faces: Path) -> None:
    names = sorted(path.name for path in (faces / "img_align_celeba").iterdir())
    assert names == [f"{number:06d}.jpg" for number in range(1, 101)]
    with Image.open(faces / "img_align_celeba" / "000001.jpg") as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (178, 218), "RGB")


def test_attributes_are_in_the_originals_format(faces: Path) -> None:
    lines = (faces / "list_attr_celeba.txt").read_bytes().split(b"\r\n")
    assert lines[0] == b"100"
    assert lines[1].startswith(b"5_o_Clock_Shadow Arched_Eyebrows") and lines[1].endswith(b"Young ")
    assert len(lines[1].split()) == 40
    assert lines[-1] == b"" and len(lines) == 103
    for number, line in enumerate(lines[2:-1], 1):
        name, *flags = line.split()
        assert name == b"%06d.jpg" % number
        assert len(flags) == 40 and set(flags) <= {b"1", b"-1"}
        first, rest = flags[0].decode(), "".join(f" {flag.decode():>2}" for flag in flags[1:])
        assert line.decode() == f"{name.decode()} {first}{rest}"


def test_a_person_is_in_one_split_and_all_splits_are_there(faces: Path) -> None:
    splits = dict(line.split() for line in (faces / "list_eval_partition.txt").read_text().splitlines())
    persons = dict(line.split() for line in (faces / "identity_CelebA.txt").read_text().splitlines())
    assert len(splits) == len(persons) == 100
    assert len(set(zip(persons.values(), (splits[name] for name in persons), strict=True))) == 25
    assert [list(splits.values()).count(code) for code in "012"] == [80, 4, 16]


def test_partition_keeps_its_shares_at_any_count() -> None:
    codes = [split_of(index, 6401) for index in range(6401)]
    assert codes == sorted(codes)
    assert abs(codes.count(1) - 256) <= 4 and abs(codes.count(2) - 1024) <= 4
    assert [split_of(index, 6400) for index in range(6400)].count(2) == 1024


def test_a_face_depends_on_seed_and_index_alone(faces: Path, tmp_path: Path) -> None:
    again = write_celeba(tmp_path / "fewer", 12, seed=3)
    for number in (1, 7, 12):
        name = f"img_align_celeba/{number:06d}.jpg"
        assert (again / name).read_bytes() == (faces / name).read_bytes()
    assert not np.array_equal(draw_face(3, 0), draw_face(4, 0))
    assert not np.array_equal(draw_face(3, 0), draw_face(3, 1))


def test_processes_draw_what_one_draws(tmp_path: Path) -> None:
    one = write_celeba(tmp_path / "one", 200, workers=1)
    two = write_celeba(tmp_path / "two", 200, workers=2)
    for path in sorted(one.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def test_running_again_draws_only_what_is_missing_or_cut_short(tmp_path: Path) -> None:
    folder = write_celeba(tmp_path / "faces", 6)
    images = folder / "img_align_celeba"
    whole = {path.name: path.read_bytes() for path in images.iterdir()}
    kept = (images / "000002.jpg").stat().st_mtime_ns
    (images / "000001.jpg").unlink()
    (images / "000003.jpg").write_bytes(whole["000003.jpg"][:500])
    (folder / "list_attr_celeba.txt").unlink()
    seen: list[tuple[int, int]] = []
    write_celeba(folder, 6, progress=lambda done, count: seen.append((done, count)))
    assert {path.name: path.read_bytes() for path in images.iterdir()} == whole
    assert (images / "000002.jpg").stat().st_mtime_ns == kept
    assert seen == [(6, 6)]
    assert all((folder / name).exists() for name in ANNOTATIONS)


def test_a_set_grows_and_its_annotations_with_it(tmp_path: Path) -> None:
    write_celeba(tmp_path / "faces", 4)
    write_celeba(tmp_path / "faces", 8)
    assert (tmp_path / "faces/list_attr_celeba.txt").read_text().startswith("8\n")


@pytest.mark.parametrize("count, seed", [(4, 0), (6, 1)])
def test_other_faces_in_the_folder_are_refused(tmp_path: Path, count: int, seed: int) -> None:
    write_celeba(tmp_path / "faces", 6)
    with pytest.raises(ShardError, match="other synthetic faces"):
        write_celeba(tmp_path / "faces", count, seed=seed)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "list_attr_celeba.txt").write_text("the real one")
    with pytest.raises(ShardError, match="not empty"):
        write_celeba(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["list_attr_celeba.txt"]


@pytest.mark.parametrize("count", [0, -1, 1_000_000])
def test_impossible_counts_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(ShardError, match="expected 1 to 999999"):
        write_celeba(tmp_path / "faces", count)


def test_every_attribute_but_the_judgement_occurs() -> None:
    drawn = [attributes(draw_traits(0, index)) for index in range(3000)]
    rates = {name: sum(flags[name] for flags in drawn) / len(drawn) for name in ATTRIBUTES}
    assert rates.pop("Attractive") == 0
    assert min(rates.values()) > 0.005 and max(rates.values()) < 0.95
    assert not any(flags["Goatee"] and flags["No_Beard"] for flags in drawn)
    assert not any(flags["Straight_Hair"] and flags["Wavy_Hair"] for flags in drawn)


def test_attributes_show_in_the_pixels() -> None:
    """Crown of fair heads against dark ones; the cheeks of pale skin against the others."""
    crown: dict[str, list[float]] = {"Black_Hair": [], "Blond_Hair": []}
    cheek: dict[bool, list[float]] = {True: [], False: []}
    for index in range(0, 400, 4):
        flags, pixels = attributes(draw_traits(1, index)), draw_face(1, index)
        for name in crown:
            if flags[name] and not flags["Receding_Hairline"]:
                crown[name].append(float(pixels[58:62, 80:98].mean()))
        cheek[flags["Pale_Skin"]].append(float(pixels[130:138, 110:120].mean()))
    assert max(crown["Black_Hair"]) < min(crown["Blond_Hair"])
    assert np.mean(cheek[True]) > np.mean(cheek[False]) + 30


def test_faces_are_aligned_as_celeba_is() -> None:
    """The mean face is darker at the eyes of (70, 111) and (108, 111) than on the cheeks below."""
    mean = np.mean([draw_face(0, index) for index in range(0, 160, 4)], axis=0).mean(axis=2)
    for column in (70, 108):
        assert mean[109:113, column - 2 : column + 3].mean() < mean[128:134, column - 2 : column + 3].mean() - 15
