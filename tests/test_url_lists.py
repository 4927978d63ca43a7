"""Folders of a bucket and lists of addresses: the same shards as from the files, and every row accounted for."""

import csv
import dataclasses
import io
import json
import random
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from file_server import Server, serving
from pictures import jpegs, write_folder
from pyarrow import parquet
from test_addresses import SECRET, make, tree

import shards
from facegan.files import json_lines
from shards.errors import ShardError
from shards.format.index import load_index
from shards.format.labels import UNKNOWN
from shards.format.transform import PictureError
from shards.make import annotations, attributed, buckets, lists, sorting, urls
from shards.make.address import Address, objects_below, parse_where
from shards.make.ahead import read_ahead
from shards.make.attributed import annotate_list
from shards.make.closing import close_set
from shards.make.listing import Place
from shards.make.sources import list_source, open_reader
from shards.make.writer import Options, preprocess
from shards.read import remote
from shards.read.verify import verify_set

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # aiohttp's sessions outlive the tests
COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as files, hidden ones and others beside them."""
    return write_folder(tmp_path_factory.mktemp("files") / "faces", jpegs(COUNT))


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(urls, "PAUSES", (0.001, 0.001))
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(store: Any, faces: str, folder: Path) -> Any:
    """The store with the pictures in its bucket, below all, and others beside them."""
    store.put(f"{folder}/", f"{faces}/all/", recursive=True)
    store.pipe(f"{faces}/all/notes.txt", b"no picture")
    store.pipe(f"{faces}/all/.thumbs/000001.jpg", b"hidden")
    store.pipe(f"{faces}/all-others/000001.jpg", b"beside it")
    return store


def test_a_folder_of_a_bucket_gives_the_same_set_as_the_folder(
    bucket: Any, faces: str, folder: Path, tmp_path: Path
) -> None:
    expected, found = make(folder, tmp_path / "file"), make(f"{faces}/all", tmp_path / "store")
    assert {name: found[name] for name in found if name.endswith((".tar", "samples.jsonl"))} == {
        name: expected[name] for name in expected if name.endswith((".tar", "samples.jsonl"))
    }
    ours, theirs = load_index(tmp_path / "store" / "16").source, load_index(tmp_path / "file" / "16").source
    assert ours is not None
    assert theirs is not None
    assert (ours.kind, ours.samples, ours.fingerprint) == ("bucket", COUNT, theirs.fingerprint)
    for part in (1, 0):
        make(f"{faces}/all/", tmp_path / "slices", slice=(part, 2))
    close_set(tmp_path / "slices")
    assert tree(tmp_path / "slices") == found


def test_a_folder_of_more_objects_than_a_page_is_listed_page_by_page(
    store: Any, faces: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"{faces}/pages"
    names = [f"{part}{number:02d}.jpg" for part in ("", "b/", "b/c d/", "ü/") for number in range(8)]
    store.pipe({f"{root}/{name}": name.encode() for name in [*names, "b/"]} | {f"{root}x.jpg": b"beside it"})
    whole = dict(objects_below(Address(root)))
    assert sorted(whole) == sorted(names)
    listing = list_source(Address(root), tmp_path)
    asked: list[str] = []
    attempt = remote.attempt
    monkeypatch.setattr(
        "shards.make.address.attempt", lambda read, where: asked.append(where) or attempt(read, where)
    )
    for page in (5, 33):
        monkeypatch.setattr("shards.make.address.PAGE", page)
        asked.clear()
        assert dict(objects_below(Address(f"{root}/"))) == whole
        assert len(asked) == -(-33 // page)  # the marker of a folder is the 33rd
        again = list_source(Address(root), tmp_path)
        assert [*again.names] == [*listing.names] == sorted(names, key=str.encode)
        assert again.fingerprint == listing.fingerprint
    assert not dict(objects_below(Address(f"{faces}/no such folder")))


def test_objects_that_changed_or_went_after_they_were_listed_are_refused(
    store: Any, faces: str, tmp_path: Path
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        store.pipe(f"{faces}/few/{name}", b"first")
    listing = list_source(Address(f"{faces}/few"), tmp_path)
    reader = open_reader("bucket", listing.path)
    places = [Place(*place.item()) for place in listing.places]
    store.pipe(f"{faces}/few/b.jpg", b"other")
    store.pipe(f"{faces}/few/c.jpg", b"longer")
    store.rm(f"{faces}/few/d.jpg")
    assert reader.read("a.jpg", places[0]) == b"first"
    for i, name, message in ((1, "b", "has changed"), (2, "c", "has changed"), (3, "d", "is gone")):
        with pytest.raises(ShardError, match=f"{faces}/few/{name}.jpg: .*{message}"):
            reader.read(f"{name}.jpg", places[i])


def test_a_version_that_is_no_md5_is_asked_for(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of objects that were uploaded in parts."""
    with s3.open("s3://faces/parts/a.jpg", "wb", block_size=5 << 20) as stream:
        stream.write(b"x" * (6 << 20))
    listing = list_source(Address("s3://faces/parts"), tmp_path)
    asked: list[str] = []
    look = buckets.look
    monkeypatch.setattr(buckets, "look", lambda address: asked.append(str(address)) or look(address))
    assert len(open_reader("bucket", listing.path).read("a.jpg", Place(*listing.places[0].item()))) == 6 << 20
    assert asked == ["s3://faces/parts/a.jpg"]


