"""Hostile or damaged bytes in an index, a member table or a tar end in a ShardError, never in anything else."""

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_sets import encode, make_set, pictures, write_tar

import shards
from facegan.files import sha256_file
from shards.errors import ShardError
from shards.format.index import canonical_sha256, load_index
from shards.format.png import member_bytes
from shards.format.tar import members, read_members
from shards.make.foreign import index_tars
from shards.make.reading import ForeignTars
from shards.read.verify import verify_set

FUZZ = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

flips = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("../../etc/passwd"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    make_set(folder, {"train": [3, 2]})
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    forms = ("JPEG", "PNG", "WEBP")
    images = dict(zip(forms, pictures(3), strict=True))
    write_tar(folder / "a.tar", [(f"{form}.{form.lower()}", encode(image, form)) for form, image in images.items()])
    index_tars(ForeignTars(folder))
    return folder


def altered(data: bytes, changes: list[tuple[float, int]]) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[int(place * len(changed))] = value
    return bytes(changed)


def read_all(folder: Path) -> None:
    """Everything a reader does; whatever is amiss must be a ShardError."""
    try:
        opened = shards.open_set(folder)
        for split in opened.index.splits:
            images = opened.split(split)
            images.gather(np.arange(len(images)))
            images.keys(np.arange(len(images)))
            if len(images):
                next(shards.Stream(images, batch_size=2, seed=0))
    except ShardError as error:
        assert str(error)
    verify_set(folder)


def copied(source: Path, target: Path, **replaced: bytes) -> Path:
    """Links to a set's files, some with other bytes."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        os.link(path, target / path.name)
    for name, data in replaced.items():
        (target / name).unlink()
        (target / name).write_bytes(data)
    return target


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value there is anything."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here] * bool(here) + [path for key, inner in entries for path in paths(inner, (*here, key))]


def replace(content: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


@pytest.mark.parametrize("kind", ["stored", "foreign"])
@given(data=st.data(), value=json_values)
@FUZZ
def test_an_index_with_any_value_replaced_is_refused_or_harmless(
    kind: str,
    data: st.DataObject,
    value: Any,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The hash is made to fit again: the attacker knows how."""
    source: Path = request.getfixturevalue(kind)
    content = json.loads((source / "index.json").read_text())
    replace(content, data.draw(st.sampled_from(paths(content))), value)
    if data.draw(st.booleans()):
        content["sha256"] = canonical_sha256(content)
    raw = json.dumps(content).encode()
    read_all(copied(source, tmp_path_factory.mktemp("fuzz") / "set", **{"index.json": raw}))


@pytest.mark.parametrize("kind", ["stored", "foreign"])
@given(changes=flips)
@FUZZ
def test_altered_columns_are_refused_or_harmless_even_with_a_hash_that_fits(
    kind: str,
    changes: list[tuple[float, int]],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source: Path = request.getfixturevalue(kind)
    columns = altered((source / "index.npy").read_bytes(), changes)
    folder = copied(source, tmp_path_factory.mktemp("fuzz") / "set", **{"index.npy": columns})
    content = json.loads((folder / "index.json").read_text())
    content["columns"]["sha256"] = sha256_file(folder / "index.npy")
    (folder / "index.json").unlink()
    (folder / "index.json").write_text(json.dumps({**content, "sha256": canonical_sha256(content)}))
    read_all(folder)


@given(changes=flips)
@FUZZ
def test_an_index_of_altered_bytes_is_refused(
    changes: list[tuple[float, int]], stored: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = (stored / "index.json").read_bytes()
    folder = copied(stored, tmp_path_factory.mktemp("fuzz") / "set", **{"index.json": altered(whole, changes)})
    read_all(folder)
    if json.loads(whole) != _loads((folder / "index.json").read_bytes()):
        with pytest.raises(ShardError):
            load_index(folder)


def _loads(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


@pytest.mark.parametrize("kind", ["stored", "foreign"])
@given(changes=flips, cut=st.floats(0, 1))
@FUZZ
def test_altered_tars_end_in_clear_errors(
    kind: str,
    changes: list[tuple[float, int]],
    cut: float,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    source: Path = request.getfixturevalue(kind)
    name = "a.tar" if kind == "foreign" else "train-00000.tar"
    whole = altered((source / name).read_bytes(), changes)
    for data in (whole, whole[: int(cut * len(whole))]):
        folder = copied(source, tmp_path_factory.mktemp("fuzz") / "set", **{name: data})
        read_all(folder)
        if data != (source / name).read_bytes():
            assert verify_set(folder)


@given(changes=flips)
@FUZZ
def test_an_altered_member_table_is_refused_or_harmless_even_with_a_hash_that_fits(
    changes: list[tuple[float, int]], foreign: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = altered((foreign / "members.bin").read_bytes(), changes)
    folder = copied(foreign, tmp_path_factory.mktemp("fuzz") / "set", **{"members.bin": table})
    content = json.loads((folder / "index.json").read_text())
    content["table"]["sha256"] = sha256_file(folder / "members.bin")
    (folder / "index.json").unlink()
    (folder / "index.json").write_text(json.dumps({**content, "sha256": canonical_sha256(content)}))
    read_all(folder)


@given(changes=flips, header=st.integers(0, 2))
@FUZZ
def test_a_tar_to_be_indexed_never_loses_a_sample_in_silence(
    changes: list[tuple[float, int]], header: int, foreign: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Damage in a header: an error, or all three samples are accounted for."""
    whole = (foreign / "a.tar").read_bytes()
    start = [member.offset - 512 for member in members(foreign / "a.tar")][header]
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "a.tar").write_bytes(
        whole[:start] + altered(whole[start : start + 512], changes) + whole[start + 512 :]
    )
    try:
        index = index_tars(ForeignTars(folder))
    except ShardError as error:
        assert "a.tar" in str(error)
    else:
        assert index.source.samples == 3


@given(st.binary(max_size=4096))
@FUZZ
def test_any_bytes_as_a_tar_end_in_a_clear_error(data: bytes) -> None:
    padded = io.BytesIO(data.ljust(member_bytes(len(data)), b"\0"))
    try:
        list(read_members(padded, "x.tar"))
    except ShardError as error:
        assert str(error).startswith("x.tar")


def test_nothing_pickled_is_loaded(foreign: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'exploded'}",)

    folder = copied(
        foreign, tmp_path / "set", **{name: pickle.dumps(Bomb()) for name in ("members.bin", "a.tar", "index.npy")}
    )
    content = json.loads((folder / "index.json").read_text())
    for entry in (content["table"], content["columns"]):
        entry |= {"bytes": (folder / entry["name"]).stat().st_size, "sha256": sha256_file(folder / entry["name"])}
    (folder / "index.json").unlink()
    (folder / "index.json").write_text(json.dumps({**content, "sha256": canonical_sha256(content)}))
    read_all(folder)
    with pytest.raises(ShardError):
        shards.open_set(folder).split("train").gather(np.arange(3))
    assert not (tmp_path / "exploded").exists()
