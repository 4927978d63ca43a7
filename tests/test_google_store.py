"""gs:// where the store fails, refuses or is not as usual; what it shares with s3:// is tested with that."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_server import Troubled
from pictures import jpegs, write_folder, write_zip
from test_addresses import make

import shards
from shards.errors import ShardError
from shards.make.address import Address, look, objects_below
from shards.make.ranges import RangeFile
from shards.make.upload import upload
from shards.make.writer import Options, preprocess
from shards.read import remote

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # aiohttp's sessions outlive the tests


@pytest.fixture(autouse=True)
def no_fault_outlives_its_test(troubled: Troubled) -> Iterator[None]:
    """All files share the store."""
    yield
    troubled.faults.clear()


@pytest.fixture
def archive(gs: Any, tmp_path: Path) -> str:
    """The address of a zip."""
    gs.put_file(str(write_zip(tmp_path / "faces.zip", jpegs(12))), "gs://faces/troubled/faces.zip")
    return "gs://faces/troubled/faces.zip"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it was waited before other attempts, in place of waiting."""
    found: list[float] = []
    monkeypatch.setattr(remote, "sleep", found.append)
    return found


REFUSALS = {
    "403 me does not have storage.objects.get access": r"refused: .*Forbidden.*\n.*does not have",
    "400 Your bucket is invalid": r"refused: .*\n.*Your bucket is invalid",
    "400 Bucket is requester pays bucket but no user project provided": "refused: .*requester pays",
    "401 Anonymous caller does not have access": "refused: .*Anonymous caller.*gcloud auth application-default",
}


@pytest.mark.parametrize(("fault", "message"), REFUSALS.items())
def test_a_refusal_is_told_at_once(
    archive: str,
    troubled: Troubled,
    pauses: list[float],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    fault: str,
    message: str,
) -> None:
    file, made = RangeFile(Address(archive)), tmp_path / "made"
    preprocess(Options(tmp_path / "faces.zip", made, ((16, 16),)))
    caplog.clear()
    troubled.faults = {"GET /o": [fault] * 99, "POST upload": [fault] * 99}
    for ask in (
        lambda: look(Address(archive)),
        lambda: file.read_at(0, 10),
        lambda: upload(made, Address("gs://faces/refused")),
    ):
        with pytest.raises(ShardError, match=message):
            ask()
    assert pauses == []
    assert not [record for record in caplog.records if record.exc_info]


def test_errors_and_cut_answers_are_got_over(
    archive: str, troubled: Troubled, pauses: list[float], tmp_path: Path
) -> None:
    troubled.faults = {"GET /o/troubled": ["503", ""], "GET download": ["", "cut", "503", ""]}
    assert make(archive, tmp_path / "store") == make(tmp_path / "faces.zip", tmp_path / "file")
    assert not any(troubled.faults.values())


def test_a_page_of_a_listing_that_fails_is_asked_for_again(
    gs: Any, troubled: Troubled, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.make.address.PAGE", 3)
    gs.pipe({f"gs://faces/listed/{number}.jpg": b"x" * number for number in range(1, 9)})
    troubled.faults = {"GET maxResults=3": ["", "cut"]}
    found = [(name, facts["size"]) for name, facts in objects_below(Address("gs://faces/listed"))]
    assert found == [(f"{number}.jpg", number) for number in range(1, 9)]
    assert not any(troubled.faults.values())


def test_a_large_file_is_sent_in_parts_and_staged_as_it_was(
    gs: Any, troubled: Troubled, pauses: list[float], tmp_path: Path
) -> None:
    """Beyond 5 MB the store is given a file by another way."""
    write_folder(tmp_path / "faces", jpegs(8))
    made, target = tmp_path / "made", "gs://faces/large"
    preprocess(Options(tmp_path / "faces", made, ((512, 512),), crop="none"))
    assert max(path.stat().st_size for path in (made / "512").glob("*.tar")) > 5 << 20
    troubled.faults = {"POST uploadType=resumable": ["503"], "POST upload_id": ["503"]}
    upload(made, Address(target))
    assert not any(troubled.faults.values())
    opened = shards.open_set(target, resolution=512, stage=tmp_path / "stage").split("train")
    assert np.array_equal(opened.gather(np.arange(8)), shards.open_set(made).split("train").gather(np.arange(8)))


def test_names_that_addresses_have_to_quote_are_read(gs: Any, tmp_path: Path) -> None:
    names = ("a b.jpg", "ü+1.jpg", "50%20.jpg", "c#12.jpg", "d?e.jpg", "f/g.jpg")
    pictures = dict(zip(names, jpegs(len(names)).values(), strict=True))
    for name, data in pictures.items():
        gs.pipe_file(f"gs://faces/odd/{name}", data)
    write_folder(tmp_path / "odd", pictures)
    found, expected = make("gs://faces/odd", tmp_path / "store"), make(tmp_path / "odd", tmp_path / "file")
    assert {name: found[name] for name in found if name.endswith(".tar")} == {
        name: expected[name] for name in expected if name.endswith(".tar")
    }


def test_a_credential_that_cannot_be_renewed_is_told(gs: Any) -> None:
    kind = next(kind for kind in remote.failure_types() if kind.__name__ == "GoogleAuthError")
    revoked = type("RefreshError", (kind,), {})("invalid_grant: Token has been expired or revoked.")

    def refuse(piece: int) -> bytes:
        raise revoked

    with pytest.raises(ShardError, match=r"gs://faces/x: refused: RefreshError: .*revoked.*gcloud auth"):
        remote.attempt(refuse, "gs://faces/x")


def test_the_command_says_nothing_of_the_library(archive: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "preprocess", archive, str(tmp_path / "out"), "--size", "16"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not [word for word in ("bucket type", "gcsfs", "google") if word in result.stderr]


def test_without_the_library_the_line_to_install_it_is_told() -> None:
    code = (
        "import sys; sys.modules['gcsfs'] = None; from shards.read.remote import file_system; file_system('gs://x')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "gs://x: Please install gcsfs to access Google Storage. Type: pip install gcsfs" in result.stderr
