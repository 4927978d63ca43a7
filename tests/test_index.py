"""The index of a set: what is written is read back, and nothing else is believed."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.format.index import (
    NAME,
    Record,
    Rejects,
    Shard,
    ShardIndex,
    Source,
    Split,
    Table,
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
    content = json.loads(json.dumps(make().to_json()))
    change(content)
    content["sha256"] = canonical_sha256(content)
    (folder / NAME).write_text(json.dumps(content))


def test_an_index_comes_back_as_it_was_written(tmp_path: Path) -> None:
    make().write(tmp_path)
    assert load_index(tmp_path) == make()
    content = json.loads((tmp_path / NAME).read_text())
    assert (content["format"], content["version"]) == ("facegan-shards", 1)
    assert content["sha256"] == canonical_sha256(content)


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
    "another version": lambda c: c.update(version=2),
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
