"""OUT at an address: whole files, the index last, one writer, nothing sent twice; on a real object store."""

import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from pictures import jpegs, write_folder, write_zip

import shards
from facegan.errors import UsageError
from facegan.owner import process_identity
from jobs.cli import main
from jobs.slurm.checks import check_preprocess
from jobs.slurm.request import Call
from shards.errors import ShardError
from shards.make import upload as uploads
from shards.make import zipfiles
from shards.make.address import Address, system_of
from shards.make.upload import DONE, MARK, upload
from shards.make.writer import Options, preprocess
from shards.make.zipfiles import END, END64
from shards.read import remote

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # aiohttp's sessions outlive the tests


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zip(tmp_path_factory.mktemp("source") / "faces.zip", jpegs(12))


@pytest.fixture
def made(archive: Path, tmp_path: Path) -> Path:
    """A finished set of three shards."""
    preprocess(Options(archive, tmp_path / "made", ((16, 16),), shard_size=5, holdout=2))
    return tmp_path / "made"


@pytest.fixture
def target(faces: str, request: pytest.FixtureRequest) -> Address:
    return Address(f"{faces}/sets/{request.node.originalname}")


def names_at(store: Any, address: str) -> set[str]:
    return {name.rpartition("/")[2] for name in store.find(address)}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_a_set_made_at_an_address_is_the_one_made_in_a_folder(
    store: Any, faces: str, archive: Path, made: Path, tmp_path: Path
) -> None:
    command = ["preprocess", archive, f"{faces}/sets/new", "--scratch", tmp_path / "scratch", "--size", "16"]
    command += ["--shard-size", "5", "--holdout", "2"]
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert f"{faces}/sets/new/16: " in result.output
    ours = {path.name: path.read_bytes() for path in (made / "16").iterdir() if path.is_file()}
    theirs = {name.rpartition("/")[2]: store.cat(name) for name in store.find(f"{faces}/sets/new/16")}
    assert theirs.keys() == ours.keys()
    assert {name for name in ours if theirs[name] != ours[name]} <= {"preprocess.json"}
    opened = shards.open_set(f"{faces}/sets/new", resolution=16, stage=tmp_path / "stage").split("train")
    local = shards.open_set(made).split("train")
    assert np.array_equal(opened.gather(np.arange(10)), local.gather(np.arange(10)))
    again = run(*command[:3], "--scratch", tmp_path / "other-node", *command[5:])
    assert "is there, made with these options" in again.output
    assert not (tmp_path / "other-node").exists()