def test_a_bucket_or_folder_that_is_not_there_is_named(store: Any, faces: str, tmp_path: Path) -> None:
    for address in (f"{faces}/none", faces.replace("faces", "no-such-bucket/x.zip")):
        with pytest.raises(ShardError, match=f"{address}: there is nothing at this address"):
            list_source(Address(address), tmp_path)
    empty = faces.replace("faces", "empty")
    store.mkdir("empty")
    with pytest.raises(ShardError, match=rf"{empty}: no picture .* in it, only: nothing"):
        list_source(Address(empty), tmp_path)
    with pytest.raises(ShardError, match="a web server does not list folders"):
        next(buckets.list_bucket(Address("https://host/faces/")))


def rows_of(server: Server) -> list[dict[str, Any]]:
    """A list with attributes, out of order."""
    return [
        {
            "URL": f"{server.address}/{name}?{SECRET}",
            "name": name,
            "caption": f"face, number {i}",
            "Smiling": 1 - 2 * (i % 2),
            "identity": i // 3,
            "split": "val" if i > 9 else "train",
        }
        for i, name in reversed(list(enumerate(jpegs(COUNT))))
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    head = ",".join(rows[0])
    lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_a_list_of_addresses_gives_the_same_pictures_as_the_files(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    expected = make(folder, tmp_path / "file")
    (tmp_path / "list.txt").write_text("".join(f"{row['URL']}\r\n\r\n" for row in rows_of(server)))
    plain = make(tmp_path / "list.txt", tmp_path / "txt", holdout=0)
    names = [row["source"] for row in json_lines(tmp_path / "txt" / "16" / "samples.jsonl")]
    host = server.address.partition("://")[2]
    assert names == [f"{host}/{name}" for name in jpegs(COUNT)]
    assert plain["16/train-00000.tar"] == make(folder, tmp_path / "all", holdout=0)["16/train-00000.tar"]
    named = make(write_csv(tmp_path / "list.csv", rows_of(server)), tmp_path / "csv")
    assert {name for name in named if named[name] == expected.get(name)} >= {
        name for name in expected if name.endswith(".tar")
    }


def test_columns_of_a_list_become_attributes_identities_and_splits(server: Server, tmp_path: Path) -> None:
    rows = rows_of(server)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "list.parquet")
    server.folder, old = tmp_path, server.folder
    (tmp_path / "img_align_celeba").symlink_to(old / "img_align_celeba")
    sources = [write_csv(tmp_path / "list.csv", rows), tmp_path / "list.parquet", f"{server.address}/list.parquet"]
    trees = []
    for number, source in enumerate(sources):
        out = tmp_path / str(number)
        outcome = preprocess(Options(parse_where(str(source)), out, ((16, 16),), shard_size=5))
        assert "columns without small whole numbers are not used: caption" in outcome.notes[0]
        found = list(json_lines(out / "16" / "samples.jsonl"))
        by_name = {row["name"]: row for row in rows}
        for row in found:
            told = by_name[row["source"]]
            assert (row["attributes"], row["identity"], row["split"]) == (
                [told["Smiling"]],
                told["identity"],
                told["split"],
            )
        assert load_index(out / "16").attributes == ("Smiling",)
        trees.append({name: value for name, value in tree(out).items() if name.endswith((".tar", ".jsonl"))})
        assert not [path for path in out.rglob("*") if path.is_file() and b"5ecr37" in path.read_bytes()]
    assert trees[0] == trees[1] == trees[2]


GAPS = {"smiling": [1, 0, None, None], "age": [None, 71, 8, None], "male": [True, None, False, None]}


@pytest.mark.parametrize("kind", ["csv", "pandas.csv", "tsv", "parquet"])
def test_an_empty_cell_loses_its_own_value_and_no_other(server: Server, tmp_path: Path, kind: str) -> None:
    rows = [{"url": f"{server.address}/{name}", "name": name} for name in jpegs(4)]
    table, source = pyarrow.table({name: [row[name] for row in rows] for name in rows[0]} | GAPS), tmp_path / kind
    if kind == "parquet":
        numbers = pyarrow.array(GAPS["age"], pyarrow.float64(), from_pandas=True)  # as pandas keeps what has gaps
        parquet.write_table(table.set_column(3, "age", numbers), source)
    else:
        said = {None: "NaN" if kind == "pandas.csv" else "", 71: "71.0", True: "True"}
        with source.open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if kind == "tsv" else ",")
            cells = ([said.get(cell, cell) for cell in row.values()] for row in table.to_pylist())
            writer.writerows([table.column_names, *cells])
    outcome = preprocess(Options(source, tmp_path / "out", ((16, 16),), attributes=True))
    assert outcome.notes == [
        f"{source}: of 4 rows some lack a value, and keep the others: smiling 2, age 2, male 2"
    ]
    found = [row["attributes"] for row in json_lines(tmp_path / "out" / "16" / "samples.jsonl")]
    assert found == [[1, None, 1], [0, 71, None], [None, 8, 0], None]
    opened = shards.open_set(tmp_path / "out" / "16")
    labels = opened.labels("train")
    assert labels.values.tolist() == [[1, UNKNOWN, 1], [0, 71, UNKNOWN], [UNKNOWN, 8, 0], [UNKNOWN] * 3]
    assert labels.where("male=1").tolist() == [0]
    assert not verify_set(tmp_path / "out" / "16")


