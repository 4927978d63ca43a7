"""Columns of labels say what the side table says, in a few bytes a sample; what is damaged is not believed."""

import dataclasses
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_sets import make_set

import shards
from shards.errors import ShardError
from shards.format.columns import Shards, SideTable
from shards.format.labels import UNKNOWN, LabelWriter
from shards.read.columns import LabelColumns
from shards.read.labels import Labels, join_labels

NAMES = ("Smiling", "Turned", "Glasses", "Age", "Score")
COUNTS = (50, 70, 0, 41)  # samples of the parts
SIZES = {"train": [50, 40, 3, 8], "val": [30, 30]}
ORDER = [0, 4, 1, 2, 5, 3]  # of the shards: no split lies in one stretch, and a part ends in a shard
RNG = np.random.default_rng(0)


def rows_of(part: int, count: int, identities: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Rows of the side table: the first part is of -1, 0 and 1, the second of small numbers, the last of any."""
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        turned, glasses = RNG.integers(-1, 2), RNG.choice([-1, 1])
        wide = RNG.integers(0, (2, 100, 100, 30_000)[part], 2)
        values: list[int | None] = [int(RNG.choice([-1, 1])), int(turned), int(glasses), *map(int, wide)]
        if RNG.random() < 0.1:
            values[int(RNG.integers(0, 5))] = None
        known = values if RNG.random() < 0.9 else None
        rows.append({"attributes": known, "identity": identities(int(RNG.integers(-1, 9)))})
    return rows


def with_labels(folder: Path, identities: Callable[[int], Any], names: tuple[str, ...] = NAMES) -> Path:
    """A set of two splits with a side table in parts, and its columns."""
    make_set(folder, SIZES)
    tables, labels = [], []
    for part, count in enumerate(COUNTS):
        rows = rows_of(part, count, identities)
        if not names:
            rows = [row | {"attributes": None} for row in rows]
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        (folder / f"samples-{part:05d}.jsonl").write_bytes(lines)
        sha256 = hashlib.sha256(lines).hexdigest()
        tables.append(SideTable(f"samples-{part:05d}.jsonl", len(lines), sha256, count))
        writer, middle = LabelWriter(len(names)), len(b"".join(lines.splitlines(keepends=True)[: count // 3]))
        writer.add(lines[:middle])
        writer.add(lines[middle:])
        labels.append(writer.write(folder / f"labels-{part:05d}.npy"))
    index = shards.load_index(folder)
    mixed = Shards.of([index.shards[number] for number in ORDER])
    whole = dataclasses.replace(index, shards=mixed, attributes=names, tables=tuple(tables), labels=tuple(labels))
    whole.write(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_labels(tmp_path_factory.mktemp("columns"), lambda number: None if number < 0 else number * 10**9)


def both(folder: Path, split: str, tmp_path: Path) -> tuple[LabelColumns, Labels]:
    """The labels from the columns, and from the side table alone."""
    other = Path(shutil.copytree(folder, tmp_path / "before"))
    dataclasses.replace(shards.load_index(other), labels=()).write(other)
    columns, table = shards.open_set(folder).labels(split), shards.open_set(other).labels(split)
    assert isinstance(columns, LabelColumns) and isinstance(table, Labels)
    return columns, table


def in_order_of_the_first(numbers: np.ndarray) -> list[int]:
    codes: dict[int, int] = {-1: -1}
    return [codes.setdefault(number, len(codes) - 1) for number in numbers.tolist()]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    "identities", [lambda n: n, lambda n: None if n < 0 else f"Ann {n}", lambda n: n if n % 2 else f"{n}"]
)
@pytest.mark.parametrize("names", [NAMES, ()])
def test_columns_say_what_the_side_table_says(
    tmp_path: Path, split: str, identities: Callable[[int], Any], names: tuple[str, ...]
) -> None:
    columns, table = both(with_labels(tmp_path / "set", identities, names), split, tmp_path)
    assert len(columns) == len(table) == sum(SIZES[split])
    assert columns.names == table.names == names
    assert columns.values.dtype == np.int16 and np.array_equal(columns.values, table.values)
    assert in_order_of_the_first(columns.identities) == in_order_of_the_first(table.identities)
    asked = RNG.integers(0, len(columns), 200)
    assert np.array_equal(columns[asked].values, table.values[asked])
    assert np.array_equal(columns[asked].identities, columns.identities[asked])
    assert columns[asked[:0]].values.shape == (0, len(names))


@pytest.mark.parametrize(
    "conditions", ["Smiling=1", "Smiling=0,Turned=-1", "Turned=0", "Glasses=0,Smiling=1", f"Age={UNKNOWN}"]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_conditions_choose_what_they_choose_of_the_side_table(
    folder: Path, tmp_path: Path, split: str, conditions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.read.columns.BLOCK", 7)
    columns, table = both(folder, split, tmp_path)
    assert np.array_equal(columns.where(conditions), table.where(conditions))
    assert np.array_equal(shards.open_set(folder).where(split, conditions), table.where(conditions))
    for labels in (columns, shards.open_set(folder)):
        with pytest.raises(ShardError, match=r"Smiling=7: no sample of \d+ meets it"):
            labels.where(*(() if labels is columns else (split,)), "Smiling=7")


@pytest.mark.parametrize(("largest", "size"), [(1, 10 + 4), (127, 40 + 4), (128, 80 + 4)])
def test_an_attribute_takes_two_bits_where_they_are_enough(tmp_path: Path, largest: int, size: int) -> None:
    writer = LabelWriter(40)
    rows = [{"attributes": [-1] * 39 + [largest], "identity": 5}, {"attributes": None, "identity": None}]
    writer.add(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    writer.write(tmp_path / "labels.npy")
    stored = np.load(tmp_path / "labels.npy", mmap_mode="r")
    assert (stored.dtype.itemsize, stored["identity"].tolist()) == (size, [0, -1])


def test_a_batch_is_checked(folder: Path) -> None:
    labels = shards.open_set(folder).labels("val")
    for wrong in (60, -1):
        with pytest.raises(ShardError, match=r"split val: labels .* asked for, there are 0 to 59"):
            labels[np.array([0, wrong])]


def test_labels_of_mixed_sets_are_joined(folder: Path) -> None:
    labels = shards.open_set(folder).labels("val")
    joined = join_labels([labels, labels])
    assert np.array_equal(joined.values, np.tile(labels.values, (2, 1)))
    known = labels.identities >= 0
    assert not set(joined.identities[:60][known]) & set(joined.identities[60:][known])
    assert joined.where("Smiling=1").tolist() == [
        n + s for s in (0, 60) for n in labels.where("Smiling=1").tolist()
    ]
    with pytest.raises(ShardError, match=r"labels 0 to 120 asked for, there are 0 to 119"):
        joined[np.array([0, 120])]


def test_a_batch_of_mixed_sets_reads_the_labels_of_its_own_samples_alone() -> None:
    asked: list[int] = []

    class Watched(Labels):
        def __getitem__(self, samples: np.ndarray | slice) -> Labels:
            asked.extend(np.arange(len(self))[samples].tolist())
            return super().__getitem__(samples)

    one, two = (Watched((), np.empty((9, 0), np.int16), np.arange(9)) for _ in range(2))
    joined = join_labels([one, two])
    assert joined[np.array([10, 3, 17])].identities.tolist() == [10, 3, 17]
    assert sorted(asked) == [1, 3, 8]


def test_a_stage_fetches_the_columns_and_not_the_side_table(folder: Path, tmp_path: Path) -> None:
    staged = shards.open_set(folder, stage=tmp_path)
    assert np.array_equal(staged.labels("val").values, shards.open_set(folder).labels("val").values)
    fetched = sorted(file.name for file in staged.folder.iterdir() if not file.name.startswith("."))
    assert fetched == [
        "index.json",
        "index.npy",
        "labels-00001.npy",
        "labels-00003.npy",
    ]  # those with samples of val


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:-1],
    "of another version": lambda data: data[:6] + b"\2" + data[7:],
    "of other rows": lambda data: data.replace(b"attributes", b"attributas", 1),
    "of more rows": lambda data: data.replace(b"(50,)", b"(51,)", 1),
    "pickled": lambda data: pickle.dumps([1]).ljust(len(data), b"\0"),
    "of objects": lambda data: data.replace(b"'<i8'", b"'|O8'", 1),
    "empty": lambda data: b"\0" * len(data),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, damage: str) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "set"))
    file = broken / "labels-00000.npy"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(ShardError, match=r"labels-00000\.npy: labels that cannot be read .*shards verify"):
        shards.open_set(broken).labels("train")
    assert [found.file for found in shards.verify_set(broken)] == ["labels-00000.npy"]


def test_a_missing_file_and_a_wild_identity_are_errors(folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "set"))
    file = broken / "labels-00003.npy"
    rows = np.load(file, mmap_mode="r+")
    rows["identity"] = 10**6
    rows.flush()
    with pytest.raises(ShardError, match="a file of labels is damaged"):
        shards.open_set(broken).labels("train").identities  # noqa: B018 - it is computed
    file.unlink()
    with pytest.raises(ShardError, match=r"labels-00003\.npy: labels that cannot be read .*No such file"):
        shards.open_set(broken).where("train", "Smiling=1")
    (broken / "labels-00001.npy").unlink()
    assert [found.what for found in shards.verify_set(broken)] == ["missing", "missing"]


@pytest.mark.parametrize("wrong", ["samples", "name"])
def test_an_index_that_does_not_fit_its_columns_is_refused(folder: Path, wrong: str) -> None:
    index = shards.load_index(folder)
    first, *others = index.labels
    other = {"samples": {"samples": first.samples + 1}, "name": {"name": "../labels.npy"}}[wrong]
    with pytest.raises(ShardError, match=r"expected 161 samples in all|expected a plain file name"):
        dataclasses.replace(index, labels=(dataclasses.replace(first, **other), *others))
