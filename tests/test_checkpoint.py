"""Checkpoints and snapshots are whole or absent, name their damage, execute nothing, and outlast a full disk."""

import errno
import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import tiny_job, tiny_recipe

from facegan import recipes
from facegan.errors import DiskFullError, FaceganError
from facegan.run import checkpoint
from facegan.run.checkpoint import (
    DamagedError,
    checkpoint_folders,
    newest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    set_damaged_aside,
    write_checkpoint,
)
from facegan.run.snapshot import load_snapshot
from facegan.train import loop
from facegan.train.job import Job
from facegan.train.loop import train

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros((), dtype=torch.int64)}


def write(root: Path, nimg: int) -> Path:
    return write_checkpoint(root, nimg, TENSORS, {"config": {}, "seconds": 1.0})


def test_what_is_written_is_read(tmp_path):
    found = read_checkpoint(write(tmp_path, 64))
    assert (found.nimg, found.meta["seconds"]) == (64, 1.0)
    assert all(torch.equal(found.tensors[name], value) for name, value in TENSORS.items())


def test_the_newest_whole_one_is_found_and_a_damaged_one_named_and_kept(tmp_path):
    for nimg in (64, 128, 256):
        write(tmp_path, nimg)
    damaged = tmp_path / "nimg-000000000256"
    content = bytearray((damaged / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "state.safetensors").write_bytes(content)
    said: list[str] = []
    found = newest_checkpoint(tmp_path, said.append)
    assert found is not None and found.nimg == 128
    assert str(damaged) in said[0] and damaged.exists()  # whoever only looks leaves it to the run's owner
    set_damaged_aside(found, said.append)
    assert not damaged.exists()
    (aside,) = tmp_path.glob(f"{damaged.name}.damaged-*")
    assert str(aside) in said[1] and (aside / "state.safetensors").read_bytes() == bytes(content)


def spoil(checkpoint: Path) -> None:
    (checkpoint / "state.safetensors").write_bytes(b"spoiled")


def test_what_was_good_is_never_deleted_in_favour_of_what_is_damaged(tmp_path):
    """With the two newest damaged, the one gone on from and the one written next both stay, and the next start
    goes on from there."""
    job = partial(tiny_job, tiny_recipe("mlp-64", kimg=0.024), tmp_path, checkpoint_kimg=0.006, keep_checkpoints=3)
    train(job())
    first, *newer = sorted((tmp_path / "checkpoints").iterdir())
    for path in newer:
        spoil(path)
    requests = tmp_path / "stop"
    stopped = train(Job(**{**vars(job()), "progress": lambda nimg, *_: requests.touch() if nimg > 12 else None}))
    assert stopped.state == "stopped"
    found = newest_checkpoint(tmp_path / "checkpoints", lambda said: pytest.fail(said))
    assert found is not None and found.nimg == stopped.nimg
    assert first in checkpoint_folders(tmp_path / "checkpoints")


def test_where_all_checkpoints_are_damaged_the_run_stops_and_says_so(tmp_path):
    train(tiny_job(tiny_recipe("mlp-64", kimg=0.024), tmp_path))
    for path in (tmp_path / "checkpoints").iterdir():
        spoil(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FaceganError, match=r"none of its 1 checkpoints is whole.*--run-dir"):
        train(tiny_job(tiny_recipe("mlp-64", kimg=0.048), tmp_path))
    assert set(before) <= set(tmp_path.rglob("*"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_read_error_that_passes_is_no_damage(number, tmp_path, monkeypatch):
    for nimg in (64, 128):
        write(tmp_path, nimg)
    monkeypatch.setattr(checkpoint, "PAUSE", 0.0)
    real, failures = Path.read_bytes, [1, 1]

    def read_bytes(path: Path) -> bytes:
        if failures and path.parent.name == "nimg-000000000128":
            failures.pop()
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    found = newest_checkpoint(tmp_path, lambda said: pytest.fail(said))
    assert found is not None and found.nimg == 128
    failures[:] = [1] * 100
    with pytest.raises(FaceganError, match=r"nimg-000000000128 cannot be read .*run the same command again"):
        newest_checkpoint(tmp_path, lambda said: pytest.fail(said))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["state.safetensors", "checkpoint.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "list", "binary"])
def test_any_damage_ends_in_the_clear_error(name, damage, tmp_path):
    path = write(tmp_path, 64) / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "short": content[:-7], "list": b"[1]", "binary": b"\xff\0" * 9}[damage])
    with pytest.raises(DamagedError, match="nimg-000000000064"):
        read_checkpoint(path.parent)


def test_only_the_newest_and_the_milestones_stay(tmp_path):
    for nimg in range(64, 64 * 6, 64):
        write(tmp_path, nimg)
    (tmp_path / ".nimg-000000000999.part").mkdir()
    prune_checkpoints(tmp_path, 2, lambda nimg: nimg == 64)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"nimg-{n:012d}" for n in (64, 256, 320)]


def test_a_write_that_fails_midway_leaves_nothing_under_a_final_name(tmp_path, monkeypatch):
    write(tmp_path, 64)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(DiskFullError, match="no space left"):
        write(tmp_path, 128)
    assert [p.name for p in tmp_path.iterdir()] == ["nimg-000000000064"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system to fill needs root to be mounted")
def test_a_really_full_disk_keeps_the_last_checkpoint_and_ends_with_74(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mount.stderr.decode().strip()}")
    try:
        train(tiny_job(tiny_recipe("dcgan-64", kimg=0.012), disk / "run"))
        (disk / "ballast").write_bytes(bytes(2**23 - 2**17 - used(disk)))
        with pytest.raises(DiskFullError):
            train(tiny_job(tiny_recipe("dcgan-64", kimg=0.06), disk / "run"))
        found = newest_checkpoint(disk / "run" / "checkpoints", lambda _: None)
        assert found is not None and found.nimg == 12
        (disk / "ballast").unlink()
        assert train(tiny_job(tiny_recipe("dcgan-64", kimg=0.06), disk / "run")).state == "finished"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def used(folder: Path) -> int:
    return sum(-(-p.stat().st_size // 4096) * 4096 for p in folder.rglob("*"))


def test_a_full_disk_stops_the_run_cleanly(tmp_path, monkeypatch):
    real_write, calls = loop.write_checkpoint, []

    def fill_up(*arguments: object) -> Path:
        calls.append(1)
        if len(calls) > 1:
            raise DiskFullError("no space left")
        return real_write(*arguments)

    monkeypatch.setattr(loop, "write_checkpoint", fill_up)
    with pytest.raises(DiskFullError):
        train(tiny_job(tiny_recipe("mlp-64"), tmp_path, checkpoint_kimg=0.024))
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["state"] == "failed" and "no space left" in outcome["reason"]
    assert newest_checkpoint(tmp_path / "checkpoints", lambda _: None).nimg == 24


def test_a_snapshot_is_all_that_sampling_needs(tmp_path):
    train(tiny_job(tiny_recipe("dcgan-64"), tmp_path / "run"))
    (snapshot,) = (tmp_path / "run" / "snapshots").iterdir()
    alone = snapshot.rename(tmp_path / "passed-on")
    found = load_snapshot(alone)
    assert (found.recipe.name, found.nimg, found.generator.training) == ("dcgan-64", 60, False)
    assert found.generator(torch.zeros(2, 100)).shape == (2, 3, 16, 16)
    assert sorted(p.name for p in alone.iterdir()) == ["generator.safetensors", "snapshot.json"]


def test_a_snapshot_from_before_a_technique_is_read_without_it(tmp_path):
    train(tiny_job(tiny_recipe("face-64", self_modulation=False), tmp_path))
    (folder,) = (tmp_path / "snapshots").iterdir()
    meta = json.loads((folder / "snapshot.json").read_text())
    del meta["values"]["self_modulation"]
    (folder / "snapshot.json").write_text(json.dumps(meta))
    assert recipes.load("face-64").self_modulation and not load_snapshot(folder).recipe.self_modulation


@pytest.mark.parametrize("damage", ["weights", "format", "recipe", "values", "missing"])
def test_a_damaged_snapshot_is_refused_in_words(damage, tmp_path):
    train(tiny_job(tiny_recipe("mlp-64"), tmp_path))
    (folder,) = (tmp_path / "snapshots").iterdir()
    meta = json.loads((folder / "snapshot.json").read_text())
    if damage == "weights":
        (folder / "generator.safetensors").write_bytes(pickle.dumps({"x": print}))
    changes = {"format": {"format": "pickle"}, "recipe": {"recipe": "no-such"}, "values": {"values": {"ngf": "a"}}}
    (folder / "snapshot.json").write_text(json.dumps(meta | changes.get(damage, {})))
    with pytest.raises(FaceganError):
        load_snapshot(tmp_path / "nowhere" if damage == "missing" else folder)


def test_loading_executes_nothing(tmp_path):
    """The modules that read runs import no unpickler's entry points and call no torch.load."""
    code = (
        "import sys, pickle, torch\n"
        "def refuse(*a, **k): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = torch.load = refuse\n"
        "from pathlib import Path\n"
        "from facegan.run.snapshot import load_snapshot\n"
        "from facegan.run.checkpoint import newest_checkpoint\n"
        "load_snapshot(Path(sys.argv[1])); assert newest_checkpoint(Path(sys.argv[1]) / 'checkpoints', print)\n"
    )
    train(tiny_job(tiny_recipe("mlp-64"), tmp_path))
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
