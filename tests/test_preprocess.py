"""Preprocess from end to end: the same bytes however the work is cut, interrupted or started again."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pictures import draw, encode, jpegs, reference, write_folder, write_tar, write_zip

from facegan.files import json_lines
from jobs.cli import main
from shards.errors import ShardError
from shards.format.columns import cut
from shards.format.index import ShardIndex, load_index
from shards.format.png import Geometry
from shards.make import closing, groups
from shards.make.layout import parse_bytes, samples_per_shard
from shards.make.plan import Plan
from shards.make.writer import Options, close_set, preprocess
from shards.read.opening import open_set
from shards.read.verify import verify_set

PARTITION = "list_eval_partition.txt"
BOX = (14, 34, 164, 184)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return jpegs(23)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    """23 pictures in a zip, 15 of them train, 5 val, 3 test."""
    folder = tmp_path_factory.mktemp("source")
    splits = [0] * 15 + [1] * 5 + [2] * 3
    lines = [f"{i:06d}.jpg {split}\r\n" for i, split in enumerate(splits, 1)]
    write_folder(folder, {PARTITION: "".join(lines).encode()})
    return write_zip(folder / "img_align_celeba.zip", files)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["preprocess", *map(str, arguments)])


def make(source: Path, out: Path, **options: Any) -> dict[Path, ShardIndex]:
    sizes = options.pop("sizes", ((64, 64), (128, 128)))
    return preprocess(Options(source, out, sizes, **{"shard_size": 4, "workers": 2, **options})).indices


def tree(out: Path) -> dict[str, str]:
    """Every file of a set with the SHA-256 of its bytes, but for the plan (it holds the last --slice)."""
    files = [file for file in sorted(out.rglob("*")) if file.is_file() and file.name != "preprocess.json"]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def whole(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sets made in one go."""
    out = tmp_path_factory.mktemp("whole")
    make(archive, out)
    return out