def test_a_folder_of_parquet_parts_is_one_list(server: Server, folder: Path, tmp_path: Path) -> None:
    rows, laion = rows_of(server), tmp_path / "laion"
    laion.mkdir()
    whole = tmp_path / "list.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), whole)
    for number, part in enumerate((rows[:5], rows[5:6], rows[6:])):
        file = laion / f"{number % 2}" / f"part-{number}.snappy.PARQUET"
        file.parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(part), file)
    write_folder(laion, {"_SUCCESS": b"", ".part-0.parquet.crc": b"", "0/stats.json": b"{}"})
    expected, found = make(whole, tmp_path / "whole"), make(laion, tmp_path / "out")
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"16/index.json"}  # the source's name
    first = Options(laion, tmp_path / "slices", ((16, 16),), shard_size=5, holdout=3, slice=(1, 2))
    assert preprocess(first).left_out == {".json": 1, "hidden": 1, "without extension": 1}
    for lines in (tmp_path / "slices").glob(".source-*"):
        lines.unlink()  # cleaned away meanwhile
    preprocess(dataclasses.replace(first, slice=(0, 2)))
    close_set(tmp_path / "slices")
    assert tree(tmp_path / "slices") == found
    parquet.write_table(pyarrow.Table.from_pylist(rows[:1]).drop_columns(["identity"]), laion / "2.parquet")
    with pytest.raises(ShardError, match=r"2\.parquet: columns .*; the first part of this list has .*identity"):
        list_source(laion, tmp_path)


