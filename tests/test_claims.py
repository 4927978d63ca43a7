"""Two processes at one OUT: one works, the other is told who; slices share it; what all need is made once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pictures import jpegs, write_folder, write_tar

from facegan.errors import DiskFullError, FaceganError
from shards.make import claims
from shards.make.claims import made_once
from shards.make.closing import close_set
from shards.make.tarfiles import recognise
from shards.make.writer import Options, preprocess
from shards.read.verify import verify_set

HOLD = """
import sys, time
from pathlib import Path
from shards.make.claims import claimed
with claimed(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3]))):
    print("mine", flush=True)
    time.sleep(600)
"""


def hold(out: Path, index: int, count: int) -> "subprocess.Popen[bytes]":
    """Another process that owns a slice of OUT."""
    command = [sys.executable, "-c", HOLD, str(out), str(index), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    assert process.stdout is not None
    assert process.stdout.readline() == b"mine\n"
    return process


def test_a_slice_at_work_refuses_all_that_overlap_and_the_closing_until_it_is_gone(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "s", jpegs(8))
    out = tmp_path / "out"
    process = hold(out, 0, 2)
    try:
        for part in ((0, 2), (0, 1), (0, 4), (1, 4), (1, 3)):
            with pytest.raises(
                FaceganError, match=rf"out belongs to a live job: process {process.pid} on .*choose another OUT"
            ):
                preprocess(Options(source, out, slice=part, shard_size=2))
        preprocess(Options(source, out, slice=(1, 2), shard_size=2))
        with pytest.raises(FaceganError, match="live job"):
            close_set(out)
        with pytest.raises(FaceganError, match="live job"):
            close_set(out / "64")
    finally:
        process.kill()
        process.communicate()
    preprocess(Options(source, out, slice=(0, 2), shard_size=2))
    close_set(out)
    assert not verify_set(out / "64")
    assert sorted(path.name for path in out.iterdir()) == ["64"]


def test_a_paused_run_keeps_its_shards_and_ends_well(tmp_path: Path) -> None:
    """The second comes while the first is stopped in the middle of a shard."""
    files = {f"{i}-{name[-10:]}": data for name, data in jpegs(20).items() for i in range(20)}
    source = write_folder(tmp_path / "s", files)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs", "preprocess", str(source), str(out), "--workers", "1"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    while first.poll() is None and not list(out.glob("64/.train*.part")):
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGSTOP)
    second = subprocess.run(command, capture_output=True, text=True, timeout=100)
    os.killpg(first.pid, signal.SIGCONT)
    assert second.returncode == 1
    assert f"live job: process {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.wait(100) == 0
    assert not verify_set(out / "64")


def test_a_packed_tar_is_unpacked_once_for_all_that_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PAUSE", 0.01)
    source = write_tar(tmp_path / "x.tar.gz", jpegs(3), "w:gz")
    out = tmp_path / "out"
    out.mkdir()
    target = recognise(source, out)[1]
    target.rename(tmp_path / "known")
    (out / f".{target.name}.0123.part").write_bytes(b"what a killed process left")
    process = hold(out, 0, 1)
    (out / ".slice-0-of-1.json").rename(out / f"{target.name}.owner.json")  # as if it were unpacking
    found: list[Path] = []
    waiting = [threading.Thread(target=lambda: found.append(recognise(source, out)[1])) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(0.3)
    assert not found
    process.kill()
    process.communicate()
    for thread in waiting:
        thread.join(30)
    assert found == [target] * 3
    assert target.read_bytes() == (tmp_path / "known").read_bytes()
    assert not list(out.glob("*.part"))


def test_who_waits_for_another_machine_goes_on_when_the_file_is_there(tmp_path: Path) -> None:
    """Nothing is known of its owner but the heartbeat: several look at it, and none keeps the others from it."""
    target = tmp_path / "made"
    record = {"token": "other", "host": "elsewhere", "kernel": "another boot", "pid": 1}
    (tmp_path / "made.owner.json").write_text(json.dumps(record))
    waiting = [threading.Thread(target=made_once, args=(target, target.touch), daemon=True) for _ in range(3)]
    for thread in waiting:
        thread.start()
    time.sleep(0.3)
    assert not target.exists()
    target.touch()
    for thread in waiting:
        thread.join(3)
    assert not any(thread.is_alive() for thread in waiting)


def test_a_plan_that_came_to_nothing_gives_way_and_one_with_samples_does_not(tmp_path: Path) -> None:
    small = write_folder(tmp_path / "s", jpegs(2))
    with pytest.raises(FaceganError, match=r"smaller than the crop of 300 pixels: run again with --crop none"):
        preprocess(Options(small, tmp_path / "out", crop="300"))
    made = preprocess(Options(small, tmp_path / "out", crop="none"))
    assert next(iter(made.indices.values())).splits["train"].samples == 2
    with pytest.raises(FaceganError, match=r"begun with other options.*rm -r .*64"):
        preprocess(Options(small, tmp_path / "out", crop="300"))


def test_a_disk_too_full_to_claim_what_all_need_is_an_error_and_no_reason_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise DiskFullError("no space")

    monkeypatch.setattr(claims, "_claim", full)
    monkeypatch.setattr(claims, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(DiskFullError):
        made_once(tmp_path / "list", lambda: None)