def images(folder: Path, index: ShardIndex, split: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shards = [shard for shard in index.shards if shard.split == split]
    views = [
        np.fromfile(folder / shard.name, np.uint8)[: shard.samples * index.geometry.stride] for shard in shards
    ]
    return np.concatenate([index.geometry.view(view) for view in views])


def table(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_the_set_holds_what_pillow_makes_of_the_pictures(whole: Path, files: dict[str, bytes]) -> None:
    for size in (64, 128):
        index = load_index(whole / str(size))
        found = images(whole / str(size), index, "train").astype(int)
        expected = np.stack([reference(data, BOX, (size, size)) for data in list(files.values())[:15]])
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 2


def test_the_index_says_what_there_is(whole: Path) -> None:
    index = load_index(whole / "64")
    assert [shard.name for shard in index.shards][:5] == [
        *(f"train-0000{i}.tar" for i in range(4)),
        "val-00000.tar",
    ]
    assert {name: (split.samples, split.shards) for name, split in index.splits.items()} == {
        "train": (15, 4),
        "val": (5, 2),
        "test": (3, 1),
    }
    for shard in index.shards:
        assert hashlib.sha256((whole / "64" / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert (index.source.name, index.source.kind, index.source.samples) == ("img_align_celeba.zip", "zip", 23)
    assert index.transform is not None
    assert index.transform.crop == "150"
    assert index.software["torch"] != "unknown"
    assert index.source.fingerprint == load_index(whole / "128").source.fingerprint


def test_the_side_table_follows_the_shards(whole: Path) -> None:
    rows = table(whole / "64")
    assert [row["key"] for row in rows] == [f"{i:06d}" for i in range(1, 24)]
    assert rows[0]["source"] == "img_align_celeba/000001.jpg"
    assert [row["split"] for row in rows] == ["train"] * 15 + ["val"] * 5 + ["test"] * 3


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same_bytes(
    archive: Path, whole: Path, tmp_path: Path, workers: int
) -> None:
    make(archive, tmp_path, workers=workers)
    assert tree(tmp_path) == tree(whole)


def test_slices_in_any_order_write_the_same_bytes_and_are_closed_when_all_are_there(
    archive: Path, whole: Path, tmp_path: Path
) -> None:
    for index in (2, 0, 3):
        assert make(archive, tmp_path, slice=(index, 4)) == {}
        assert not list(tmp_path.glob("*/index.json"))
    with pytest.raises(ShardError, match=r"shards are missing \(.*\).*--slice 1/4"):
        close_set(tmp_path)
    make(archive, tmp_path, slice=(1, 4))
    close_set(tmp_path)
    assert tree(tmp_path) == tree(whole)
    assert close_set(tmp_path / "64")[tmp_path / "64"] == load_index(whole / "64")


def test_more_slices_than_shards_are_fine(archive: Path, whole: Path, tmp_path: Path) -> None:
    for index in range(9):
        make(archive, tmp_path, slice=(index, 9))
    close_set(tmp_path)
    assert tree(tmp_path) == tree(whole)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
def test_the_kind_of_source_does_not_matter_to_the_shards(
    archive: Path, whole: Path, files: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    if kind == "folder":
        source = write_folder(tmp_path / "source", files)
    else:
        source = write_tar(tmp_path / f"x.{kind}", files, "w:gz" if kind == "tar.gz" else "w")
    found = make(source, tmp_path / "out", annotations=archive.parent)
    for size in ("64", "128"):
        expected = load_index(whole / size)
        assert found[tmp_path / "out" / size].fingerprint == expected.fingerprint
        assert found[tmp_path / "out" / size].source.fingerprint == expected.source.fingerprint
    assert not list((tmp_path / "out").glob(".source*"))
    assert make(source, tmp_path / "out", annotations=archive.parent).keys() == found.keys()


def test_a_finished_run_is_left_alone(archive: Path, tmp_path: Path) -> None:
    make(archive, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    make(archive, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_annotations_that_come_later_are_not_passed_over(
    archive: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    source = write_zip(tmp_path / "x.zip", files)
    make(source, tmp_path / "out")
    with pytest.raises(ShardError, match=r"annotations: .* there"):
        make(source, tmp_path / "out", annotations=archive.parent)
    write_folder(tmp_path, {PARTITION: (archive.parent / PARTITION).read_bytes()})
    with pytest.raises(ShardError, match=r"annotations: .* there"):
        make(source, tmp_path / "out")


def test_a_missing_or_short_shard_of_a_closed_set_is_written_again(
    archive: Path, whole: Path, tmp_path: Path
) -> None:
    make(archive, tmp_path)
    (tmp_path / "64" / "train-00001.tar").unlink()
    shard = tmp_path / "128" / "val-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    make(archive, tmp_path)
    assert tree(tmp_path) == tree(whole)


def test_slices_of_a_closed_set_look_at_their_own_shards_alone_and_mend_them(
    archive: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    asked: list[str] = []
    real = closing.size_of
    monkeypatch.setattr(closing, "size_of", lambda file: asked.append(file.name) or real(file))
    small: dict[str, Any] = {"sizes": ((64, 64),), "workers": 1}
    names = [shard.name for shard in load_index(out / "64").shards]
    found = []
    for part in range(3):
        asked.clear()
        make(archive, out, slice=(part, 3), **small)
        found.append([*asked])
    assert [name for names in found for name in names] == names and all(found)
    (out / "64" / names[-1]).unlink()
    for part in (0, 1, 2):
        make(archive, out, slice=(part, 3), **small)
        assert (out / "64" / names[-1]).exists() == (part == 2)
    assert tree(out) == tree(whole)


def test_another_size_joins_a_closed_set(archive: Path, whole: Path, tmp_path: Path) -> None:
    make(archive, tmp_path, sizes=((128, 128),))
    make(archive, tmp_path, sizes=((64, 64), (128, 128)))
    assert tree(tmp_path) == tree(whole)


def test_other_options_in_the_same_place_are_refused_with_their_names(archive: Path, whole: Path) -> None:
    before = tree(whole)
    with pytest.raises(ShardError, match=r"crop: 150 there, 140 asked for.*holdout: None there, 3 asked for"):
        make(archive, whole, crop="140", holdout=3)
    with pytest.raises(ShardError, match="shard_size: 4 there, 5 asked for"):
        make(archive, whole, shard_size=5)
    with pytest.raises(ShardError, match="channels: 3 there, 1 asked for"):
        make(archive, whole, channels=1)
    assert tree(whole) == before


def test_shards_are_cut_by_bytes_the_same_whatever_the_slices(archive: Path, tmp_path: Path) -> None:
    limit = Geometry(128, 128, 3).shard_bytes(3)  # the larger of the two sizes decides
    options = {"shard_size": None, "shard_bytes": limit}
    closed = make(archive, tmp_path / "a", **options)
    assert {index.shard_size for index in closed.values()} == {3}
    assert closed[tmp_path / "a" / "128"].shards.bytes.max() == limit
    for part in (2, 0, 1):
        make(archive, tmp_path / "b", slice=(part, 3), workers=1, **options)
    close_set(tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    with pytest.raises(ShardError, match="shard_size: 3 there, 1 asked for"):
        make(archive, tmp_path / "a", shard_size=None, shard_bytes=1)


def test_a_set_begun_with_shards_of_some_size_goes_on_with_them_where_none_is_asked_for(
    archive: Path, whole: Path, tmp_path: Path
) -> None:
    make(archive, tmp_path, slice=(0, 2))
    make(archive, tmp_path, slice=(1, 2), shard_size=None)
    close_set(tmp_path)
    assert tree(tmp_path) == tree(whole)


def test_by_itself_a_set_has_some_64_shards_none_of_them_large() -> None:
    small, large = Geometry(64, 64, 3), Geometry(128, 128, 3)
    assert samples_per_shard(10**9, [small, large]) * large.stride <= 256 << 20
    assert samples_per_shard(202_599, [small, large]) == 3166  # CelebA: 64 shards
    assert samples_per_shard(1_000, [small]) == 256  # not 64 files for a thousand pictures
    assert samples_per_shard(10, [Geometry(21_844, 21_844, 3)]) == 1
    assert [parse_bytes(text) for text in ("100", "3k", "256M", "1GiB")] == [100, 3 << 10, 256 << 20, 1 << 30]


def test_a_size_of_shards_that_is_none_is_said(archive: Path, tmp_path: Path) -> None:
    for text in ("0", "many", "-3M", "1.5G"):
        result = run(archive, tmp_path, "--shard-bytes", text)
        assert (result.exit_code, "expected a number of bytes, like 256M" in result.stderr) == (2, True)
    assert "give one of them" in run(archive, tmp_path, "--shard-bytes", "1M", "--shard-size", "5").stderr


def test_the_slice_of_a_shard_is_the_one_that_makes_it() -> None:
    for count, slices in ((1, 1), (7, 3), (3, 7), (100, 8), (64, 64)):
        plan = Plan({"shard_size": 1}, {"train": count}, [], {}, slices, "1%")
        names = [name for name, _, _ in plan.shards]
        for part in range(slices):
            assert {plan.slice_of(name) for name in names[cut(count, part, slices)]} <= {part}


def test_another_source_in_the_same_place_is_refused(whole: Path, tmp_path: Path) -> None:
    other = write_zip(tmp_path / "other.zip", jpegs(23, first=2))
    with pytest.raises(ShardError, match=r"listing: .* there"):
        make(other, whole)


def test_tars_of_somebody_else_are_not_overwritten(archive: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "64", {"train-00000.tar": b"precious"})
    with pytest.raises(ShardError, match="not made by preprocess here"):
        make(archive, tmp_path)
    assert (tmp_path / "64" / "train-00000.tar").read_bytes() == b"precious"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_attributes_become_members_of_one_length(archive: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    lines = [f"{i:06d}.jpg {'-1' if i % 3 else ' 1'}\r\n" for i in range(1, 24)]
    text = "23\r\nSmiling\r\n" + "".join(lines)
    known = {"list_attr_celeba.txt": text.encode(), "identity_CelebA.txt": b"000001.jpg 12345\n000002.jpg 7\n"}
    write_folder(tmp_path / "known", known)
    made = make(archive, tmp_path / "out", sizes=((32, 32),), attributes=True, annotations=tmp_path / "known")
    index = made[tmp_path / "out" / "32"]
    assert index.attributes == ("Smiling",)
    shard = tmp_path / "out" / "32" / "train-00000.tar"
    listed = subprocess.run(["tar", "tvf", shard], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len({line.split()[2] for line in listed if line.endswith(".json")}) == 1
    samples = list(wds.WebDataset(str(shard), shardshuffle=False).decode("rgb8"))
    assert samples[0]["json"] == {"attributes": {"Smiling": -1}, "identity": 12345}
    assert samples[2]["json"] == {"attributes": {"Smiling": 1}, "identity": None}
    assert np.array_equal(samples[1]["png"], images(tmp_path / "out" / "32", index, "train")[1])
    assert table(tmp_path / "out" / "32")[0]["attributes"] == [-1]


def test_rectangles_greys_and_whole_pictures(archive: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    made = make(archive, tmp_path, sizes=((62, 47),), channels=1, crop="none", holdout=2)
    (folder, index), *_ = made.items()
    assert folder == tmp_path / "62x47"
    assert {name: split.samples for name, split in index.splits.items()} == {"train": 21, "val": 2}
    rows = [row for row in table(folder) if row["split"] == "train"]
    expected = np.stack([reference(files[row["source"]], None, (62, 47), "L") for row in rows])
    assert np.abs(images(folder, index, "train")[..., 0].astype(int) - expected).max() <= 2


def test_large_photographs_are_cut_as_small_ones_are(tmp_path: Path) -> None:
    data = {f"{i}.jpg": encode(draw(i, 900, 700)) for i in range(3)}
    made = make(write_folder(tmp_path / "s", data), tmp_path / "out", sizes=((64, 64),), crop="400")
    (folder, index), *_ = made.items()
    expected = np.stack([reference(picture, (150, 250, 550, 650), (64, 64)) for picture in data.values()])
    assert np.abs(images(folder, index, "train").astype(int) - expected).max() <= 2


def test_options_come_from_the_environment_too(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEGAN_SIZE", "16 32")
    monkeypatch.setenv("FACEGAN_CROP", "100")
    assert run(archive, tmp_path, "--size", "8").exit_code == 0
    assert run(archive, tmp_path).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"8", "16", "32"}
    assert '"crop": "100"' in (tmp_path / "8" / "index.json").read_text()


def test_pictures_of_many_sizes_stay_in_order(tmp_path: Path) -> None:
    data = {f"{i:02d}.png": encode(draw(i, 40 + i % 3, 50 - i % 2), "PNG") for i in range(40)}
    made = make(
        write_folder(tmp_path / "s", data), tmp_path / "out", sizes=((32, 32),), crop="none", shard_size=100
    )
    (folder, index), *_ = made.items()
    expected = np.stack([reference(picture, None, (32, 32)) for picture in data.values()])
    assert np.abs(images(folder, index, "train").astype(int) - expected).max() <= 2


def command(*arguments: str | Path, limit: str = "") -> list[str]:
    line = [sys.executable, "-m", "jobs", "preprocess", *map(str, arguments)]
    return ["bash", "-c", f'{limit}; exec "$@"', "bash", *line] if limit else line


def parts(out: Path) -> int:
    return len(list(out.glob("128/.parts/*.jsonl")))


def wait_for(condition: Any, process: "subprocess.Popen[bytes]", seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,600 pictures: enough to be killed on the way."""
    few = list(jpegs(20).values())
    names = {f"{i:06d}.jpg": few[i % 20] for i in range(1600)}
    return write_zip(tmp_path_factory.mktemp("many") / "many.zip", names)


@pytest.mark.parametrize("victim", ["all", "main", "worker"])
def test_killed_at_any_moment_and_run_again_it_ends_with_the_same_bytes(
    many: Path, tmp_path: Path, victim: str
) -> None:
    options = ["--size", "64", "--size", "128", "--shard-size", "20", "--workers", "2"]
    out = tmp_path / "out"
    process = subprocess.Popen(command(many, out, *options), stderr=subprocess.PIPE, start_new_session=True)
    wait_for(lambda: parts(out) >= 3, process)
    assert process.poll() is None, "it was finished before it could be killed"
    if victim == "worker":
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert b"killed by signal 9" in error
        assert b"again" in error
    else:
        (os.killpg if victim == "all" else os.kill)(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        wait_for_silence(out)
    done = {file: file.stat().st_mtime_ns for file in (out / "64" / ".parts").glob("*.jsonl")}
    assert not list(out.glob("*/index.json"))
    assert run(many, out, *options).exit_code == 0
    assert done
    preprocess(Options(many, tmp_path / "whole", ((64, 64), (128, 128)), shard_size=20, workers=2))
    assert tree(out) == tree(tmp_path / "whole")


def workers_of(pid: int) -> list[int]:
    """The processes that write shards: the children of the fork server, a child of the main process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(line.split()[0]): int(line.split()[1]) for line in listed.splitlines()}
    children = [child for child, parent in parents.items() if parent == pid]
    return [child for child, parent in parents.items() if parent in children]


def wait_for_silence(out: Path) -> None:
    """Wait until orphaned workers have noticed that their main process is gone."""
    last = None
    while (now := sorted((file, file.stat().st_size) for file in out.rglob("*.tar*") if file.exists())) != last:
        last = now
        time.sleep(0.5)


def test_ctrl_c_leaves_nothing_half_and_exits_130(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(many, out, "--size", "128", "--shard-size", "20"), stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for(lambda: parts(out) >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in error
    assert not list(out.rglob("*.part"))


def test_a_full_disk_is_said_and_what_was_finished_is_kept(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [many, out, "--size", "16", "--shard-size", "100"]
    done = subprocess.run(command(*arguments, limit="ulimit -f 100"), capture_output=True, text=True)
    assert done.returncode == 74, done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.rglob("*.tar*"))
    assert run(*arguments).exit_code == 0
    assert load_index(out / "16").splits["train"].samples == 1600


def test_a_long_temporary_folder_is_no_trouble(tmp_path: Path) -> None:
    """The path of a socket may have 107 bytes only."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    code = (
        "from shards.make.pool import start_server\n"
        "process = start_server().Process(target=print, args=('works',)); process.start(); process.join()"
    )
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "works\n"), done.stderr


def test_the_command_takes_crop_size_and_channels_from_a_recipe(tmp_path: Path) -> None:
    names = [f"{name}/{name}_0001.jpg" for name in ("Ann_Lee", "Bo", "Cy")]
    source = write_folder(tmp_path / "lfw", {name: encode(draw(i, 250, 250)) for i, name in enumerate(names)})
    done = run(source, tmp_path / "out", "--recipe", "wgan-gp-lfw")
    assert done.exit_code == 0, done.output
    index = load_index(tmp_path / "out" / "62x47")
    assert index.transform is not None
    assert index.transform.crop == "70:195,78:172"
    assert table(tmp_path / "out" / "62x47")[0]["identity"] == "Ann_Lee"


def test_the_command_reports_progress_and_the_end(archive: Path, tmp_path: Path) -> None:
    done = run(archive, tmp_path, "--size", "64", "--shard-size", "10")
    assert done.exit_code == 0
    assert "23 / 23 pictures (100 %)" in done.output
    assert "4 shards of 64x64 images: train 15, val 5, test 3" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--slice", "4/4"], 2, "expected I/N"),
        (["--slice", "x"], 2, "expected I/N"),
        (["--size", "64y"], 2, "expected SIDE"),
        (["--crop", "large"], 2, "expected none, 150"),
        (["--max-rejects", "few"], 2, "count or a percentage"),
        (["--recipe", "nothing"], 2, "does not exist"),
        (["--annotations", "/nowhere"], 1, "none of list_attr"),
        (["--holdout", "23"], 1, "none would be left"),
    ],
)
def test_a_wrong_option_is_a_clear_error(
    archive: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = run(archive, tmp_path / "out", *arguments)
    assert done.exit_code == code
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_real_mnist_becomes_a_grey_set(real_pictures: Path, tmp_path: Path) -> None:
    (folder, index), *_ = make(real_pictures / "mnist", tmp_path, sizes=((28, 28),), shard_size=5000).items()
    assert (index.channels, index.splits["train"].samples, index.attributes) == (1, 10_000, ("label",))
    rows = table(folder)
    assert (rows[0]["key"], rows[0]["attributes"]) == ("t10k-00000", [7])


def test_side_tables_in_parts_are_written_by_the_slices_and_closing_reads_no_samples(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {"sizes": ((64, 64),), "workers": 1}
    make(archive, tmp_path / "single", **small)
    monkeypatch.setattr(groups, "GROUP_SAMPLES", 8)  # two of the seven shards a group
    tables = [f"samples-{number:05d}.jsonl" for number in range(4)]
    make(archive, tmp_path / "whole", **small)
    out = tmp_path / "slices"
    for part in (1, 0):
        make(archive, out, slice=(part, 2), **small)
    assert [file.name for file in sorted((out / "64").glob("samples*"))] == tables
    for file in out.glob("*/.parts/train-*.jsonl"):
        file.unlink()
    index = close_set(out)[out / "64"]
    assert tree(out) == tree(tmp_path / "whole")
    assert [table.name for table in index.tables] == tables
    assert [table.name for table in index.labels] == [f"labels-{number:05d}.npy" for number in range(4)]
    assert load_index(out / "64") == index
    names = [row["source"] for part in tables for row in json_lines(out / "64" / part)]
    assert names == [row["source"] for row in table(tmp_path / "single" / "64")]
    assert verify_set(out / "64") == []
    assert len(open_set(out / "64").labels("train")) == 15
    for name in (tables[1], index.labels[1].name, "rejects.jsonl"):
        (out / "64" / name).unlink()
    assert [found.what for found in verify_set(out / "64")] == ["missing"] * 3
    shared = [[found.file for found in verify_set(out / "64", part=(part, 3))] for part in range(3)]
    assert shared == [[tables[1]], [index.labels[1].name], ["rejects.jsonl"]]


def test_slices_of_an_earlier_version_have_the_same_labels_when_this_one_closes_the_set(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote none: they come from the records of its shards."""
    small: dict[str, Any] = {"sizes": ((64, 64),), "workers": 1}
    monkeypatch.setattr(groups, "GROUP_SAMPLES", 8)
    make(archive, tmp_path / "whole", **small)
    out = tmp_path / "slices"
    for part in (0, 1):
        make(archive, out, slice=(part, 2), **small)
    first, second, *_ = sorted((out / "64/.parts").glob("group-*.json"))
    for summary, labels in ((first, {"labels": None}), (second, {})):  # as two earlier versions had it
        known = json.loads(summary.read_text())
        (out / "64" / known.pop("labels")["name"]).unlink()
        summary.write_text(json.dumps(known | labels))
    close_set(out)
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_that_is_replaced_after_it_was_listed_is_refused(tmp_path: Path, write: Any) -> None:
    longest = 1 << 14
    first, other = (
        {f"{i}.jpg": data.ljust(longest, b"\0") for i, data in enumerate(jpegs(4, n).values())} for n in (1, 50)
    )
    source, new = write(tmp_path / "faces", first), write(tmp_path / "new", other)

    def replace(read: int, rejected: int, total: int) -> None:
        if new.exists():
            new.replace(source)

    with pytest.raises(ShardError, match="faces: has changed since it was listed"):
        preprocess(Options(source, tmp_path / "out", ((16, 16),), shard_size=2), replace)
    assert not list((tmp_path / "out/16").glob("*.tar"))
