"""Names are sorted in runs on a disk as they would be in memory."""

import errno
from pathlib import Path

import numpy as np
import pytest

from shards.make import catalogue, listing, sorting
from shards.make.annotations import annotate
from shards.make.catalogue import write_catalogue
from shards.make.collecting import collect
from shards.make.listing import Place
from shards.make.sorting import Distinct, name_bytes


def entries(count: int, seed: int = 0) -> list[tuple[str, Place]]:
    """Names of any letters and lengths, some of which come twice, some that are not UTF-8."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abé-\udcff"), rng.integers(0, 6))) for _ in range(count)]
    return [(f"n{word}.png", Place(number, 1, 2, 3, 4)) for number, word in enumerate(words)]


@pytest.mark.parametrize(
    ("rows", "size", "chunk"), [(7, 10**6, 3), (10**6, 40, 1), (100, 10**6, 1000), (300, 9, 2)]
)
def test_any_runs_give_the_order_that_memory_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, size: int, chunk: int
) -> None:
    given = entries(300)
    wanted = sorted(given, key=lambda entry: name_bytes(entry[0]))  # stable, as equal names keep their order
    monkeypatch.setattr(sorting, "RUN_ROWS", rows)
    monkeypatch.setattr(sorting, "RUN_BYTES", size)
    monkeypatch.setattr(sorting, "CHUNK", chunk)
    found = collect("zip", tmp_path, given, tmp_path / "out")
    assert isinstance(found.names, sorting.Names)
    assert [*found.names] == [name for name, _ in wanted]
    assert [found.names[i] for i in range(300)] == [*found.names]
    assert found.names[3:9:2] == [*found.names][3:9:2]
    assert found.places.tolist() == [tuple(place) for _, place in wanted]
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_catalogue_is_the_same_whether_memory_or_a_disk_sorted_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [(f"Person_{n % 7}/Person_{n % 7}_{n:04d}.jpg", Place(n, 1, n)) for n in range(200)][::-1]
    monkeypatch.setattr(catalogue, "BLOCK_ROWS", 64)
    for name, rows in {"memory": 1000, "disk": 30}.items():
        monkeypatch.setattr(sorting, "RUN_ROWS", rows)
        monkeypatch.setattr(listing, "BLOCK", rows)
        found = collect("zip", tmp_path / "faces.zip", given, tmp_path / "out")
        write_catalogue(tmp_path / f"{name}.json", found, annotate(found, tmp_path / "faces.zip", None, holdout=9))
    assert (tmp_path / "memory.json").read_bytes() == (tmp_path / "disk.json").read_bytes()
    for block in (tmp_path / "memory").iterdir():
        assert block.read_bytes() == (tmp_path / "disk" / block.name).read_bytes()


def test_numbers_that_come_twice_are_found_wherever_they_are(tmp_path: Path) -> None:
    numbers = np.random.default_rng(1).integers(0, 2**64, 1000, np.uint64)
    assert len(np.unique(numbers)) == 1000
    numbers[:2] = 0, 2**64 - 1
    for again in (None, *range(5)):
        distinct = Distinct(tmp_path)
        for start in range(0, 1000, 90):
            distinct.add(numbers[start : start + 90])
        if again is not None:
            distinct.add(numbers[again : again + 1])
        assert distinct.all() == (again is None)
        distinct.close()


def test_a_disk_without_room_for_a_large_column_is_an_error_and_kills_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sorting, "RUN_BYTES", 10)
    column = sorting.filled((3, 5), np.int16, -7, tmp_path)
    assert isinstance(column, np.memmap) and column.tolist() == [[-7] * 5] * 3
    monkeypatch.setattr("os.posix_fallocate", full)  # a file of holes would be a bus error when it is written to
    with pytest.raises(OSError, match="No space left"):
        sorting.filled((3, 5), np.int16, -7, tmp_path)
