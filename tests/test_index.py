"""The index of a set: what is written is read back, and nothing else is believed."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.format.columns import NAME as COLUMNS
from shards.format.columns import Shard, Shards, Table, row_type
from shards.format.index import (
    NAME,
    Record,
    Rejects,
    ShardIndex,
    Source,
    Split,
    Transform,
    canonical_sha256,
    load_index,
)
from shards.format.png import Geometry

G = Geometry(64, 64, 3)


def make(**changes: Any) -> ShardIndex:
    content: dict[str, Any] = {
        "members": "stored-png",
        "height": 64,
        "width": 64,
        "channels": 3,
        "splits": {"train": Split(10, 1), "val": Split(3, 1)},
        "shards": (
            Shard("train-00000.tar", "train", 10, G.shard_bytes(10), "a" * 64),
            Shard("val-00000.tar", "val", 3, G.shard_bytes(3), "b" * 64),
        ),
        "source": Source("faces.zip", "zip", 14, "c" * 64),
        "shard_size": 1000,
        "record": Record(G.stride, G.pixels, G.row),
        "transform": Transform("150", "bicubic"),
        "attributes": ("Smiling",),
        "table": Table("samples.jsonl", 100, "d" * 64),
        "rejects": Rejects("rejects.jsonl", 1, {"empty": 1}, "e" * 64),
        "software": {"facegan": "0.1.0"},
    }
    return ShardIndex(**{**content, **changes})


def rewrite(folder: Path, change: Any) -> None:
    """Change the written index and give it a fitting checksum again, as somebody with ill will would."""
    content = json.loads(json.dumps(make(version=1).to_json()))
    change(content)
    content["sha256"] = canonical_sha256(content)
    (folder / NAME).write_text(json.dumps(content))


@pytest.mark.parametrize("version", [1, 2])
def test_an_index_comes_back_as_it_was_written(tmp_path: Path, version: int) -> None:
    make(version=version).write(tmp_path)
    found = load_index(tmp_path)
    assert (found, found.fingerprint) == (make(version=version), make().fingerprint)
    content = json.loads((tmp_path / NAME).read_text())
    assert (content["format"], content["version"]) == ("facegan-shards", version)
    assert content["sha256"] == canonical_sha256(content)
    assert (tmp_path / COLUMNS).exists() is ("shards" not in content) is (version == 2)


def test_splits_named_in_another_order_than_their_shards_come_back_as_they_were(tmp_path: Path) -> None:
    swapped = make(splits={"test": Split(0, 0), "val": Split(3, 1), "train": Split(10, 1)})
    swapped.write(tmp_path)
    assert load_index(tmp_path) == swapped
    assert [shard.name for shard in load_index(tmp_path).shards.of_split("val")] == ["val-00000.tar"]


def test_the_fingerprint_is_that_of_the_first_version() -> None:
    assert make().fingerprint == "945e154c1a79a4a190d116c87d656ea75532677d11be14ee4e7092477be34560"


def test_a_million_shards_are_loaded_in_less_than_100_mb(tmp_path: Path) -> None:
    count = 10**6
    rows = np.zeros(count, row_type(17))
    rows["name"] = np.char.mod(b"train-%06d.tar", np.arange(count))
    rows["samples"], rows["bytes"] = 1000, G.shard_bytes(1000)
    index = make(shards=Shards(rows, ("train",)), splits={"train": Split(1000 * count, count)})
    index.__dict__["fingerprint"] = "f" * 64  # a second that this test is not about
    index.write(tmp_path)
    code = (
        "import re, sys; from pathlib import Path; from shards.format.index import load_index; "
        "status = Path('/proc/self/status'); "  # getrusage's peak is also that of its parent
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+) kB', status.read_text())[1]); before = peak(); "
        "index = load_index(Path(sys.argv[1])); print(peak() - before, len(index.shards), index.shards[-1].name)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    used, *rest = done.stdout.split()
    assert rest == [str(count), "train-999999.tar"]
    assert 50_000 < int(used) < 100_000  # kB; of these 61 MB are pages of the file, which all ranks of a node share


COLUMN_DAMAGE = {
    "a flipped bit": lambda raw: bytes([*raw[:-1], raw[-1] ^ 1]),
    "cut short": lambda raw: raw[:-7],
    "gone": lambda raw: None,
}


@pytest.mark.parametrize("change", COLUMN_DAMAGE.values(), ids=COLUMN_DAMAGE.keys())
def test_damaged_columns_are_refused(tmp_path: Path, change: Any) -> None:
    make().write(tmp_path)
    raw = change((tmp_path / COLUMNS).read_bytes())
    (tmp_path / COLUMNS).unlink() if raw is None else (tmp_path / COLUMNS).write_bytes(raw)
    with pytest.raises(ShardError, match=r"index\.npy: the columns of the index are missing or damaged"):
        load_index(tmp_path)


def set_row(**values: Any) -> Any:
    def change(rows: np.ndarray) -> np.ndarray:
        for name, value in values.items():
            rows[name][0] = value
        return rows

    return change


BAD_COLUMNS = {
    "a path out of the set": set_row(name=b"../x.tar"),
    "a hidden file": set_row(name=b".bashrc"),
    "no name": set_row(name=b""),
    "a zero inside a name": set_row(name=b"a\0b.tar"),
    "a shard twice": set_row(name=b"val-00000.tar"),
    "the index itself": set_row(name=b"index.json"),
    "a split that is not there": set_row(split=7),
    "another split's count": set_row(split=1),
    "a negative count": set_row(samples=-1),
    "bytes that do not fit": set_row(bytes=1),
    "a missing row": lambda rows: rows[:1],
    "other columns": lambda rows: rows[["name", "samples"]].copy(),
    "numbers": lambda rows: np.arange(3),
    "objects, which would be unpickled": lambda rows: np.array([{"a": 1}], dtype=object),
}


@pytest.mark.parametrize("change", BAD_COLUMNS.values(), ids=BAD_COLUMNS.keys())
def test_wrong_columns_are_refused_even_with_a_fitting_checksum(tmp_path: Path, change: Any) -> None:
    make().write(tmp_path)
    np.save(tmp_path / COLUMNS, change(np.load(tmp_path / COLUMNS)), allow_pickle=True)
    content = json.loads((tmp_path / NAME).read_text())
    raw = (tmp_path / COLUMNS).read_bytes()
    content["columns"] |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    content["sha256"] = canonical_sha256(content)
    (tmp_path / NAME).write_text(json.dumps(content))
    with pytest.raises(ShardError, match=r"index\.(json|npy): "):
        load_index(tmp_path)


def test_a_shard_is_found_by_its_name() -> None:
    shuffled = np.random.default_rng(0).permutation(3000).tolist()
    names = [*(f"train-{number:05d}.tar" for number in shuffled), "ü.tar", "x" * 30]
    several = Shards.of(Shard(name, "train", 1, 1, "0" * 64) for name in names)
    assert [several.find(name) for name in names] == list(range(len(names)))
    assert [several.find(name) for name in ("", "train-03000.tar", "train-00000", "x" * 31)] == [None] * 4
    assert Shards.of([]).find("train-00000.tar") is None


def test_the_fingerprint_is_of_the_data_not_of_the_software() -> None:
    other = make(software={"facegan": "9"}, source=Source("moved.zip", "zip", 14, "c" * 64))
    assert other.fingerprint == make().fingerprint
    swapped = make(shards=(make().shards[0], Shard("val-00000.tar", "val", 3, G.shard_bytes(3), "0" * 64)))
    assert swapped.fingerprint != make().fingerprint


@pytest.mark.parametrize("position", range(0, 1400, 61))
def test_a_flipped_bit_is_found(tmp_path: Path, position: int) -> None:
    make().write(tmp_path)
    raw = bytearray((tmp_path / NAME).read_bytes())
    before = json.loads(raw)
    raw[position % len(raw)] ^= 1
    (tmp_path / NAME).write_bytes(raw)
    try:
        same = json.loads(raw) == before  # white space may change without harm
    except ValueError:
        same = False
    if not same:
        with pytest.raises(ShardError, match="index"):
            load_index(tmp_path)


BAD = {
    "a path out of the set": lambda c: c["shards"][0].update(name="../train-00000.tar"),
    "an absolute path": lambda c: c["table"].update(name="/etc/passwd"),
    "a hidden file": lambda c: c["table"].update(name=".bashrc"),
    "another record stride": lambda c: c["record"].update(stride=512),
    "a pixel offset out of the record": lambda c: c["record"].update(pixels=1 << 40),
    "a negative count": lambda c: c["shards"][0].update(samples=-1),
    "a truth value as a number": lambda c: c.update(channels=True),
    "a fraction as a number": lambda c: c.update(height=64.0),
    "a number as a string": lambda c: c.update(height="64"),
    "two channels": lambda c: c.update(channels=2),
    "an enormous image": lambda c: c.update(height=10**9),
    "bytes that do not fit the samples": lambda c: c["shards"][0].update(bytes=1),
    "an unknown split": lambda c: c["shards"][0].update(split="other"),
    "wrong totals": lambda c: c["splits"]["train"].update(samples=11),
    "one shard twice": lambda c: c["shards"].append(c["shards"][0]),
    "an unknown field": lambda c: c.update(extra=1),
    "a missing field": lambda c: c.pop("shards"),
    "a list where an object belongs": lambda c: c.update(splits=[]),
    "a short hash": lambda c: c["shards"][0].update(sha256="ab"),
    "no record": lambda c: c.update(record=None),
    "other members": lambda c: c.update(members="pickle"),
    "another version": lambda c: c.update(version=3),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_wrong_value_is_refused_even_with_a_fitting_checksum(tmp_path: Path, change: Any) -> None:
    rewrite(tmp_path, change)
    with pytest.raises(ShardError, match=r"index\.json: .*expected|must be|channels"):
        load_index(tmp_path)


def test_what_is_no_index_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there is no such file"):
        load_index(tmp_path)
    for raw in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b'"x"'):
        (tmp_path / NAME).write_bytes(raw)
        with pytest.raises(ShardError, match=r"index\.json"):
            load_index(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(make().to_json())), JSON)
def test_any_value_in_any_field_is_read_or_refused_never_more(field: str, value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = {**make().to_json(), field: value}
        if field != "sha256":
            content["sha256"] = canonical_sha256(content)
        (Path(folder) / NAME).write_text(json.dumps(content))
        try:
            load_index(Path(folder))
        except ShardError as error:
            assert NAME in str(error)
