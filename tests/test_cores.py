"""How many cores are used: what the scheduler gives, the container pays for and the user asks."""

import math
import os
from pathlib import Path

import pytest

from facegan import cores


def group(root: Path, path: str, **files: str) -> None:
    (root / path).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / path / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("own", "above", "expected"),
    [
        ("max 100000\n", "max 100000\n", math.inf),
        ("250000 100000\n", "max 100000\n", 2.5),
        ("max 100000\n", "50000 100000\n", 0.5),
        ("800000 100000\n", "400000 100000\n", 4),
        ("nonsense\n", "0 0\n", math.inf),
    ],
)
def test_the_smallest_quota_up_to_the_root_counts(tmp_path: Path, own: str, above: str, expected: float) -> None:
    (tmp_path / "process").write_text("0::/job/step\n")
    group(tmp_path / "cg", "job", cpu__max=above)
    group(tmp_path / "cg", "job/step", cpu__max=own)
    assert cores.cpu_quota(tmp_path / "process", tmp_path / "cg") == expected


def test_quotas_of_older_kernels_count_too(tmp_path: Path) -> None:
    (tmp_path / "process").write_text("3:memory:/m\n2:cpu,cpuacct:/docker/x\n0::/\n")
    files = {"cpu__cfs_quota_us": "300000", "cpu__cfs_period_us": "100000"}
    group(tmp_path / "cg", "cpu/docker/x", **files)
    assert cores.cpu_quota(tmp_path / "process", tmp_path / "cg") == 3
    group(tmp_path / "cg", "cpu/docker/x", cpu__cfs_quota_us="-1")
    assert cores.cpu_quota(tmp_path / "process", tmp_path / "cg") == math.inf
    assert cores.cpu_quota(tmp_path / "nowhere", tmp_path / "cg") == math.inf


def test_openmps_variable_lowers_the_threads_but_does_not_raise_them(monkeypatch: pytest.MonkeyPatch) -> None:
    available = cores.usable_cores()
    assert 1 <= available <= len(os.sched_getaffinity(0))
    for text, expected in {
        "1": 1,
        "1,2": 1,
        "9999": available,
        "": available,
        "0": available,
        "x": available,
    }.items():
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert cores.usual_threads() == expected
