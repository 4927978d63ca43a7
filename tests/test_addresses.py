"""Sources at addresses: the same shards as from files, from a real object store and from a server that fails."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import Server, serving
from object_server import CREDENTIALS
from pictures import jpegs, write_tar, write_zip

from shards.errors import ShardError
from shards.format.transform import PictureError
from shards.make import ranges
from shards.make.address import Address, look, parse_where
from shards.make.closing import close_set
from shards.make.listing import Place
from shards.make.ranges import RangeFile
from shards.make.sources import list_source, open_reader
from shards.make.writer import Options, preprocess
from shards.read import remote

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # aiohttp's sessions outlive the tests
SECRET = "X-Amz-Signature=5ecr37"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures as a zip, a tar and a packed tar."""
    folder, pictures = tmp_path_factory.mktemp("files"), jpegs(12)
    write_zip(folder / "faces.zip", pictures, zipfile.ZIP_DEFLATED)
    write_tar(folder / "faces.tar", pictures)
    write_tar(folder / "faces.tar.gz", pictures, "w:gz")
    return folder


@pytest.fixture
def server(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    with serving(files) as running:
        yield running


def make(source: str | Path, out: Path, **options: Any) -> dict[str, str]:
    """The SHA-256 of every file of the set but for the plan, which holds states and slices."""
    chosen = {"sizes": ((16, 16),), "shard_size": 5, "holdout": 3, **options}
    preprocess(Options(parse_where(str(source)), out, **chosen))
    return tree(out)


def tree(out: Path) -> dict[str, str]:
    found = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "preprocess.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("name", ["faces.zip", "faces.tar", "faces.tar.gz"])
def test_an_archive_in_an_object_store_gives_the_same_set_as_the_file(
    store: Any, faces: str, files: Path, tmp_path: Path, name: str
) -> None:
    store.put(str(files / name), f"{faces}/{name}")
    expected = make(files / name, tmp_path / "file")
    assert len(expected) > 4
    assert make(f"{faces}/{name}", tmp_path / "store", workers=2) == expected


def test_a_set_that_is_closed_asks_only_whether_its_source_is_the_same(server: Server, tmp_path: Path) -> None:
    first = make(f"{server.address}/faces.zip", tmp_path / "out")
    assert first == make(server.folder / "faces.zip", tmp_path / "file")
    server.requests.clear()
    assert make(f"{server.address}/faces.zip?{SECRET}", tmp_path / "out") == first  # signed anew, it is the same
    assert server.requests == []
    assert server.heads


def test_slices_of_an_address_make_the_whole_set(server: Server, files: Path, tmp_path: Path) -> None:
    for part in (1, 0):
        make(f"{server.address}/faces.zip", tmp_path / "out", slice=(part, 2))
    close_set(tmp_path / "out")
    assert tree(tmp_path / "out") == make(files / "faces.zip", tmp_path / "file")


def read_all(source: str, scratch: Path) -> dict[str, bytes]:
    listing = list_source(parse_where(source), scratch)
    reader = open_reader(listing.kind, listing.path)
    places = [Place(*place.item()) for place in listing.places]
    return {name: reader.read(name, place) for name, place in zip(listing.names, places, strict=True)}


@pytest.mark.parametrize("faults", [["500", "503", "429"], ["", "cut", "cut", "500", "cut"], ["slow", "", "slow"]])
@pytest.mark.parametrize("name", ["faces.zip", "faces.tar"])
def test_errors_cut_connections_and_slow_answers_are_got_over(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str], name: str
) -> None:
    monkeypatch.setattr(remote, "QUIET", 0.3)
    server.faults = {name: list(faults), f"HEAD {name}": ["503", ""]}
    monkeypatch.setattr(ranges, "FEWEST", 1 << 14)
    assert read_all(f"{server.address}/{name}", tmp_path) == jpegs(12)
    assert server.faults[name] == []


def test_what_was_damaged_on_the_way_is_refused_by_its_crc(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = list_source(Address(f"{server.address}/faces.zip"), tmp_path)
    monkeypatch.setattr(ranges, "FEWEST", 1)
    server.faults["faces.zip"] = ["", "corrupt"]  # the header, the picture
    with pytest.raises(PictureError, match="damaged"):
        open_reader("zip", listing.path).read(listing.names[0], Place(*listing.places[0].item()))


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["403"] * 99, r"faces\.zip\?\.\.\.: refused: .*403"),
        (["404"] * 99, r"faces\.zip\?\.\.\.: there is nothing at this address \(HTTP 404\)"),
        (["500"] * 99, r"faces\.zip\?\.\.\.: 8 attempts in a row failed, .*run the same command again"),
    ],
)
def test_what_cannot_be_got_over_names_the_address_and_no_secret(
    server: Server, tmp_path: Path, faults: list[str], message: str
) -> None:
    address = f"{server.address.replace('//', '//me:pa55@')}/faces.zip?{SECRET}"
    server.faults = {"faces.zip": list(faults), "HEAD faces.zip": list(faults)}
    with pytest.raises(ShardError, match=message) as caught:
        list_source(parse_where(address), tmp_path)
    listed = look(Address(f"{server.address}/faces.tar?{SECRET}"))
    server.faults = {"faces.tar": ["403"]}
    with pytest.raises(ShardError, match="refused") as later:
        RangeFile(listed).read_at(0, 10)
    for error in (caught, later):
        assert "5ecr37" not in str(error.value)
        assert "pa55" not in str(error.value)