def test_a_folder_of_parquet_parts_in_a_bucket_is_one_list(
    store: Any, faces: str, server: Server, folder: Path, tmp_path: Path
) -> None:
    rows, laion = rows_of(server), f"{faces}/laion"
    for number, part in enumerate((rows[:5], rows[5:6], rows[6:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), whole := io.BytesIO())
        store.pipe(f"{laion}/{number % 2}/part-{number}.parquet", whole.getvalue())
    store.pipe({f"{laion}/_SUCCESS": b"", f"{laion}/0/stats.json": b"{}"})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "list.parquet")
    expected, found = make(tmp_path / "list.parquet", tmp_path / "whole"), make(laion, tmp_path / "out")
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"16/index.json"}  # the source's name
    options = Options(parse_where(laion), tmp_path / "slices", ((16, 16),), shard_size=5, holdout=3)
    slices = [dataclasses.replace(options, slice=(part, 2)) for part in (0, 1)]
    assert preprocess(slices[1]).left_out == {".json": 1, "without extension": 1}
    for lines in (tmp_path / "slices").glob(".source-*"):
        lines.unlink()  # cleaned away meanwhile
    preprocess(slices[0])
    close_set(tmp_path / "slices")
    assert tree(tmp_path / "slices") == found
    preprocess(dataclasses.replace(slices[0], out=tmp_path / "changed"))
    parquet.write_table(pyarrow.Table.from_pylist(rows[5:7]), part := io.BytesIO())
    store.pipe(f"{laion}/1/part-1.parquet", part.getvalue())
    with pytest.raises(ShardError, match=r"begun with other options or another source \(pictures"):
        preprocess(dataclasses.replace(slices[1], out=tmp_path / "changed"))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (("000.tar", "000.parquet"), r"only: 1 \.parquet, 1 \.tar\. WebDataset's.*To crop .*, give the tar itself"),
        (("a.zip", "b/c.zip"), r"only: 2 \.zip\. Give one of the archives itself"),
        (("a.csv", "b.tsv"), r"Give one list of addresses itself, or join them to one"),
        (("a.gif",), r"only: 1 \.gif$"),
    ],
)
def test_a_folder_of_a_bucket_with_sources_in_it_ends_with_a_hint(
    store: Any, faces: str, tmp_path: Path, names: tuple[str, ...], hint: str
) -> None:
    address = f"{faces}/hints-{names[0][-3:]}"
    store.pipe({f"{address}/{name}": b"x" for name in names})
    with pytest.raises(ShardError, match=hint):
        list_source(Address(address), tmp_path)


def test_columns_that_are_not_used_are_named_and_whole_numbers_are_taken_in_any_form(tmp_path: Path) -> None:
    plain = {"url": [f"https://host/{i}.jpg" for i in range(3)]}
    taken = {"whole": [1.0, float("nan"), -3.0], "flag": [True, None, False], "half": pyarrow.array([2, 3, None])}
    kinds = pyarrow.array(["val", "train", "test"]).dictionary_encode()
    others = {"similarity": [0.3, 0.5, 1.0], "large": [1, 2, 1 << 15], "infinite": [1.0, 2.0, float("inf")]}
    others |= {"least": [0, 1, -(1 << 15)], "nothing": [float("nan")] * 3, "caption": ["a", "b", "c"]}
    unread = {"embedding": [[0.1], [0.2], [0.3]], "face": [{"x": 1}] * 3}
    table = pyarrow.table(plain | taken | {"split": kinds} | others | unread)
    parquet.write_table(table, tmp_path / "list.parquet")
    listing = list_source(tmp_path / "list.parquet", tmp_path)
    told = annotate_list(listing, tmp_path / "list.parquet", None)
    assert told.names == ("whole", "flag", "half")
    assert [told.row(i)["attributes"] for i in range(3)] == [[1, 1, 2], [None, None, 3], [-3, 0, None]]
    assert told.splits.tolist() == [1, 0, 2]
    assert told.notes[0].endswith(f"are not used: {', '.join([*others, *unread])}")


