"""A listing that is killed goes on: what comes out is what an undisturbed one gives, and little is read twice."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.errors import ShardError
from shards.make import collecting, sorting, sources, survey, tarfiles, zipfiles
from shards.make.closing import close_set
from shards.make.collecting import collect
from shards.make.listing import Listing, Mark
from shards.make.sources import list_source
from shards.make.writer import Options, preprocess

NAMES = [
    *(f"{number * 7 % 40:02d}.png" for number in range(40)),
    *(
        f"{folder}/{number:02d}.jpg"
        for folder in ("b/c/d", "b", "b/c", "a/deep", "b.c", "z", ".git")
        for number in range(9)
    ),
    *(f"{folder}/identity_CelebA.txt" for folder in ("a/deep", "z")),
    *(f"b/{number}.txt" for number in range(5)),
]


@pytest.fixture(params=["folder", "flat", "zip", "tar"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same files in each, and a flat folder of many."""
    names = [f"{number:03d}.png" for number in range(100)] if request.param == "flat" else NAMES
    for name in names:
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / name).write_text("00.png 5\n" if "identity" in name else name)
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "files.zip", "w") as packed:
            for name in names:
                packed.write(tmp_path / "files" / name, name)
        return tmp_path / "files.zip"
    if request.param == "tar":
        with tarfile.open(tmp_path / "files.tar", "w") as tar:
            for number, name in enumerate(names):
                tar.add(tmp_path / "files" / name, name)
                if number in (60, 61, 90):  # hard links, the last two to one before
                    link = tarfile.TarInfo(f"link-{number}.png")
                    link.type, link.linkname = tarfile.LNKTYPE, "link-60.png" if number > 60 else names[3]
                    tar.addfile(link)
        return tmp_path / "files.tar"
    return tmp_path / "files"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "RUN_ROWS", 7)
    monkeypatch.setattr(sorting, "CHUNK", 3)
    monkeypatch.setattr(zipfiles, "MARK", 4)
    monkeypatch.setattr(tarfiles, "MARK", 4)


class Killed(BaseException):
    """What no code here catches."""


