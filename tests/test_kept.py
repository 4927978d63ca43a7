"""Listings of lists and buckets that are killed: the same catalogue in the end, and little is read twice."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from test_collecting import Killed, killed_after

from shards.errors import PassingError, ShardError
from shards.make import address, attributed, buckets, catalogue, kept, lists, sorting, survey, urls
from shards.make.address import Address, objects_below
from shards.make.buckets import list_bucket
from shards.make.claims import forget
from shards.make.closing import remove_made_once
from shards.make.listing import Mark
from shards.make.plan import Options
from shards.make.urls import addresses_of, write_addresses
from shards.read import remote

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of sessions and sockets of the stores
COUNT = 48
GROUP = 6  # rows of a group of Parquet's


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "RUN_ROWS", 7)
    monkeypatch.setattr(sorting, "CHUNK", 3)
    monkeypatch.setattr(catalogue, "BLOCK_ROWS", 20)
    monkeypatch.setattr(kept, "STEP", 1)
    monkeypatch.setattr(attributed, "AT_ONCE", 5)
    for module in (lists, urls, buckets):
        monkeypatch.setattr(module, "MARK", 4)


def rows() -> list[dict[str, Any]]:
    """With a column that is one of whole numbers only for a time, and gaps."""
    return [
        {
            "url": f"https://host/ü/{i * 7 % COUNT:02d}.jpg?signed" if i % 9 else "",
            "name": f'{i * 5 % COUNT:02d}, "or\r\nso".jpg' if i % 4 else None,
            "smiling": i % 3 if i % 5 else None,
            "late": i if i < 30 else "no number",
            "split": ("train", "val", "test")[i % 3],
        }
        for i in range(COUNT)
    ]


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, ["late", "url", "smiling", "name", "split"])
        writer.writeheader()
        writer.writerows(rows())


def write_lines(path: Path) -> None:
    path.write_text("\n \r\n" + "\n".join(row["url"] for row in rows() if row["url"]))


def write_parquet(path: Path, some: slice = slice(COUNT)) -> None:
    path.parent.mkdir(exist_ok=True)
    told = [row | {"late": str(row["late"]), "unread": [1.0]} for row in rows()[some]]
    parquet.write_table(pyarrow.Table.from_pylist(told), path, row_group_size=GROUP)


def write_parts(path: Path) -> None:
    write_parquet(path / "a.parquet", slice(20))
    write_parquet(path / "b.parquet", slice(20, COUNT))


KINDS: dict[str, Callable[[Path], None]] = {
    "list.csv": write_csv,
    "list.txt": write_lines,
    "list.parquet": write_parquet,
    "parts": write_parts,
}


def rows_read(monkeypatch: pytest.MonkeyPatch, stop: int = -1) -> list[int]:
    """How many rows of lists are read from now on; they are killed at one of them."""
    read, row = [0], lists._row

    def counted(cells: Any, known: int) -> Any:
        if read[0] == stop:
            raise Killed
        read[0] += 1
        return row(cells, known)

    monkeypatch.setattr(lists, "_row", counted)
    return read


def listed(source: Path | Address, out: Path) -> dict[str, bytes]:
    """The catalogue of a source, file by file; OUT is then empty but for what is kept on purpose."""
    survey._survey(Options(source, out, slice=(0, 2)))
    files = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert not any(".begun" in str(path) for path in out.rglob("*"))
    return files


@pytest.mark.parametrize("name", KINDS)
def test_a_list_goes_on_behind_the_rows_that_were_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / name, tmp_path / "out"
    KINDS[name](source)
    row = lists._row
    read = rows_read(monkeypatch)
    wanted = listed(source, out)
    whole = read[0]
    assert whole >= 2 * (COUNT - 6)  # once for the addresses, once for what else is told
    for stop in range(7, whole, 22):
        shutil.rmtree(out)
        monkeypatch.setattr(lists, "_row", row)
        rows_read(monkeypatch, stop)
        with pytest.raises(Killed):
            listed(source, out)
        monkeypatch.setattr(lists, "_row", row)
        read = rows_read(monkeypatch)
        assert listed(source, out) == wanted
        assert read[0] <= whole - stop + GROUP
    given = killed_after(monkeypatch, -1)
    shutil.rmtree(out)
    listed(source, out)
    entries = len(given) - (2 if name == "parts" else 0)
    for stop in (30,):
        shutil.rmtree(out)
        killed_after(monkeypatch, stop)
        with pytest.raises(Killed):
            listed(source, out)
        given = killed_after(monkeypatch, -1)
        assert listed(source, out) == wanted
        assert len(given) <= entries - stop + 7 + 4 + 3  # a run, what comes until a mark, the folder of parts


def test_what_is_kept_of_a_list_is_this_users_alone_and_goes_when_the_set_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path / "list.csv")
    rows_read(monkeypatch, 20)
    with pytest.raises(Killed):
        listed(tmp_path / "list.csv", tmp_path / "out")
    (begun,) = (tmp_path / "out").glob(".source-*.urls.begun")
    assert begun.stat().st_mode & 0o777 == 0o600
    assert json.loads(begun.with_name(f"{begun.name}.json").read_text())["bytes"] > 100
    remove_made_once(tmp_path / "out")
    forget(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_list_is_read_for_its_addresses_where_it_changed_and_not_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "list.csv"
    write_csv(source)
    lines, read = addresses_of([source], tmp_path), rows_read(monkeypatch)
    opened = lists.open_stream
    with monkeypatch.context() as patch:
        patch.setattr(lists, "open_stream", None)
        assert addresses_of([source], tmp_path) == lines
    assert (read[0], lists.open_stream) == (0, opened)
    os.utime(source, ns=(1, 1))
    again = addresses_of([source], tmp_path)
    assert again != lines
    assert (read[0], again.read_bytes()) == (COUNT, lines.read_bytes())


KILLED = """
import os, sys; from pathlib import Path
from shards.make import kept, lists, sorting, survey, urls
from shards.make.plan import Options
sorting.RUN_ROWS, kept.STEP, lists.MARK, urls.MARK = 7, 1, 4, 4
times, real = int(sys.argv[3]), kept.Kept.keep
def keep(self, at):
    global times
    real(self, at)
    times -= 1
    if not times:
        self.stream.write(b"begun, not kept")
        self.stream.flush()
        os.kill(os.getpid(), 9)