def test_what_a_list_says_goes_to_its_pictures_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, count, columns = random.Random(0), 20_000, [f"a{i}" for i in range(30)]
    numbers = draw.sample(range(10**6), count)
    told = {f"{number:07d}": [draw.randrange(-9, 9) for _ in columns] for number in numbers}
    with (tmp_path / "list.csv").open("w") as stream:
        stream.write(f"url,name,identity,split,{','.join(columns)}\n")
        for name, values in told.items():
            stream.write(f"https://host/{name},{name},{name},{int(name) % 3},{','.join(map(str, values))}\n,,,,1\n")
    monkeypatch.setattr(sorting, "RUN_BYTES", 1 << 14)
    monkeypatch.setattr(annotations, "BLOCK", 1 << 10)
    monkeypatch.setattr(attributed, "BLOCK", 1 << 10)
    monkeypatch.setattr(attributed, "AT_ONCE", 1 << 8)
    listing = list_source(tmp_path / "list.csv", tmp_path)
    tracemalloc.start()
    found = annotate_list(listing, tmp_path / "list.csv", None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20  # the attributes alone, as numbers of 64 bits: 4.6 MB
    assert isinstance(found.values, np.memmap)
    names = sorted(told)
    assert [*listing.names] == names
    assert found.values.tolist() == [told[name] for name in names]
    assert found.identities is not None
    assert [*found.identities] == [*map(int, names)]
    assert found.splits.tolist() == [int(name) % 3 for name in names]


def test_every_row_is_a_sample_or_a_reject_with_its_reason(server: Server, tmp_path: Path) -> None:
    others = {"page.jpg": b"<html>not found</html>", "empty.jpg": b""}
    server.folder = write_folder(tmp_path / "web", {**jpegs(2), **others})
    names = list(jpegs(2))
    server.faults = {names[1]: ["403"]}
    lines = [f"{server.address}/{name}?{SECRET}" for name in (*names, "page.jpg", "empty.jpg", "gone.jpg")]
    lines += ["file:///etc/passwd", "pipe://cat", "http://[bad/x.jpg", "relative.jpg"]
    rows = [f"{line},1," for line in lines]  # without a name
    (tmp_path / "list.csv").write_text("\n".join(["url,Male,name", *rows, ",1,", ""]))
    options = Options(tmp_path / "list.csv", tmp_path / "out", ((16, 16),), max_rejects="95%")
    outcome = preprocess(options)
    rejects = list(json_lines(tmp_path / "out" / "16" / "rejects.jsonl"))
    (index,) = outcome.indices.values()
    assert index.splits["train"].samples + len(rejects) == len(lines)
    assert outcome.left_out == {"rows without an address": 1}
    details = {row["source"].rpartition("/")[2]: (row["reason"], row["detail"]) for row in rejects}
    assert details["000002.jpg"] == ("not fetched", "HTTP 403")
    assert details["gone.jpg"] == ("not fetched", "HTTP 404")
    assert details["passwd"][1].startswith("no address of a kind that is read")
    assert {"page.jpg", "empty.jpg", "cat", "x.jpg", "relative.jpg"} <= details.keys()
    assert not re.search("5ecr37", (tmp_path / "out" / "16" / "rejects.jsonl").read_text())


def test_an_address_that_fails_is_asked_three_times(server: Server, tmp_path: Path) -> None:
    names = list(jpegs(3))
    addresses = [*(f"{server.address}/{name}" for name in names), "http://127.0.0.1:9/x.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(["name,url", *(f"{i},{a}" for i, a in enumerate(addresses))]))
    listing = list_source(tmp_path / "list.csv", tmp_path)
    server.faults = {names[0]: ["500", "cut"], names[1]: ["503"] * 3, names[2]: ["429"]}
    reader = open_reader("urls", listing.path)
    places = [Place(*place.item()) for place in listing.places]
    assert reader.read("0", places[0]) == jpegs(3)[names[0]]
    assert reader.read("2", places[2]) == jpegs(3)[names[2]]
    for i, detail in ((1, "HTTP 503"), (3, "Cannot connect")):
        with pytest.raises(PictureError, match=detail):
            reader.read(str(i), places[i])


def test_a_machine_without_a_way_out_is_told_apart_from_a_list_of_dead_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "PAUSES", ())
    (tmp_path / "list.txt").write_text("".join(f"http://127.0.0.1:9/{i}.jpg\n" for i in range(urls.SILENT)))
    listing = list_source(tmp_path / "list.txt", tmp_path)
    reader = open_reader("urls", listing.path)
    *places, last = (Place(*place.item()) for place in listing.places)
    for place in places:
        with pytest.raises(PictureError, match="Cannot connect"):
            reader.read("", place)
    with pytest.raises(ShardError, match="does this machine have a way out"):
        reader.read("", last)


def test_a_picture_without_end_is_not_read_to_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "MAX_PICTURE_BYTES", 1000)
    name = next(iter(jpegs(1)))
    (tmp_path / "list.txt").write_text(f"{server.address}/{name}\n")
    for server.ranges in (True, False):
        listing = list_source(tmp_path / "list.txt", tmp_path)
        with pytest.raises(PictureError, match="too large"):
            open_reader("urls", listing.path).read(name, Place(*listing.places[0].item()))


