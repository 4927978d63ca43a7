"""Which commit of the project runs, where it runs from a git checkout."""

import functools
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("facegan", "shards", "jobs", "slurm")  # folders of a checkout that a run depends on
SECONDS = 30.0  # the longest that git may take on a slow file system


@functools.cache
def describe(root: Path = ROOT) -> dict[str, Any]:
    """The `commit` checked out in `root` and what of CODE has `changed` since, as lines of git's short status.

    Empty where `root` is no checkout of its own (an installed package, even one inside another project's
    checkout), and where git is missing, refuses or is too slow.
    """
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--", *CODE).splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "changed": changed}


def _git(root: Path, *arguments: str) -> str:
    # no locks: all ranks of a run may ask at once, beside a person who commits
    call = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(call, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