kept.Kept.keep = keep
survey._survey(Options(Path(sys.argv[1]), Path(sys.argv[2]), slice=(0, 2)))
"""


@pytest.mark.parametrize("times", [4, 18])
def test_a_process_killed_over_a_list_leaves_what_the_next_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    source, out = tmp_path / "list.csv", tmp_path / "out"
    write_csv(source)
    wanted = listed(source, out)
    shutil.rmtree(out)
    words = [sys.executable, "-c", KILLED, str(source), str(out), str(times)]
    process = subprocess.run(words, capture_output=True, check=False)
    assert process.returncode == -9, process.stderr
    read = rows_read(monkeypatch)
    assert listed(source, out) == wanted
    assert read[0] == 2 * COUNT - 4 * times


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError(errno.EIO, "it stumbles"), PassingError), (ValueError("no text"), ShardError)]
)
def test_of_a_list_that_cannot_be_read_is_kept_what_may_help_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[ShardError]
) -> None:
    source, target = tmp_path / "list.csv", tmp_path / "out" / "lines"
    write_csv(source)
    row = lists._row

    def fails(cells: Any, known: int) -> Any:
        if read[0] == 30:
            raise error
        return row_counted(cells, known)

    read = rows_read(monkeypatch)
    row_counted = lists._row
    monkeypatch.setattr(lists, "_row", fails)
    with pytest.raises(ShardError, match=r"list\.csv: cannot be read as a list of addresses: ") as told:
        write_addresses([source], target)
    assert type(told.value) is kind
    assert any(target.parent.iterdir()) == (kind is PassingError)
    monkeypatch.setattr(lists, "_row", row)
    read = rows_read(monkeypatch)
    write_addresses([source], target)
    assert read[0] == (20 if kind is PassingError else COUNT)


def test_a_list_that_was_cut_short_on_the_disk_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "list.csv", tmp_path / "out" / "lines"
    write_csv(source)
    write_addresses([source], target)
    wanted = target.read_bytes()
    target.unlink()
    row = lists._row
    for damaged in ("lines.begun", "lines.begun.json"):
        monkeypatch.setattr(lists, "_row", row)
        rows_read(monkeypatch, 30)
        with pytest.raises(Killed):
            write_addresses([source], target)
        target.with_name(damaged).write_bytes(b"{")
        monkeypatch.setattr(lists, "_row", row)
        read = rows_read(monkeypatch)
        write_addresses([source], target)
        assert (read[0], target.read_bytes()) == (COUNT, wanted)
        target.unlink()


def test_the_columns_of_parquet_that_are_not_asked_for_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[list[str], list[int]]] = []
    write_parquet(tmp_path / "list.parquet")
    batches = parquet.ParquetFile.iter_batches

    def noted(file: Any, size: int, row_groups: list[int], columns: list[str]) -> Any:
        asked.append((columns, row_groups))
        return batches(file, size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", noted)
    write_addresses([tmp_path / "list.parquet"], tmp_path / "lines")
    assert asked == [(["url", "name"], [group]) for group in range(COUNT // GROUP)]


def asked_of_stores(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests for pages of a bucket from now on."""
    asked: list[str] = []
    attempt = remote.attempt
    monkeypatch.setattr(
        "shards.make.address.attempt", lambda read, where: asked.append(where) or attempt(read, where)
    )
    return asked