def test_a_server_that_does_not_send_parts_is_told_apart(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    with pytest.raises(ShardError, match="does not send parts of files: download it first"):
        list_source(Address(f"{server.address}/faces.zip"), tmp_path)


def test_nothing_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    with pytest.raises(ShardError, match=r"127.0.0.1:9/x.zip: 8 attempts in a row failed, .*Cannot connect"):
        list_source(Address("http://127.0.0.1:9/x.zip"), tmp_path)
    with pytest.raises(ShardError, match="sets are read from https://"):
        parse_where("file:///etc/passwd")


@pytest.mark.parametrize("when", ["before", "during"])
def test_an_object_that_changes_after_it_was_listed_is_refused(
    server: Server, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    server.folder = tmp_path
    (tmp_path / "x.zip").write_bytes((files / "faces.zip").read_bytes())
    listing = list_source(Address(f"{server.address}/x.zip"), tmp_path)
    reader = open_reader("zip", listing.path) if when == "during" else None
    write_zip(tmp_path / "x.zip", jpegs(12))
    with pytest.raises(ShardError, match=r"x\.zip: has changed since it was listed"):
        reader.recheck() if reader else open_reader("zip", listing.path)


def test_a_set_is_not_closed_over_an_object_that_changed(server: Server, tmp_path: Path) -> None:
    server.folder = tmp_path
    write_zip(tmp_path / "x.zip", jpegs(12))
    make(f"{server.address}/x.zip", tmp_path / "out", slice=(0, 2))
    write_zip(tmp_path / "x.zip", jpegs(13))
    with pytest.raises(ShardError, match="was begun with other options or another source"):
        make(f"{server.address}/x.zip", tmp_path / "out", slice=(1, 2))


def test_reads_that_follow_each_other_ask_ever_larger_parts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.folder = tmp_path
    data = bytes(range(256)) * 4096
    (tmp_path / "x.bin").write_bytes(data)
    monkeypatch.setattr(ranges, "FEWEST", 1 << 12)
    file = RangeFile(Address(f"{server.address}/x.bin"))
    assert b"".join(file.read_at(at, 1000) for at in range(0, len(data), 1000)) == data
    assert len(server.requests) < 12
    server.requests.clear()
    assert [file.read_at(at, 10) for at in (900_000, 100_000, 500_000)] == [
        data[at : at + 10] for at in (900_000, 100_000, 500_000)
    ]
    assert len(server.requests) <= 3


def test_the_command_tells_no_secret(server: Server, s3: Any, files: Path, tmp_path: Path) -> None:
    s3.put(str(files / "faces.zip"), "s3://faces/faces.zip")
    signed = s3.sign("s3://faces/faces.zip")
    assert "Signature" in signed
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs", "preprocess", signed, str(out), "--slice", "0/2", "--size", "16"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    texts = [result.stdout, result.stderr, *(p.read_text("latin-1") for p in out.rglob("*") if p.is_file())]
    secrets = [*CREDENTIALS.values(), signed.partition("?")[2], signed.rpartition("=")[2]]
    assert not [secret for secret in secrets for text in texts if secret in text]


def test_a_library_that_another_thread_is_still_importing_has_failed_in_no_way_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in remote.FAILURES:
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    assert remote.failure_types() == (OSError,)


@pytest.mark.parametrize(
    "address", ["ftp://me:5ecr37@host/x", "HTTPS://me:p@5ecr37@host/x", f"ftp://host/x?{SECRET}"]
)
def test_an_address_of_a_kind_that_is_not_read_is_refused_without_its_secret(address: str) -> None:
    with pytest.raises(ShardError, match="sets are read from https://") as caught:
        parse_where(address)
    assert "5ecr37" not in str(caught.value)
    assert "5ecr37" not in str(Address("https://me:p@5ecr37@host/x"))


@pytest.mark.parametrize("address", ["s3://", "s3:///faces.zip", "https://"])
def test_an_address_that_names_no_place_is_refused(address: str) -> None:
    with pytest.raises(ShardError, match="an address names a host or a bucket"):
        parse_where(address)


@pytest.mark.parametrize("address", ["s3://no such bucket/faces.zip", "https://?faces.zip"])
def test_an_address_that_can_never_be_read_is_asked_once(
    address: str, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote, "sleep", pauses.append)
    with pytest.raises(ShardError, match="refused"):
        look(Address(address))
    assert pauses == []
