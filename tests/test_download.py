"""Downloads from a real server on this machine that cuts, stumbles, ignores ranges and sends pages."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from shards.errors import ShardError
from shards.make import download as downloads
from shards.make.download import RemoteFile, download

CONTENT = bytes(i * 7 % 251 for i in range(1_000_000))
QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>...</body></html>"


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `mood` says how, `requests` what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood = ""
        self.requests: list[str] = []

    def file(self, name: str = "faces.zip", content: bytes = CONTENT) -> RemoteFile:
        url = f"http://127.0.0.1:{self.server_address[1]}/{name}"
        return RemoteFile(name, url, hashlib.md5(content, usedforsecurity=False).hexdigest())


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.requests.append(wanted)
        count = len(self.server.requests)
        mood = self.server.mood
        if mood == "missing" or self.path == "/gone":
            return self.send_error(404)
        if mood == "busy" or (mood == "stumbles" and count < 3):
            return self.send_error(503)
        if mood == "quota":
            return self.answer(200, QUOTA, "text/html; charset=utf-8")
        start = 0 if mood == "no ranges" or not wanted else int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(CONTENT):
            return self.send_error(416)
        stop = min(start + 300_000, len(CONTENT)) if mood in ("cuts", "no ranges") and count < 4 else len(CONTENT)
        return self.answer(206 if start else 200, CONTENT[start:stop], "application/zip", len(CONTENT) - start)

    def answer(self, status: int, body: bytes, kind: str, announced: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "FIRST_PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_arrives_whole_and_the_second_time_nothing_is_asked(server: Server, tmp_path: Path) -> None:
    seen: list[int] = []
    assert download(server.file(), tmp_path / "new", lambda gained, total: seen.append(gained))
    assert (tmp_path / "new" / "faces.zip").read_bytes() == CONTENT
    assert sum(seen) == len(CONTENT)
    assert not download(server.file(), tmp_path / "new")
    assert len(server.requests) == 1
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["faces.zip"]


def test_a_cut_connection_is_continued_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.mood = "cuts"
    download(server.file(), tmp_path)
    assert (tmp_path / "faces.zip").read_bytes() == CONTENT
    assert server.requests == ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_killed_download_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".faces.zip.part").write_bytes(CONTENT[:123_456])
    download(server.file(), tmp_path)
    assert (tmp_path / "faces.zip").read_bytes() == CONTENT
    assert server.requests == ["bytes=123456-"]


def test_a_download_killed_after_its_last_byte_is_finished(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".faces.zip.part").write_bytes(CONTENT)
    assert download(server.file(), tmp_path)
    assert (tmp_path / "faces.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_is_begun_again(server: Server, tmp_path: Path) -> None:
    server.mood = "no ranges"
    download(server.file(), tmp_path)
    assert (tmp_path / "faces.zip").read_bytes() == CONTENT


def test_a_stumbling_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.mood = "stumbles"
    download(server.file(), tmp_path)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("missing", "refused: HTTP Error 404.*browser"),
        ("busy", "6 attempts in a row failed.*503.*login node"),
        ("quota", r"web page \(Google Drive - Quota exceeded\) instead of faces.zip.*in a day.*browser"),
    ],
)
def test_a_server_that_does_not_give_the_file_is_a_clear_error(
    server: Server, tmp_path: Path, mood: str, message: str
) -> None:
    server.mood = mood
    with pytest.raises(ShardError, match=message):
        download(server.file(), tmp_path)
    assert not (tmp_path / "faces.zip").exists()


def test_a_mirror_is_asked_where_the_first_address_does_not_answer(server: Server, tmp_path: Path) -> None:
    """What came from one address is continued from the next."""
    file = server.file()
    for first in ("http://127.0.0.1:9/faces.zip", file.url.replace("faces.zip", "gone")):
        (tmp_path / "faces.zip").unlink(missing_ok=True)
        (tmp_path / ".faces.zip.part").write_bytes(CONTENT[:1000])
        assert download(replace(file, url=first, mirrors=(file.url,)), tmp_path)
        assert (tmp_path / "faces.zip").read_bytes() == CONTENT
        assert "bytes=1000-" in server.requests
    with pytest.raises(ShardError, match=r"refused.*a page for people"):
        mirrors = ("http://127.0.0.1:9/x", first)
        download(replace(file, name="x", url=first, mirrors=mirrors, by_hand="a page for people"), tmp_path)


def test_a_machine_without_the_server_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "FIRST_PAUSE", 0.0)
    with pytest.raises(ShardError, match=r"attempts in a row failed.*refused"):
        download(RemoteFile("x.zip", "http://127.0.0.1:9/x.zip", "0" * 32), tmp_path)


def test_bytes_with_another_checksum_are_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"wrong checksum: MD5 .* expected"):
        download(server.file(content=b"other"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_but_wrong_is_named_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "faces.zip").write_bytes(b"mine")
    with pytest.raises(ShardError, match=r"wrong checksum.*Remove it"):
        download(server.file(), tmp_path)
    assert (tmp_path / "faces.zip").read_bytes() == b"mine"


def test_the_command_fetches_a_set_and_says_what_to_type_next(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(downloads.DATASETS, "mnist", (server.file("a.gz"), server.file("b.gz")))
    for word in ("fetched", "was there"):
        done = CliRunner().invoke(main, ["download", "mnist", str(tmp_path / "m")])
        assert done.exit_code == 0, done.output
        assert f"{tmp_path / 'm' / 'b.gz'}: {word}, its checksum fits" in done.output
        assert f"facegan preprocess {tmp_path / 'm'}" in done.output


def test_every_set_is_known_by_its_published_checksums(real_pictures: Path) -> None:
    known = {file.name: file.md5 for files in downloads.DATASETS.values() for file in files}
    folder = real_pictures / "celeba-mini" / "whole-annotations"
    found = {path.name.removesuffix(".gz"): gzip.decompress(path.read_bytes()) for path in folder.glob("*.gz")}
    found |= {path.name: path.read_bytes() for path in (real_pictures / "mnist").glob("*.gz")}
    assert len(found) == 5
    for name, data in found.items():
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == known[name]