def test_a_cut_upload_leaves_no_index_and_goes_on(
    store: Any, made: Path, target: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, sent = system_of(target), []
    put = system.put_file

    def failing(local: str, *rest: Any) -> None:
        if len(sent) == 4 and "cut" not in sent:
            sent.append("cut")
            raise KeyboardInterrupt
        sent.append(Path(local).name)
        put(local, *rest)

    monkeypatch.setattr(system, "put_file", failing)
    with pytest.raises(KeyboardInterrupt):
        upload(made, target)
    assert "index.json" not in names_at(store, target.url)
    first = sent[:4]
    upload(made, target)
    assert sent[-1] == "index.json"
    assert not set(first) & set(sent[5:])
    assert names_at(store, target.url) == {path.name for path in (made / "16").iterdir()} - {DONE}
    sent.clear()
    upload(made, target)
    assert sent == ["index.json"]


def test_errors_on_the_way_are_got_over(made: Path, target: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    system, failures = system_of(target), [OSError(5, "cut"), TimeoutError(), OSError(16, "SlowDown")]
    put = system.put_file

    def failing(*given: Any) -> None:
        if failures:
            raise failures.pop()
        put(*given)

    monkeypatch.setattr(system, "put_file", failing)
    assert len(upload(made, target)) == 1


def mark(store: Any, target: Address, **record: Any) -> None:
    store.pipe(f"{target}/16/{MARK}", json.dumps(record).encode())


def test_a_second_writer_is_refused_while_the_first_may_live(
    store: Any, made: Path, target: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"host": socket.gethostname(), "pid": os.getppid()}
    mark(store, target, **here, started=process_identity(os.getppid()))
    with pytest.raises(ShardError, match=f"process {os.getppid()} on .* writes there"):
        upload(made, target)
    mark(store, target, host="elsewhere", pid=1)
    with pytest.raises(ShardError, match="process 1 on elsewhere writes there"):
        upload(made, target)
    assert names_at(store, target.url) == {MARK}
    monkeypatch.setattr(uploads, "STALE_AFTER", -60.0)
    upload(made, target)
    assert MARK not in names_at(store, target.url)


def test_a_writer_killed_on_this_machine_is_followed_at_once(store: Any, made: Path, target: Address) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mark(store, target, host=socket.gethostname(), pid=dead.pid, started="long ago")
    upload(made, target)
    assert "index.json" in names_at(store, target.url)


def after_each_file(monkeypatch: pytest.MonkeyPatch, target: Address, act: Callable[[str], object]) -> None:
    """Let something happen behind the back of an upload: `act` is called with the name of each file sent."""
    system = system_of(target)
    put = system.put_file

    def sent(local: str, *rest: Any) -> None:
        put(local, *rest)
        act(Path(local).name)

    monkeypatch.setattr(system, "put_file", sent)


def test_of_two_writers_the_one_that_lost_the_mark_stops(
    store: Any, made: Path, target: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_each_file(monkeypatch, target, lambda name: mark(store, target, host="elsewhere", pid=1))
    with pytest.raises(ShardError, match="another writer has taken it over"):
        upload(made, target)
    assert names_at(store, target.url) == {MARK, "preprocess.json"}


def test_what_another_put_there_meanwhile_is_found_before_the_index(
    store: Any, made: Path, target: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite(name: str) -> None:
        if name == "val-00000.tar":
            store.pipe(f"{target}/16/train-00000.tar", b"other")

    after_each_file(monkeypatch, target, overwrite)
    with pytest.raises(ShardError, match=r"train-00000\.tar is not what was sent"):
        upload(made, target)
    assert "index.json" not in names_at(store, target.url)


def test_another_set_is_never_written_over(store: Any, archive: Path, made: Path, target: Address) -> None:
    upload(made, target)
    other = made.parent / "other"
    preprocess(Options(archive, other, ((16, 16),), shard_size=4))
    with pytest.raises(ShardError, match="holds another set"):
        upload(other, target)
    store.rm(f"{target}/16/index.json")
    with pytest.raises(ShardError, match="another set was begun there"):
        upload(other, target)


def test_shards_of_another_set_below_the_address_are_not_taken_for_its_own(
    store: Any, made: Path, target: Address
) -> None:
    upload(made, target)
    upload(made / "16", target)
    assert {path.name for path in (made / "16").glob("*.tar")} <= {
        name.rpartition("/")[2] for name in store.ls(str(target), detail=False)
    }


def test_a_set_made_anew_in_its_folder_is_sent_anew(store: Any, tmp_path: Path, target: Address) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    options = Options(source, out, ((16, 16),), shard_size=5)
    write_folder(source, jpegs(6))
    preprocess(options)
    upload(out, target)
    store.rm(f"{target}/16/index.json")  # as if it had been cut
    for path in (out / "16").glob("*"):
        if not path.name.startswith("."):  # as `rm -r OUT/16/*` leaves it
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_folder(source, dict(zip(jpegs(6), jpegs(6, first=50).values(), strict=True)))
    preprocess(options)
    upload(out, target)
    for path in (out / "16").glob("*.tar"):
        assert store.cat_file(f"{target}/16/{path.name}") == path.read_bytes()


def test_a_mark_that_may_not_be_removed_or_is_gone_already_stops_nothing(
    store: Any, made: Path, target: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, write = system_of(target), uploads._Upload._write

    def refuse(url: str) -> None:
        raise PermissionError("Access Denied")

    def lose(self: Any, name: str, content: bytes, **how: Any) -> None:
        if how:
            raise FileExistsError  # and its writer has ended when it is looked at
        write(self, name, content)

    monkeypatch.setattr(system, "rm_file", refuse)
    monkeypatch.setattr(uploads._Upload, "_write", lose)
    upload(made, target)
    assert {"index.json", MARK} <= names_at(store, f"{target}/16")


def test_a_bucket_that_is_not_there_is_named(faces: str, made: Path) -> None:
    other = faces.replace("faces", "no-such-bucket")
    with pytest.raises(ShardError, match=f"{other}/x/16: there is no such bucket"):
        upload(made, Address(f"{other}/x"))


def test_what_cannot_be_done_is_said_before_any_work(made: Path, archive: Path, tmp_path: Path) -> None:
    refusals = {
        "sets are written to s3:// or gs://": ["preprocess", archive, "https://host/out", "--scratch", tmp_path],
        "give --scratch DIR": ["preprocess", archive, "s3://faces/sets/x"],
        "--slice needs --scratch DIR, a folder that all slices see": [
            "preprocess",
            archive,
            "s3://faces/sets/x",
            "--slice",
            "0/2",
        ],
        "expected an address": ["shards", "upload", made, tmp_path],
        "no set was made here": ["shards", "upload", tmp_path / "none", "s3://faces/sets/x"],
    }
    (tmp_path / "none").mkdir()
    for message, command in refusals.items():
        result = run(*command)
        assert result.exit_code != 0
        assert message in result.output.replace("\n", " "), result.output


def test_a_job_takes_addresses_but_a_scratch_that_its_elements_see_for_an_out_at_one(tmp_path: Path) -> None:
    def call(*arguments: str) -> Call:
        return Call(tmp_path / "preprocess.sh", (), arguments, {})

    check_preprocess(call("s3://bucket/faces.zip", str(tmp_path / "out")))
    with pytest.raises(UsageError, match="s3://bucket/out: the elements of the array need --scratch DIR"):
        check_preprocess(call("s3://bucket/faces.zip", "s3://bucket/out"))
    check_preprocess(call("s3://bucket/faces.zip", "s3://bucket/out", "--scratch", str(tmp_path)))


def test_a_submission_takes_a_zips_count_from_its_end_record_and_reads_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory of 10^7 entries is not read on a login node: here it is a hole of a gigabyte, without any."""
    count, length = 10**7, 1 << 30
    with (tmp_path / "faces.zip").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(length, os.SEEK_CUR)
        file.write(END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, 4))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, 4 + length, 1))
        file.write(END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    monkeypatch.setattr(zipfiles, "_entry", lambda stream: pytest.fail("an entry is read"))
    arguments = (str(tmp_path / "faces.zip"), str(tmp_path / "out"), "--size", "1024")
    before = bytes_read()
    with pytest.raises(UsageError, match=r"out needs about 29363\.6 GiB"):
        check_preprocess(Call(tmp_path / "preprocess.sh", (), arguments, {}))
    assert bytes_read() - before < 1 << 20


def bytes_read() -> int:
    """By this process, of any files."""
    return int(Path("/proc/self/io").read_text(encoding="ascii").split()[1])


def test_an_unfinished_set_is_not_sent(archive: Path, tmp_path: Path, target: Address) -> None:
    preprocess(Options(archive, tmp_path / "out", ((16, 16),), slice=(0, 2), shard_size=5))
    with pytest.raises(ShardError, match=r"shards are missing .* --slice 1/2"):
        upload(tmp_path / "out", target)


def slice_command(archive: Path, address: object, scratch: Path, part: str, *more: str) -> list[str]:
    """One slice of the set of `made`, at an address."""
    words = [
        "preprocess",
        archive,
        address,
        "--scratch",
        scratch,
        "--slice",
        part,
        "--size",
        "16",
        "--holdout",
        "2",
    ]
    return [*map(str, words), "--shard-size", "5", "--workers", "1", *more]


def test_slices_send_their_own_shards_at_the_same_time_and_who_closes_the_set_sends_the_rest(
    store: Any, archive: Path, made: Path, target: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    commands = [slice_command(archive, target, scratch, f"{number}/2") for number in range(2)]
    slices = [subprocess.Popen([sys.executable, "-m", "jobs", *command]) for command in commands]
    assert [each.wait(300) for each in slices] == [0, 0]
    tars = {path.name for path in (made / "16").glob("*.tar")}
    assert names_at(store, target.url) == {*tars, "preprocess.json"}
    sent: list[str] = []
    after_each_file(monkeypatch, target, sent.append)
    again = run(*commands[1])
    assert again.exit_code == 0 and not sent, "nothing is sent twice"
    assert "When all are: facegan shards upload" in again.output
    result = run("shards", "upload", scratch, target)
    assert result.exit_code == 0, result.output
    assert not tars & set(sent) and sent[-1] == "index.json"
    for path in (made / "16").iterdir():
        if path.is_file() and path.name != "preprocess.json":
            assert store.cat(f"{target}/16/{path.name}") == path.read_bytes()
    assert "is there, made with these options" in run(*commands[0]).output


def test_a_slice_that_is_cut_goes_on_and_what_is_lost_at_the_store_comes_with_the_index(
    store: Any, archive: Path, target: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(archive, tmp_path / "out", ((16, 16),), slice=(0, 2), shard_size=3)
    preprocess(options)
    system, sent = system_of(target), []
    put = system.put_file

    def failing(local: str, *rest: Any) -> None:
        sent.append(Path(local).name)
        if len(sent) == 2:
            raise KeyboardInterrupt
        put(local, *rest)

    monkeypatch.setattr(system, "put_file", failing)
    with pytest.raises(KeyboardInterrupt):
        uploads.upload_slice(options, target)
    uploads.upload_slice(options, target)
    assert sent == ["train-00000.tar", "train-00001.tar", "train-00001.tar"]
    with pytest.raises(ShardError, match="shards are missing"):
        upload(tmp_path / "out", target)
    other = dataclasses.replace(options, slice=(1, 2))
    preprocess(other)
    store.rm(f"{target}/16/train-00000.tar")
    upload(tmp_path / "out", target)
    assert sent[3:].count("train-00000.tar") == 1 and "train-00001.tar" not in sent[3:]
    assert {"index.json", *(f"train-0000{n}.tar" for n in range(4))} <= names_at(store, f"{target}/16")


def test_slices_of_another_set_are_refused_before_they_send_a_shard(
    store: Any, archive: Path, target: Address, tmp_path: Path
) -> None:
    for name, crop in (("one", "150"), ("other", "none")):
        options = Options(archive, tmp_path / name, ((16, 16),), crop=crop, slice=(0, 2), shard_size=5)
        preprocess(options)
        if name == "one":
            uploads.upload_slice(options, target)
    there = names_at(store, target.url)
    with pytest.raises(ShardError, match="another set was begun there"):
        uploads.upload_slice(options, target)
    assert names_at(store, target.url) == there
