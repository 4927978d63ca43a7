"""The bench of listings, `bench/listing.py`, small: every source can be made, listed, killed and gone on with."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import listing


def test_each_source_of_the_bench_is_made_up_listed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")  # so that it is put back
    lines = list(listing.measure_all(tmp_path, 1000, ["tree", "celeba", "list", "bucket", "tars"]))
    again = "- killed at 60 % of these seconds, the same command again"
    assert [(line.row[0], line.names) for line in lines] == [
        ("a process that has imported what the others do", 0),
        ("a folder a picture", 100),
        ("- another slice asks for its own 101 folders", 100),
        ("- closing asks for all", 100),
        *[("a zip and CelebA's annotation files", 1000), (again, 1000)],
        *[("a list of addresses with 40 attributes", 1000), (again, 1000)],
        *[("a bucket, page by page", 1000), (again, 1000)],
        *[(f"`facegan shards index DIR{words}`", n) for words, n in ((" --slice 0/2", 50), (" --slice 1/2", 50))],
        ("`facegan shards index DIR`", 100),
    ]
    assert all(line.row[2] > 0 and 0 < line.row[3] < line.row[4] for line in lines)
    assert not list(tmp_path.iterdir())
    assert {listing.words(line).count("|") for line in lines} == {listing.HEAD.splitlines()[0].count("|")}