def test_a_list_kept_while_work_goes_on_is_this_users_alone(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"https://host/a.jpg?{SECRET}\n")
    listing = list_source(tmp_path / "list.txt", tmp_path)
    assert Path(str(listing.path)).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 but no more", "cannot be read as a list of addresses"),
        ("a.csv", b"url,x\nhttp://h/a,\xff\xff\n", "cannot be read as a list of addresses"),
        ("a.csv", b"url,split\nhttp://h/a.jpg,dev\n", "expected train, val or test in each row"),
        ("a.csv", b"link,x\nhttp://h/a,1\n", "list of addresses .* by its content"),
        ("a.html", b"<html><a href='https://x/y'>", "list of addresses .* by its content"),
        ("a.csv", b"url,x\n,1\n", "no picture .* 1 rows without an address"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ShardError, match=message):
        preprocess(Options(tmp_path / name, tmp_path / "out", ((16, 16),)))
    assert not list((tmp_path / "out").glob(".*.begun*"))


def test_a_column_may_have_the_separator_in_its_name() -> None:
    table = lists.read_table(Path("list"), io.BytesIO(b'url,"caption, long",age\nhttps://host/a.png,"x, y",3\n'))
    assert table.columns == ["caption, long", "age"]
    assert [row and row.rest for row in table.rows] == [["x, y", "3"]]


def test_what_is_read_ahead_comes_in_order_and_fails_in_its_place() -> None:
    def read(i: int) -> bytes:
        if i == 7:
            raise PictureError("not fetched", "")
        return bytes([i])

    for threads in (0, 1, 3):
        for i, call in enumerate(read_ahead(read, 20, threads)):
            if i == 7:
                with pytest.raises(PictureError):
                    call()
            else:
                assert call() == bytes([i])
        assert i == 19


def test_the_lists_of_json_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"url": "https://x/y.jpg"}))
    with pytest.raises(ShardError, match="by its content"):
        list_source(tmp_path / "a.json", tmp_path)
