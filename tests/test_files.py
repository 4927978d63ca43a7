"""Lines of JSON: there once their newline is, appended whole or not at all; folders that cannot be synced."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from facegan import files
from facegan.errors import FaceganError
from facegan.files import append_json_line, json_lines, last_json_line, read_object, remove_stale_of, write_json


def test_lines_are_read_in_order_and_the_half_one_of_a_killed_writer_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    assert list(json_lines(path)) == [] and last_json_line(path) == {}
    for content, expected in (
        ("", []),
        ('{"a": 1}', []),
        ('{"a": 1}\n{"b": "\u2028"}\n{"c"', [{"a": 1}, {"b": "\u2028"}]),
    ):
        path.write_text(content, encoding="utf-8")
        assert list(json_lines(path)) == expected
        assert last_json_line(path) == (expected[-1] if expected else {})


@pytest.mark.parametrize("damage", ["{half", "[1]", "\0\0\0", "[" * 10000])
def test_a_damaged_line_is_named_with_its_number(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text('{"a": 1}\n' + damage + '\n{"b": 2}\n')
    with pytest.raises(FaceganError, match=r"stats.jsonl, line 2: .*remove the line"):
        list(json_lines(path))
    assert last_json_line(path) == {"b": 2}


@pytest.mark.parametrize("left", ["", '{"half', '{"whole": 1}\n{"ha', '{"whole": 1}\n', "x" * 100_000])
def test_appending_cuts_off_half_a_line_first(left: str, tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text(left)
    append_json_line(path, {"new": 2})
    append_json_line(path, {"new": 3})
    assert list(json_lines(path)) == [{"whole": 1}] * ("whole" in left) + [{"new": 2}, {"new": 3}]


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """The kernel's own limit on a file's size lets a part of the line through, as a disk that fills up does."""
    path = tmp_path / "stats.jsonl"
    append_json_line(path, {"a": 1})
    code = (
        "import sys, resource, signal; from pathlib import Path; from facegan import errors, files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
        "try: files.append_json_line(Path(sys.argv[1]), {'b': 'x' * 100})\n"
        "except errors.DiskFullError: print('full')\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert said.stdout == "full\n" and path.read_text() == '{"a": 1}\n'


@pytest.mark.parametrize("number", sorted(files.NO_FOLDER_SYNC))
def test_a_file_system_that_cannot_sync_folders_is_written_to_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "a.json", {"a": 1})
    assert read_object(tmp_path / "a.json") == {"a": 1}
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "input/output error")))
    with pytest.raises(OSError, match="input/output"):
        write_json(tmp_path / "b.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_killed_writers_left_of_some_files_goes_and_nothing_else(tmp_path: Path) -> None:
    gone, kept = (
        [".a.tar.01234567.part", ".b.tar.89abcdef.part"],
        ["a.tar", ".c.tar.01234567.part", ".a.tar.part", ".a.tar.0123456.part", "a.tar.01234567.part"],
    )
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    remove_stale_of(tmp_path, {"a.tar", "b.tar"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_stale_of(tmp_path / "absent", {"a.tar"})
