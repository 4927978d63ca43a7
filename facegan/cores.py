"""How many processor cores this process may use: of the machine, of its container, as the user wants."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that the scheduler gives this process, no more than its container's CPU quota pays for; at least 1."""
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), cpu_quota())))


def usual_threads() -> int:
    """The cores above, or fewer where OMP_NUM_THREADS asks for that."""
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(usable_cores(), int(threads)) if threads.isdecimal() and int(threads) else usable_cores()


def cpu_quota(process: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS) -> float:
    """Cores' worth of time that the control groups of a process allow, from its own up to the root; else infinity.

    Version 2: `cpu.max` holds "200000 100000" or "max 100000", microseconds of each period. Version 1: two files.
    """
    allowed = math.inf
    for line in _read(process).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        tree = root / "cpu" if controllers else root
        here = tree / path.lstrip("/")
        for folder in (here, *here.parents):
            if folder.is_relative_to(tree):
                allowed = min(allowed, _quota_of(folder))
    return allowed


def _quota_of(folder: Path) -> float:
    older = (folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
    fields = (_read(folder / "cpu.max") or " ".join(map(_read, older))).split()
    if len(fields) != 2 or not all(field.isdecimal() for field in fields) or not int(fields[1]):
        return math.inf
    return int(fields[0]) / int(fields[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
