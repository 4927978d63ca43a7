"""The drill of `bench/drill.py`, small: the real commands on a set of sparse files and made-up summaries."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import drill
from drill import SAMPLES

import shards


def test_a_made_up_set_is_closed_checked_opened_on_all_ranks_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "WORLD", 16)
    monkeypatch.setattr(drill, "BATCH", 64)
    monkeypatch.setattr(drill, "CHECKED", 10)
    rows = drill.drill(tmp_path / "drill" / "64", 1100, 16, names=2000)
    assert [row[0].split(",")[0] for row in rows] == [
        "`facegan shards index DIR`",
        "`facegan shards info DIR`",
        "`facegan shards verify DIR --slice 7/110`",
        "the index",
        "open and first batch",
        "1",
        "resume after three epochs",
        "20 batches of 4",
        "open through a stage of 4 GB and first batch",
        "open through a stage of 4 GB and first batch",
        "labels opened",
        "those of 1",
        "`--where` with one condition",
        "a source of 2",
        "a slice's own 1",
    ]
    assert all(clock > 0 and peak > 0 for _, clock, _, _, peak in rows)
    index = shards.load_index(tmp_path / "drill" / "64")
    assert (len(index.shards), len(index.tables), len(index.labels)) == (1100, 2, 2)
    assert index.splits["train"].samples == 1100 * SAMPLES
