"""The files of a run besides its checkpoints: configuration, stats, starts, outcome."""

import dataclasses
import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch

from facegan import __version__, recipes
from facegan.errors import FaceganError
from facegan.files import append_json_line, json_lines, read_object, sync, sync_folder, write_json, write_text
from facegan.owner import Owner
from facegan.recipes import Recipe
from facegan.run import checkout
from facegan.run.machine import Machine
from facegan.run.outcome import identity, now, read_outcome
from facegan.run.settings import FIXED_SETTINGS, LENGTH_FIELDS, RunSettings

log = logging.getLogger("facegan")


class RunFolder:
    """`run_dir` on the rank that writes: it alone claims and releases it, and asks whether it is still ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = Owner(path / "owner.json", "give another --run-dir")
        self.stats = path / "stats.jsonl"
        self.stop_files = [path / "stop"]  # anybody's; a batch script's own is for its job alone
        if job := os.environ.get("SLURM_JOB_ID"):
            self.stop_files.append(path / f"stop-{job}")
        self.checkpoints, self.snapshots, self.samples = path / "checkpoints", path / "snapshots", path / "samples"

    def begin(self, config: dict[str, Any], nimg: int, machine: Machine, previous: str) -> None:
        """Record this start; forget the last outcome, stop requests, stats after `nimg`, killed writers' files."""
        self.owner.check()
        for stale in (*self.path.glob(".*.part"), *self.samples.glob(".*.part")):
            stale.unlink(missing_ok=True)
        for stop_file in self.stop_files:
            stop_file.unlink(missing_ok=True)
        (self.path / "outcome.json").unlink(missing_ok=True)
        write_json(self.path / "config.json", config)
        self._drop_stats_after(nimg)
        append_json_line(self.path / "starts.jsonl", _start(nimg, machine, previous))

    def append_stats(self, row: dict[str, float]) -> None:
        """Add one line to stats.jsonl; it reaches the disk with the next checkpoint."""
        self.owner.check()
        append_json_line(self.stats, row)

    def sync_stats(self) -> None:
        """Make the stats written so far outlive a power loss."""
        if self.stats.exists():
            sync(self.stats)
            sync_folder(self.path)

    def best(self) -> dict[str, Any]:
        """The best measurement so far: metric, value, nimg; empty before the first one."""
        return read_object(self.path / "best.json")

    def improve(self, nimg: int, metric: str, value: float, *, higher: bool) -> bool:
        """Whether this value is the metric's best so far; it is then remembered."""
        best = self.best()
        has_earlier = best.get("metric") == metric and best.get("nimg", 0) < nimg
        if has_earlier and (value <= best["value"] if higher else value >= best["value"]):
            return False
        self.owner.check()
        write_json(self.path / "best.json", {"metric": metric, "value": value, "nimg": nimg})
        return True

    def previous_outcome(self) -> str:
        """How the last start ended, in words; a killed one left nothing."""
        if left := read_outcome(self.path):
            return f"{left['state']}: {left.get('reason', '')}"
        return "killed, or never ended" if (self.path / "starts.jsonl").exists() else ""

    def _drop_stats_after(self, nimg: int) -> None:
        if not self.stats.exists():
            return
        kept = []
        try:
            for row in json_lines(self.stats):
                if row["progress/nimg"] > nimg:
                    break
                kept.append(json.dumps(row) + "\n")
        except (FaceganError, KeyError, TypeError) as error:  # not synced before the power went
            log.warning("%s: the stats from there on are written anew", error)
        write_text(self.stats, "".join(kept))


def make_config(
    recipe: Recipe, settings: RunSettings, data: dict[str, Any], sources: dict[str, str]
) -> dict[str, Any]:
    """The resolved configuration: what config.json, W&B, checkpoints and snapshots hold."""
    return {
        "recipe": recipe.name,
        "values": recipes.to_values(recipe),
        "settings": dataclasses.asdict(settings),
        "data": data,
        "sources": sources,
        "software": _software(),
    }


def check_resume(stored: dict[str, Any], recipe: Recipe, settings: RunSettings, data: dict[str, Any]) -> None:
    """Refuse to go on with another configuration: raises FaceganError naming field, stored and given value."""
    given = _identity(recipe.name, recipes.to_values(recipe), dataclasses.asdict(settings), data)
    kept = _identity(stored["recipe"], recipes.stored(stored["values"]), stored["settings"], stored["data"])
    free = LENGTH_FIELDS if _length_is_free(recipe) else frozenset()
    changed = [name for name in given if name not in free and given[name] != kept.get(name)]
    if changed:
        lines = "".join(f"\n  {name}: stored {kept.get(name)!r}, given {given[name]!r}" for name in changed)
        raise FaceganError(
            f"{settings.run_dir} holds a run with another configuration:{lines}\n"
            f"Give the stored values to continue it, as --config {settings.run_dir}/config.json does, "
            "or another --run-dir to start a new run"
        )


def _software() -> dict[str, Any]:
    """Versions, and the commit where the code is a checkout; a resume may have others."""
    versions = {"facegan": __version__, "torch": str(torch.__version__), "python": sys.version.split()[0]}
    code = checkout.describe()
    return versions | ({"commit": code["commit"], "dirty": bool(code["changed"])} if code else {})


def _identity(name: str, values: dict[str, Any], settings: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """What a run is told by, from its configuration in JSON form: recipe, data, order, fixed settings, values.

    A setting that the run's version did not know yet has its default, which is what that version did.
    """
    identity = {"recipe": name, "data": data.get("fingerprint"), "order": data.get("order")}
    return identity | {field: settings.get(field, getattr(RunSettings, field)) for field in FIXED_SETTINGS} | values


def _length_is_free(recipe: Recipe) -> bool:
    """Whether a run may be made longer: not where a schedule ends with it, at nothing or at another penalty.

    Rates that cool down go back up in a run made longer, and cool down at its new end.
    """
    return recipe.lr_schedule not in ("linear", "cosine") and recipe.gamma_final < 0


def _start(nimg: int, machine: Machine, previous: str) -> dict[str, Any]:
    return {
        "time": now(),
        "nimg": nimg,
        "host": socket.gethostname(),
        **identity(),
        "machine": machine.describe(),
        "world": machine.world,
        "command": sys.argv,
        "previous": previous,
    }
