"""Staging: from a real server that cuts, fails and lies, and from a slow folder; once for all ranks of a node."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import Server, serving
from shard_sets import encode, make_set, pictures, write_tar

import shards
from facegan.errors import FaceganError
from facegan.files import private_folder
from shards.errors import ShardError
from shards.format.index import load_index
from shards.make.foreign import index_tars
from shards.make.reading import ForeignTars
from shards.read import node, remote, stage

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # aiohttp's sessions outlive the tests


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    with serving(tmp_path / "source") as running:
        yield running


def test_a_set_at_an_address_reads_like_the_one_it_was_copied_from(server: Server, tmp_path: Path) -> None:
    written = make_set(server.folder, {"train": [5, 4], "val": [3]})
    fetched: list[int] = []
    opened = shards.open_set(server.address, stage=tmp_path / "stage", progress=fetched.append)
    images = opened.split("train")
    assert np.array_equal(images.gather(np.arange(9)), written["train"])
    assert server.fetched() == {"train-00000.tar": 1, "train-00001.tar": 1}  # val is not asked for
    assert sum(fetched) == sum(shard.bytes for shard in images.shards)
    shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    assert sum(server.fetched().values()) == 2  # what is staged stays


def test_a_resolution_is_looked_for_below_the_address(server: Server, tmp_path: Path) -> None:
    make_set(server.folder / "8", {"train": [2]})
    opened = shards.open_set(server.address, resolution=8, stage=tmp_path / "stage")
    assert len(opened.split("train")) == 2
    with pytest.raises(ShardError, match="images of 8 px, resolution 16 was asked for"):
        shards.open_set(f"{server.address}/8", resolution=16, stage=tmp_path / "stage")
    with pytest.raises(ShardError, match=r"no index.json there"):
        shards.open_set(server.address, stage=tmp_path / "stage")


@pytest.mark.parametrize("faults", [["500", "503", "429"], ["cut", "cut", "500", "cut"], ["corrupt"]])
def test_cut_connections_server_errors_and_one_wrong_hash_are_got_over(
    server: Server, tmp_path: Path, faults: list[str]
) -> None:
    written = make_set(server.folder, {"train": [40]})
    server.faults["train-00000.tar"] = list(faults)
    images = shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    assert np.array_equal(images.gather(np.arange(40)), written["train"])
    assert len(server.requests) > len(faults)


def test_a_server_that_stumbles_over_the_first_question_is_not_taken_for_an_empty_one(
    server: Server, tmp_path: Path
) -> None:
    make_set(server.folder, {"train": [4]})
    server.faults = {"HEAD index.json": ["503"], "index.json": ["503"]}
    assert len(shards.open_set(server.address, stage=tmp_path / "stage").split("train")) == 4


def test_what_came_before_a_cut_is_not_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(server.folder, {"train": [1000]})
    monkeypatch.setattr(remote, "PIECE", 1 << 18)
    server.faults["train-00000.tar"] = ["", "", "cut", ""]
    shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    starts = [int(wanted[6:].split("-")[0]) for name, wanted in server.requests if wanted and name.endswith(".tar")]
    assert starts[:5] == [0, 1 << 18, 2 << 18, 2 << 18, (2 << 18) + (1 << 17)]


def test_a_killed_fetch_is_continued_by_the_next(server: Server, tmp_path: Path) -> None:
    written = make_set(server.folder, {"train": [30]})
    index = load_index(server.folder)
    place = private_folder(tmp_path / "stage") / index.fingerprint[:16]
    place.mkdir()
    (place / ".train-00000.tar.part").write_bytes((server.folder / "train-00000.tar").read_bytes()[:10_000])
    images = shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    assert np.array_equal(images.gather(np.arange(30)), written["train"])
    assert [wanted for name, wanted in server.requests if name.endswith(".tar")] == ["bytes=10000-31743"]


def test_a_server_without_ranges_will_do(server: Server, tmp_path: Path) -> None:
    written = make_set(server.folder, {"train": [30]})
    server.ranges = False
    images = shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    assert np.array_equal(images.gather(np.arange(30)), written["train"])


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (
            ["corrupt"] * 9,
            "train-00000.tar: fetched twice, and its SHA-256 is .*damaged at its source; copy the set",
        ),
        (["500"] * 99, "train-00000.tar: 8 attempts in a row failed, .*run the same command again"),
        (["403"], "train-00000.tar: refused"),
    ],
)
def test_what_cannot_be_got_over_is_an_error_and_leaves_no_shard(
    server: Server, tmp_path: Path, faults: list[str], message: str
) -> None:
    make_set(server.folder, {"train": [4]})
    server.faults["train-00000.tar"] = faults
    with pytest.raises(ShardError, match=message):
        shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    assert not list((tmp_path / "stage").rglob("train-*.tar"))


def test_a_shard_that_is_damaged_on_a_file_system_names_the_command_that_tells_where(tmp_path: Path) -> None:
    make_set(tmp_path / "set", {"train": [4]})
    path = tmp_path / "set" / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match=f"damaged at its source; `facegan shards verify {tmp_path}/set` says"):
        shards.open_set(tmp_path / "set", stage=tmp_path / "stage").split("train")


def test_a_shard_missing_at_its_source_is_said(server: Server, tmp_path: Path) -> None:
    make_set(server.folder, {"train": [4]})
    (server.folder / "train-00000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-00000.tar: .*not there"):
        shards.open_set(server.address, stage=tmp_path / "stage").split("train")


def test_an_index_from_elsewhere_cannot_name_files_outside_the_set(server: Server, tmp_path: Path) -> None:
    make_set(server.folder, {"train": [4]}, version=1)
    text = (server.folder / "index.json").read_text()
    (server.folder / "index.json").write_text(text.replace("train-00000.tar", "../../../evil"))
    with pytest.raises(ShardError, match=f"{server.address}/index.json: the index is damaged"):
        shards.open_set(server.address, stage=tmp_path / "stage")
    make_set(server.folder, {"train": [4]})
    raw = (server.folder / "index.npy").read_bytes()
    (server.folder / "index.npy").write_bytes(raw.replace(b"train-00000.tar", b"../../../../evi"))
    with pytest.raises(ShardError, match=r"index\.npy: the columns of the index are missing or damaged"):
        shards.open_set(server.address, stage=tmp_path / "stage")


@pytest.mark.parametrize(
    "address", ["pipe://cat%20/etc/passwd", "file:///etc", "https::https://x/y", "github://a:b@c/"]
)
def test_only_plain_addresses_are_read(tmp_path: Path, address: str) -> None:
    with pytest.raises(ShardError, match="sets are read from https://"):
        shards.open_set(address, stage=tmp_path)


def test_an_address_without_a_stage_says_what_to_give(server: Server) -> None:
    with pytest.raises(ShardError, match="give --stage DIR"):
        shards.open_set(server.address)


def test_slurms_node_local_folder_is_used_by_itself(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(server.folder, {"train": [4]})
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "node"))
    own = tmp_path / "node" / f"facegan-{os.geteuid()}"
    assert shards.open_set(server.address).folder.parent == own
    assert shards.open_set(server.folder).folder == server.folder  # a local disk is not copied to another
    monkeypatch.setattr(node, "file_system_of", lambda folder: "lustre")
    assert shards.open_set(server.folder).folder.parent == own


def test_the_kind_of_a_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"40 22 0:50 / {tmp_path} rw shared:7 - lustre server:/data rw\n"
    )
    assert node.file_system_of(tmp_path / "deep" / "er", mounts) == "lustre"
    assert node.file_system_of(Path("/"), mounts) == "ext4"


def test_foreign_tars_are_staged_with_their_member_table(server: Server, tmp_path: Path) -> None:
    write_tar(server.folder / "a.tar", [(f"{i}.png", encode(image, "PNG")) for i, image in enumerate(pictures(5))])
    index_tars(ForeignTars(server.folder))
    images = shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    assert np.array_equal(images.gather(np.arange(5)), pictures(5))


def test_a_small_stage_holds_a_few_shards_at_a_time_and_reads_the_whole_set(server: Server, tmp_path: Path) -> None:
    make_set(server.folder, {"train": [8] * 20})
    size = load_index(server.folder).shards[0].bytes
    opened = shards.open_set(server.address, stage=tmp_path / "stage", stage_limit=9 * size)
    stream = shards.Stream(opened.split("train"), batch_size=8, seed=4)
    reference = shards.Stream(shards.open_set(server.folder).split("train"), batch_size=8, seed=4, order="window")
    assert stream.order.name == "window of 2 streams"
    for _ in range(2 * 20):
        assert np.array_equal(next(stream), next(reference))
        assert len(list(opened.folder.glob("train-*.tar"))) <= 9


def test_a_set_that_a_stage_has_no_room_for_is_copied_to_the_device_shard_by_shard(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "ROOM_TIMEOUT", 2)
    made = make_set(server.folder, {"train": [8] * 20})
    size = load_index(server.folder).shards[0].bytes
    opened = shards.open_set(server.address, stage=tmp_path / "stage", stage_limit=3 * size)
    images = shards.DeviceImages(opened.split("train"), "cpu")
    assert len(list(opened.folder.glob("train-*.tar"))) <= 3
    assert np.array_equal(images.gather(np.arange(160)), made["train"])
    next(shards.Stream(images, batch_size=8, seed=4))


def test_a_stage_too_small_for_two_windows_says_how_much_is_needed(server: Server, tmp_path: Path) -> None:
    make_set(server.folder, {"train": [8] * 20})
    opened = shards.open_set(server.address, stage=tmp_path / "stage", stage_limit=20_000)
    with pytest.raises(ShardError, match=r"too small: this rank reads .* raise --stage-gb to .* fewer --streams"):
        next(shards.Stream(opened.split("train"), batch_size=8, seed=4))


def test_the_window_order_does_not_depend_on_the_stage(server: Server, tmp_path: Path) -> None:
    """Two ranks of one node share a small stage; together they read what one reads from the folder itself."""
    make_set(server.folder, {"train": [6] * 32})
    size = load_index(server.folder).shards[0].bytes
    options: dict[str, Any] = {"batch_size": 8, "seed": 1, "streams": 2, "window": 2}
    ranks = [
        shards.Stream(
            shards.open_set(server.address, stage=tmp_path / "stage", stage_limit=20 * size).split("train"),
            rank=rank, world=2, **options,
        )
        for rank in range(2)
    ]  # fmt: skip
    alone = shards.Stream(shards.open_set(server.folder).split("train"), order="window", **options)
    for _ in range(30):
        assert np.array_equal(np.concatenate([next(rank).numpy() for rank in ranks]), next(alone).numpy())


READER = """
import pathlib, sys, numpy as np, shards
images = shards.open_set(sys.argv[1], stage=pathlib.Path(sys.argv[2])).split("train")
print(images.gather(np.arange(len(images))).astype(np.int64).sum())
"""


def test_each_shard_is_fetched_once_however_many_ranks_ask(server: Server, tmp_path: Path) -> None:
    written = make_set(server.folder, {"train": [50] * 12})["train"]
    command = [sys.executable, "-c", READER, server.address, str(tmp_path / "stage")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    assert [int(rank.communicate()[0]) for rank in ranks] == [int(written.astype(np.int64).sum())] * 3
    assert set(server.fetched().values()) == {1} and len(server.fetched()) == 12
    assert [name for name, _ in server.requests].count("index.npy") == 1, "a million shards are 66 MB of it"


def test_the_ranks_of_a_node_map_one_file_of_columns(server: Server, tmp_path: Path) -> None:
    make_set(server.folder, {"train": [5, 4]})
    first = shards.open_set(server.address, stage=tmp_path / "stage")
    columns = first.folder / "index.npy"
    inode = columns.stat().st_ino
    second = shards.open_set(server.address, stage=tmp_path / "stage")
    assert columns.stat().st_ino == inode and second.index.shards == first.index.shards
    columns.write_bytes(b"\0" * columns.stat().st_size)
    third = shards.open_set(server.address, stage=tmp_path / "stage")
    assert columns.stat().st_ino != inode and third.index.shards == load_index(server.folder).shards


def staged(server: Server, tmp_path: Path) -> tuple[Path, Any]:
    """A shard in the stage, and what its set holds."""
    written = make_set(server.folder, {"train": [40]})["train"]
    opened = shards.open_set(server.address, stage=tmp_path / "stage")
    opened.split("train")
    return opened.folder / "train-00000.tar", written


@pytest.mark.parametrize("damage", ["pixels", "truncated", "longer", "link"])
def test_what_lies_in_a_stage_is_not_trusted(damage: str, server: Server, tmp_path: Path) -> None:
    path, written = staged(server, tmp_path)
    content = path.read_bytes()
    path.unlink()
    if damage == "link":
        (tmp_path / "elsewhere.tar").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere.tar")
    else:
        altered = content[:1000] + bytes([content[1000] ^ 255]) + content[1001:]
        path.write_bytes({"pixels": altered, "truncated": content[:5000], "longer": content + b"x"}[damage])
    images = shards.open_set(server.address, stage=tmp_path / "stage").split("train")
    assert np.array_equal(images.gather(np.arange(40)), written)
    assert server.fetched()["train-00000.tar"] == 2 and not path.is_symlink()


def test_a_staged_shard_is_hashed_once_a_start_and_again_by_the_next(server: Server, tmp_path: Path) -> None:
    staged(server, tmp_path)
    code = (
        "import pathlib, sys, shards; from shards.read import stage; hashed = []; real = stage.sha256_file\n"
        "stage.sha256_file = lambda path: hashed.append(path.name) or real(path)\n"
        "shards.open_set(sys.argv[1], stage=pathlib.Path(sys.argv[2])).split('train'); print(len(hashed))\n"
    )
    command = [sys.executable, "-c", code, server.address, str(tmp_path / "stage")]
    ranks = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    launcher = ["sh", "-c", '"$@"; true', "sh", *command]
    next_start = subprocess.run(launcher, capture_output=True, text=True, check=True).stdout
    assert [ranks, next_start] == [["1\n", "0\n"], "1\n"]
    assert server.fetched()["train-00000.tar"] == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_folder_is_not_used(server: Server, tmp_path: Path) -> None:
    make_set(server.folder, {"train": [4]})
    own = private_folder(tmp_path / "stage")
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    assert private_folder(tmp_path / "stage").stat().st_mode & 0o777 == 0o700
    os.chown(own, 12345, 12345)
    with pytest.raises(FaceganError, match="a folder of user 12345, expected one of user 0"):
        shards.open_set(server.address, stage=tmp_path / "stage")


HOLDER = """
import pathlib, sys, shards
opened = shards.open_set(sys.argv[1], stage=pathlib.Path(sys.argv[2]))
opened.split("train")
print(opened.folder, flush=True)
sys.stdin.read()
"""


def test_sets_that_nobody_reads_go_after_days_or_when_room_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that reads a set keeps it; when it ends, the set goes once its age or its room is a reason."""
    for name, count in (("old", 5), ("new", 7), ("other", 9)):
        make_set(tmp_path / name, {"train": [count]})
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "old"), str(tmp_path / "stage")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        old = Path(reader.stdout.readline().strip())
        os.utime(old / ".lock", (1, 1))
        shards.open_set(tmp_path / "new", stage=tmp_path / "stage").split("train")
        assert (old / "train-00000.tar").exists()
        reader.communicate()
    shards.open_set(tmp_path / "new", stage=tmp_path / "stage").split("train")
    assert not old.exists()
    command[3] = str(tmp_path / "old")
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    assert old.exists()
    free = iter([0, 0, 1 << 40])  # the oldest is being read here, the next can go
    monkeypatch.setattr(node, "_free", lambda place: next(free, 1 << 40))
    shards.open_set(tmp_path / "other", stage=tmp_path / "stage").split("train")
    assert not old.exists()
    monkeypatch.setattr(node, "_free", lambda place: 0)
    make_set(tmp_path / "more", {"train": [11]})
    with pytest.raises(ShardError, match=r"0\.0 GB are free: give --stage-gb"):
        shards.open_set(tmp_path / "more", stage=tmp_path / "stage")


def test_a_stage_takes_one_descriptor_however_many_shards_it_holds(server: Server, tmp_path: Path) -> None:
    make_set(server.folder, {"train": [1] * 30})
    before = len(list(Path("/proc/self/fd").iterdir()))
    opened = shards.open_set(server.folder, stage=tmp_path / "stage")
    opened.split("train").gather(np.arange(30))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 1


def test_a_file_system_without_locks_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(server.folder, {"train": [1]})

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    with pytest.raises(ShardError, match=r"has no locks .*--stage DIR, a folder on a local disk"):
        shards.open_set(server.folder, stage=tmp_path / "stage")