def killed_after(monkeypatch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """Let sources be killed after so many entries; those that they gave."""
    given: list[Any] = []

    def cut(entries: Iterable[Any]) -> Iterator[Any]:
        for entry in entries:
            if len(given) == count:
                raise Killed
            if not isinstance(entry, Mark):
                given.append(entry)
            yield entry

    monkeypatch.setattr(
        sources, "collect", lambda kind, path, entries, *more: collect(kind, path, cut(entries), *more)
    )
    return given


def kill(monkeypatch: pytest.MonkeyPatch, count: int, run: Callable[[], Any]) -> None:
    killed_after(monkeypatch, count)
    with pytest.raises(Killed):
        run()
    killed_after(monkeypatch, -1)


def content(listing: Listing) -> list[Any]:
    names, times = listing.folders
    return [
        *([*listing.names], listing.places.tolist(), listing.left_out, listing.fingerprint),
        *([*names], times.tolist(), listing.seen, set(listing.tables)),
    ]


def test_killed_after_any_entry_it_goes_on_and_gives_what_an_undisturbed_one_gives(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = content(list_source(source, tmp_path / "out"))
    given = killed_after(monkeypatch, -1)
    list_source(source, tmp_path / "out")
    entries = len(given)
    for stop in range(0, entries, 9):
        kept = tmp_path / f"kept-{stop}"
        given = killed_after(monkeypatch, stop)
        with pytest.raises(Killed):
            list_source(source, tmp_path / "out", kept)
        given = killed_after(monkeypatch, -1)
        assert content(list_source(source, tmp_path / "out", kept)) == wanted
        if source.name == "files.zip" or (source.name == "files.tar" and stop < 60):
            assert len(given) <= entries - stop + 7 + 4 + 25  # a run, what comes until a mark, and no pictures
        given = killed_after(monkeypatch, 0)  # as where it was killed while the annotations were read
        assert content(list_source(source, tmp_path / "out", kept)) == wanted
    assert [*(tmp_path / "out").iterdir()] == []


def test_how_far_a_listing_is_and_where_it_goes_on_is_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collecting, "PAUSE", -1.0)
    list_source(source, tmp_path / "out", tmp_path / "kept")
    count = len(list_source(source, tmp_path / "out", tmp_path / "kept"))
    assert source.is_dir() or any(re.fullmatch("[1-9][0-9] names listed so far", said) for said in caplog.messages)
    assert f"all {count} names are listed; next they are merged and written" in caplog.messages
    assert caplog.messages[-1] == f"{count} names were listed before, by a process that was killed: going on"


@pytest.mark.parametrize("source", ["folder"], indirect=True)
@pytest.mark.parametrize("where", ["", "a/deep", "b/c"])
def test_a_folder_that_changed_after_it_was_read_is_listed_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    options = Options(source, tmp_path / "out", slice=(0, 2))
    kill(monkeypatch, 100, lambda: survey._survey(options))
    assert [*(tmp_path / "out").glob(".listing-*.begun/read.json")]
    before = source.stat().st_mtime_ns
    (source / where / "more.png").write_text("more")
    next((source / where).glob("*[0-9].*g")).unlink()
    os.utime(source, ns=(before, before))  # or it would be another listing
    if not where:
        (source / "b" / "new.png").write_text("new")
    found = survey._survey(options)
    wanted = list_source(source, tmp_path / "out")
    assert found.catalogue.listing == wanted.fingerprint
    assert not [*(tmp_path / "out").glob(".listing-*.begun")]


@pytest.mark.parametrize("source", ["folder", "zip"], indirect=True)
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_kept_of_a_listing_is_not_believed_where_it_is_damaged(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    options = Options(source, tmp_path / "out", slice=(0, 2))
    kill(monkeypatch, 95, lambda: survey._survey(options))
    (kept,) = (tmp_path / "out").glob(".listing-*.begun")
    raw = bytearray((kept / "pictures").read_bytes())
    raw[20] ^= 1
    (kept / "pictures").write_bytes(raw if whole else raw[:30])
    if whole:
        with pytest.raises(ShardError, match="pictures: damaged at byte 0: run again, which lists the source anew"):
            survey._survey(options)
    assert survey._survey(options).catalogue.listing == list_source(source, tmp_path / "out").fingerprint
    assert not kept.exists()


LISTS = """
import os, sys; from pathlib import Path
from shards.make import collecting, sorting, sources, tarfiles, zipfiles
from shards.make.writer import Options, preprocess
sorting.RUN_ROWS, zipfiles.MARK, tarfiles.MARK = 7, 4, 4
real = collecting.Begun.reached
def reached(begun, at, sorters):
    real(begun, at, sorters)
    if begun.names > 60:
        os.kill(os.getpid(), 9)
collecting.Begun.reached = reached
preprocess(Options(Path(sys.argv[1]), Path(sys.argv[2]), slice=(0, int(sys.argv[3])), max_rejects="100%"))
"""


@pytest.mark.parametrize(("source", "slices"), [("folder", 2), ("zip", 1)], indirect=["source"])
def test_a_process_killed_while_it_lists_leaves_what_the_next_goes_on_with(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: int
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", LISTS, str(source), str(out), str(slices)]
    assert subprocess.run(words, capture_output=True, check=False).returncode == -9
    (kept,) = out.glob(".listing-*.begun")
    assert json.loads((kept / "read.json").read_text())["names"] > 50
    given = killed_after(monkeypatch, -1)
    with pytest.raises(ShardError, match="pictures were rejected"):  # they are texts
        preprocess(Options(source, out, slice=(0, slices)))
        preprocess(Options(source, out, slice=(1, slices)))
        close_set(out)
    if source.name != "files":
        assert len(given) < 80
    assert not kept.exists()
