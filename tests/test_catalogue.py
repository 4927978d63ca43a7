"""A source is listed once for all slices of a preprocess, kept as NumPy rows, and each slice reads its own part."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from shard_sets import pictures as random_pictures

from jobs.shards import command
from shards.errors import ShardError
from shards.make import catalogue, claims, folders, survey
from shards.make.annotations import annotate
from shards.make.catalogue import pictures, read_catalogue, write_catalogue
from shards.make.claims import claimed
from shards.make.closing import close_set
from shards.make.listing import Listing
from shards.make.sources import list_source
from shards.make.writer import Options, preprocess


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures of three people, in folders as LFW has them, with one name that is not UTF-8."""
    for number, image in enumerate(random_pictures(9, 10, 10)):
        folder = tmp_path / "faces" / ("Ada", "Bo", "Cy")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{folder.name}_{number // 3 + 1:04d}.png")
    return tmp_path / "faces"


@pytest.mark.parametrize("rows", [2, 1000])
def test_any_range_of_a_split_comes_back_as_it_was_listed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(catalogue, "BLOCK_ROWS", rows)
    listing = list_source(source, tmp_path)
    known = annotate(listing, source, None, holdout=4)
    write_catalogue(tmp_path / "kept.json", listing, known)
    whole = read_catalogue(tmp_path / "kept.json")
    assert (len(whole), whole.counts, len(whole.blocks)) == (9, {"train": 5, "val": 4}, -(-9 // rows))
    for number, split in enumerate(("train", "val")):
        places = np.flatnonzero(known.splits == number)
        for start in range(len(places)):
            for stop in range(start + 1, len(places) + 1):
                found, chosen = pictures(tmp_path / "kept.json", whole, split, start, stop), places[start:stop]
                assert found.names == [listing.names[i] for i in chosen]
                assert found.keys == [Path(name).stem for name in found.names]
                assert found.annotations.identities == [name[: name.index("/")] for name in found.names]
                assert (found.places == listing.places[chosen]).all()


def make(source: Path, out: Path, part: tuple[int, int]) -> None:
    preprocess(Options(source, out, ((8, 8),), crop="none", slice=part, shard_size=2, holdout=3))


def test_slices_list_the_source_once_and_closing_removes_what_they_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    monkeypatch.setattr(survey, "list_source", lambda *given: listed.append(given) or list_source(*given))
    for part in (2, 0, 1):
        make(source, tmp_path / "out", (part, 3))
    assert len(listed) == 1
    assert [path.suffix for path in sorted((tmp_path / "out").glob(".listing-*"))] == ["", ".json"]
    close_set(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["8"]
    make(source, tmp_path / "whole", (0, 1))
    assert [path.name for path in (tmp_path / "whole").iterdir()] == ["8"]
    for file in (tmp_path / "whole" / "8").glob("*.tar"):
        assert file.read_bytes() == (tmp_path / "out" / "8" / file.name).read_bytes()


def test_a_killed_listing_is_made_anew_and_a_damaged_one_is_named(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", (0, 2))
    (kept,) = (tmp_path / "out").glob(".listing-*.json")
    kept.unlink()  # as where the first process was killed before the end
    (kept.with_suffix("") / "00000.npy").write_bytes(b"half")
    make(source, tmp_path / "out", (0, 2))
    (kept.with_suffix("") / "00000.npy").write_bytes(b"damaged")
    catalogue._block.cache_clear()
    with pytest.raises(ShardError, match=r"00000\.npy: missing or damaged: remove"):
        make(source, tmp_path / "out", (1, 2))
    for damaged in ("{}", "null", "[1]"):
        kept.write_text(damaged)
        with pytest.raises(ShardError, match=r"\.json: damaged .*remove it"):
            make(source, tmp_path / "out", (1, 2))


@pytest.mark.parametrize("damage", ["none", "block", "journal", "pictures"])
def test_blocks_that_a_killed_process_wrote_are_kept_where_they_are_whole_and_of_the_same_pictures(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(catalogue, "BLOCK_ROWS", 2)
    listing = list_source(source, tmp_path)
    known = annotate(listing, source, None, holdout=4)
    write_catalogue(tmp_path / "whole.json", listing, known)
    written: list[Path] = []

    def write(path: Path, rows: catalogue.Rows) -> tuple[int, str]:
        written.append(path)
        if len(written) == 4:
            raise KeyboardInterrupt
        return write_block(path, rows)

    write_block = catalogue._write_block
    monkeypatch.setattr(catalogue, "_write_block", write)
    with pytest.raises(KeyboardInterrupt):
        write_catalogue(tmp_path / "kept.json", listing, known)
    if damage == "block":
        (tmp_path / "kept" / "00001.npy").write_bytes(b"damaged")
    if damage == "journal":
        (tmp_path / "kept" / "blocks.jsonl").write_text("[]\n")
    if damage == "pictures":
        (tmp_path / "kept" / "blocks.jsonl").write_text('{"listing": "another"}\n')
    written[:] = [Path()] * 4
    write_catalogue(tmp_path / "kept.json", listing, known)
    assert [path.name for path in written[4:]] == [f"{i:05d}.npy" for i in range(3 if damage == "none" else 0, 5)]
    assert (tmp_path / "kept.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    for block in (tmp_path / "whole").iterdir():
        assert block.read_bytes() == (tmp_path / "kept" / block.name).read_bytes()


def test_two_may_close_a_set_at_once(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in (0, 1):
        make(source, tmp_path / "out", (index, 2))
    real = Path.glob

    def glob(folder: Path, pattern: str) -> list[Path]:
        found = list(real(folder, pattern))
        if pattern == ".listing-*":  # the other one is faster
            monkeypatch.setattr(Path, "glob", real)
            close_set(tmp_path / "out")
        return found

    monkeypatch.setattr(Path, "glob", glob)
    (index_of,) = close_set(tmp_path / "out").values()
    assert index_of.source is not None
    assert index_of.source.samples == 9


def test_closing_takes_no_slice(source: Path, tmp_path: Path) -> None:
    for index in (0, 1):
        make(source, tmp_path / "out", (index, 2))
    said = CliRunner().invoke(command, ["index", str(tmp_path / "out"), "--slice", "0/4"])
    assert said.exit_code == 2
    assert "closed as a whole" in said.output
    assert not (tmp_path / "out" / "8" / "index.json").exists()


def read_by(source: Path, out: Path, part: tuple[int, int]) -> set[str]:
    """The folders that a slice's pictures lie in."""
    with survey.survey(Options(source, out, ((8, 8),), "none", slice=part, shard_size=2, holdout=3)) as found:
        plans = {out: found.plan((8, 8))}
        names = [name for task in found.tasks(found.todo(plans), plans) for name in task.pictures.names]
        return {name.rpartition("/")[0] for name in names}


def test_pictures_that_came_deep_in_the_source_are_seen(source: Path, tmp_path: Path) -> None:
    """Refused where shards of fewer exist; a folder that has other times and the same pictures is not."""
    assert "Ada" in read_by(source, tmp_path / "looked", (0, 2))
    first = sorted((source / "Ada").iterdir())[0]
    make(source, tmp_path / "out", (0, 2))
    (source / "Ada" / "thumbs.txt").write_text("no picture")
    make(source, tmp_path / "out", (0, 2))
    make(source, tmp_path / "out", (1, 2))
    shutil.copy(first, source / "Ada" / "more.png")
    for _ in range(2):
        with pytest.raises(ShardError, match=r"begun with other options or another source \(pictures: 9 there, 10"):
            make(source, tmp_path / "out", (0, 2))
    shutil.rmtree(tmp_path / "out" / "8")
    for index in (0, 1):
        make(source, tmp_path / "out", (index, 2))
    (whole,) = close_set(tmp_path / "out").values()
    assert whole.source is not None
    assert whole.source.samples == 10


def test_a_source_whose_folders_changed_is_listed_again_once_for_all_slices(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(source, tmp_path / "out", ((8, 8),), "none", shard_size=3)
    parts = [dataclasses.replace(options, slice=(part, 3)) for part in range(3)]
    preprocess(parts[0])
    listed = []
    monkeypatch.setattr(survey, "list_source", lambda *given: listed.append(given) or list_source(*given))
    for folder in source.iterdir():
        (folder / "thumbs.txt").write_text("no picture")
    for part in parts:
        preprocess(part)
    assert len(listed) == 1
    assert [path.name[-6:] for path in sorted((tmp_path / "out").glob(".listing-*.json"))] == ["0.json", "1.json"]
    assert len(close_set(tmp_path / "out")) == 1


@pytest.mark.parametrize("where", ["Ada", "Bo/deeper", "."])
def test_pictures_that_came_after_the_slices_are_seen_at_closing(source: Path, tmp_path: Path, where: str) -> None:
    for index in (0, 1):
        make(source, tmp_path / "out", (index, 2))
    (source / where).mkdir(exist_ok=True)
    shutil.copy(source / "Cy" / "Cy_0001.png", source / where / "more.png")
    with pytest.raises(ShardError, match=r"has other pictures than when its shards were made \(10 now, 9 then\)"):
        close_set(tmp_path / "out")
    assert not (tmp_path / "out" / "8" / "index.json").exists()
    (source / where / "more.png").unlink()
    (whole,) = close_set(tmp_path / "out").values()
    assert whole.source is not None
    assert whole.source.samples == 9


def test_pictures_that_came_while_one_run_made_the_whole_set_are_seen_at_its_end(
    source: Path, tmp_path: Path
) -> None:
    options = Options(source, tmp_path / "out", ((8, 8), (6, 6)), "none", shard_size=3)
    came = source / "Bo" / "more.png"

    def bring(*_: int) -> None:
        shutil.copy(source / "Cy" / "Cy_0001.png", came)

    with pytest.raises(ShardError, match=r"other pictures .*\(10 now, 9 then\).* run the same command again"):
        preprocess(options, bring)
    assert not list((tmp_path / "out").glob("*/index.json"))
    came.unlink()
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.tar")}
    assert {whole.source.samples for whole in preprocess(options).indices.values() if whole.source} == {9}
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.tar")}


def test_a_source_that_is_gone_when_its_slices_are_closed_is_taken_as_it_was(source: Path, tmp_path: Path) -> None:
    for index in (0, 1):
        make(source, tmp_path / "out", (index, 2))
    shutil.rmtree(source)
    (whole,) = close_set(tmp_path / "out").values()
    assert whole.splits["train"].samples == 6


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_slice_asks_for_the_folders_of_its_own_pictures_and_closing_for_all(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    (source / "Di" / "empty").mkdir(parents=True)
    monkeypatch.setattr(folders, "BLOCK_ROWS", rows)
    options = Options(source, tmp_path / "out", ((8, 8),), "none", shard_size=3)
    made = {part: dataclasses.replace(options, slice=(part, 3)) for part in range(3)}
    preprocess(made[0])
    asked: list[str] = []
    real = folders._time_of
    monkeypatch.setattr(folders, "_time_of", lambda name: asked.append(Path(os.fsdecode(name)).name) or real(name))
    for part, own in enumerate(("Ada", "Bo", "Cy")):
        asked.clear()
        preprocess(made[part])
        assert asked == [own]
    asked.clear()
    close_set(tmp_path / "out")
    assert asked == ["faces", "Ada", "Bo", "Cy", "Di", "empty"]


def test_folders_are_kept_in_blocks_and_damage_of_one_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "Ada" / "\udcff").mkdir()
    monkeypatch.setattr(folders, "BLOCK_ROWS", 3)
    names, times = list_source(source, tmp_path).folders
    blocks = folders.write_folders(tmp_path / "kept", names, times)
    wanted = {b"", b"Ada/", b"Ada/\xff/", b"Bo/", b"Cy/"}
    assert [first for first, _ in blocks] == ["", "Bo/"]
    for some in (wanted, {b"Bo/"}, {b"Cy/"}, {b"A/"}, {b"Z/"}, set()):
        found = dict(folders.some_folders(tmp_path / "kept", blocks, some))
        assert found == {name: (source / os.fsdecode(name)).stat().st_mtime_ns for name in some & wanted}
    assert set(dict(folders.all_folders(tmp_path / "kept", blocks))) == wanted
    assert folders.above([b"a/b/c.png", b"a/d.png", b"e.png"]) == {b"a/", b"a/b/"}
    (tmp_path / "kept" / "folders-00001.npy").write_bytes(b"damaged")
    folders._times.cache_clear()
    with pytest.raises(ShardError, match=r"folders-00001\.npy: missing or damaged: remove"):
        list(folders.all_folders(tmp_path / "kept", blocks))


def test_a_source_that_never_stays_as_it_is_is_said(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(*given: Any) -> Listing:
        listing = list_source(*given)
        (source / "Ada" / f"{len(listing)}.png").write_bytes(b"another")
        os.utime(source / "Ada", ns=(len(listing), len(listing)))  # clocks may tick slowly
        return listing

    monkeypatch.setattr(survey, "list_source", listed)
    with pytest.raises(ShardError, match="changes while it is listed"):
        make(source, tmp_path / "out", (0, 2))


def test_annotations_in_the_source_that_changed_are_seen(source: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in source.glob("*/*"))
    table = source / "Ada" / "list_eval_partition.txt"
    table.write_text("".join(f"{name} 0\n" for name in names))
    options = Options(source, tmp_path / "out", ((8, 8),), "none", slice=(0, 2), shard_size=5)
    preprocess(options)
    table.write_text("".join(f"{name} 1\n" for name in names))
    with pytest.raises(ShardError, match="another source"):
        preprocess(dataclasses.replace(options, slice=(1, 2)))


@pytest.mark.parametrize("inside", [".", "Ada"])
def test_an_out_in_the_source_is_no_change_of_it(source: Path, inside: str) -> None:
    for index in (0, 1):
        make(source, source / inside / "out", (index, 2))
    (whole,) = close_set(source / inside / "out").values()
    assert whole.source is not None
    assert whole.source.samples == 9


def test_a_packed_tar_is_unpacked_again_where_its_plain_one_was_cleaned_away(source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "faces.tar.gz", "w:gz") as packed:
        packed.add(source, "faces")
    make(tmp_path / "faces.tar.gz", tmp_path / "out", (0, 2))
    (plain,) = (tmp_path / "out").glob(".source-*.tar")
    plain.unlink()
    make(tmp_path / "faces.tar.gz", tmp_path / "out", (1, 2))
    (whole,) = close_set(tmp_path / "out").values()
    assert sum(split.samples for split in whole.splits.values()) == 9


def test_what_a_killed_closer_left_goes_with_the_next_run(source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "faces.tar.gz", "w:gz") as packed:
        packed.add(source, "faces")
    out = tmp_path / "out"
    make(tmp_path / "faces.tar.gz", out, (0, 1))
    (out / "8" / ".parts").mkdir()
    for left in ("8/.parts/train-00000.jsonl", ".source-0123.tar", ".listing-0123.json"):
        (out / left).write_text("left")
    with claimed(out, (0, 2)):
        make(tmp_path / "faces.tar.gz", out, (0, 1))
        assert (out / ".listing-0123.json").exists()
    make(tmp_path / "faces.tar.gz", out, (0, 1))
    assert [path.name for path in out.iterdir()] == ["8"]
    assert not (out / "8" / ".parts").exists()


def test_a_slice_of_a_closed_set_leaves_nothing(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", (0, 1))
    make(source, tmp_path / "out", (1, 2))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["8"]


def test_nothing_pickled_is_read(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", (0, 2))
    (kept,) = (tmp_path / "out").glob(".listing-*.json")
    block = kept.with_suffix("") / "00000.npy"
    np.save(block, np.array([{"a": 1}], object), allow_pickle=True)
    content = json.loads(kept.read_text())
    content["blocks"] = [[9, catalogue.sha256_file(block)]]
    kept.write_text(json.dumps(content))
    with pytest.raises(ShardError, match="remove"):
        make(source, tmp_path / "out", (1, 2))


OWNS_THE_LISTING = """
import sys, time; from pathlib import Path; from facegan.owner import Owner
Owner(Path(sys.argv[1]), "").claim(print)
print("owned", flush=True); time.sleep(600)
"""


def test_a_slice_waits_for_the_process_that_lists_and_goes_on_where_it_is_killed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(source, tmp_path / "out", ((8, 8),), "none", slice=(0, 2), shard_size=5)
    file = survey.catalogue_file(options)
    words = [sys.executable, "-c", OWNS_THE_LISTING, str(file.with_name(f"{file.name}.owner.json"))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "owned\n"
        said: list[str] = []

        def warn(message: str, *rest: object) -> None:
            said.append(message % rest if rest else message)
            first.kill()

        monkeypatch.setattr(claims.log, "warning", warn)
        preprocess(options)
    assert said[0].startswith(f"waiting for {file.name}: ")
    preprocess(dataclasses.replace(options, slice=(1, 2)))
    (index,) = close_set(tmp_path / "out").values()
    assert index.splits["train"].samples == 9