def test_a_folder_of_a_bucket_goes_on_behind_the_objects_that_were_listed(
    store: Any, faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.make.address.PAGE", 5)
    source, out = Address(f"{faces}/killed"), tmp_path / "out"
    names = [f"{part}{number:02d}.jpg" for part in ("", "b/", "b/c d/", "ü/", "z") for number in range(8)]
    store.pipe({f"{source.url}/{name}": name.encode() for name in [*names, "b/", "b/x.txt", "b/.hidden.jpg"]})
    asked = asked_of_stores(monkeypatch)
    wanted = listed(source, out)
    pages = len(asked)
    for stop in (2, 20, 38):
        shutil.rmtree(out)
        killed_after(monkeypatch, stop)
        with pytest.raises(Killed):
            listed(source, out)
        given = killed_after(monkeypatch, -1)
        asked.clear()
        assert listed(source, out) == wanted
        assert len(given) <= len(names) + 2 - stop + 7 + 4
        assert len(asked) <= pages - (stop - 7 - 4) // 5


def test_more_objects_than_a_real_page_are_listed_and_gone_on_with(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "MARK", 1000)
    monkeypatch.setattr(sorting, "RUN_ROWS", 300)
    source = Address("s3://faces/thousands")
    names = [f"{number:04d}.jpg" for number in range(1003)]
    s3.pipe({f"{source.url}/{name}": b"" for name in names}, batch_size=64)
    asked = asked_of_stores(monkeypatch)
    assert [name for name, _ in objects_below(source)] == names
    assert len(asked) == 2
    killed_after(monkeypatch, 1002)
    with pytest.raises(Killed):
        listed(source, tmp_path / "out")
    given = killed_after(monkeypatch, -1)
    asked.clear()
    files = listed(source, tmp_path / "out")
    assert len(given) == 3
    assert len(asked) == 3  # what lies there, twice, and the last page
    shutil.rmtree(tmp_path / "out")
    assert listed(source, tmp_path / "out") == files


def facts(names: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, {"size": 1, "ETag": name}) for name in names]


def test_a_store_that_begins_at_its_first_object_or_gives_them_unsorted_loses_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(names: str, after: str = "", url: str = "s3://faces/x") -> str:
        monkeypatch.setattr(buckets, "objects_below", lambda folder, after: iter(facts(names)))
        entries = list_bucket(Address(url), after)
        return "".join("|" if isinstance(entry, Mark) else entry[0] for entry in entries)

    monkeypatch.setattr(buckets, "MARK", 2)
    assert found("abcdef") == "ab|cd|ef|"
    assert found("abcdef", after="c") == "de|f"
    assert found("abfecd") == "ab|fecd"
    assert found("abcdef", url="s3://faces--x-s3/x") == "abcdef"
    with pytest.raises(ShardError, match="do not come sorted by name: run again, which lists it anew"):
        found("abfecd", after="e")


def test_a_server_that_fails_costs_nothing_that_was_listed(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.make.address.PAGE", 5)
    source = Address("s3://faces/failing")
    s3.pipe({f"{source.url}/{number:02d}.jpg": b"x" for number in range(40)})
    wanted = listed(source, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    page, pages = address._s3_page, [0]

    def refused(*asked: Any) -> Any:
        pages[0] += 1
        if pages[0] == 6:
            raise PermissionError("the token has expired")
        return page(*asked)

    monkeypatch.setattr(address, "_s3_page", refused)
    with pytest.raises(PassingError, match="refused: PermissionError: the token has expired"):
        listed(source, tmp_path / "out")
    given = killed_after(monkeypatch, -1)
    assert listed(source, tmp_path / "out") == wanted
    assert len(given) <= 40 - 25 + 7 + 4
