"""What a run folder says about its run, read once for the page."""

import statistics
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from facegan import recipes
from facegan.errors import FaceganError
from facegan.files import json_lines, read_object
from facegan.metrics import protocol
from facegan.run.outcome import read_outcome

Row = dict[str, Any]


class Run:
    """What a run folder says about its run; raises FaceganError where it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        self.config = read_config(path)
        self.stats = list(json_lines(path / "stats.jsonl"))
        self.starts = list(json_lines(path / "starts.jsonl"))
        self.measurements = protocol.read(path)
        self.outcome = read_outcome(path)

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return str(self.config.get("recipe", "unknown"))

    @property
    def state(self) -> str:
        """finished, stopped, failed, or running (no outcome yet)."""
        return str(self.outcome.get("state", "running or killed"))

    @property
    def nimg(self) -> int:
        """Images seen so far."""
        return int(self._last("progress/nimg") or self.outcome.get("nimg", 0) or 0)

    @cached_property
    def summary(self) -> list[tuple[str, str]]:
        """The facts a reader wants first."""
        speeds = self._values("speed/imgs_per_sec")
        waits = self._values("speed/data_wait_frac")
        seconds = self._last("time/total_s")
        return [
            ("recipe", self.recipe),
            ("state", self.state + (f": {self.outcome['reason']}" if self.outcome.get("reason") else "")),
            ("progress", f"{self.nimg / 1000:,.1f} kimg, {self._last('progress/epoch') or 0:.2f} epochs"),
            ("training time", _duration(seconds) if seconds else "unknown"),
            ("speed", f"{statistics.median(speeds):,.0f} images/s (median)" if speeds else "unknown"),
            ("waiting for data", f"{100 * statistics.fmean(waits):.1f} % of the time" if waits else "unknown"),
            ("starts", str(len(self.starts))),
            ("best", self._best()),
        ]

    def points(self, key: str) -> list[tuple[float, float]]:
        """(kimg, value) of one key of the stats."""
        return [(row["progress/kimg"], row[key]) for row in self.stats if _is_number(row.get(key))]

    def keys(self, beginnings: Iterable[str]) -> list[str]:
        """Keys of the stats that begin so, in the order they first appear."""
        keys = dict.fromkeys(key for row in self.stats for key in row)
        return [key for key in keys if key.startswith(tuple(beginnings))]

    def _values(self, key: str) -> list[float]:
        return [row[key] for row in self.stats if _is_number(row.get(key))]

    def _last(self, key: str) -> float | None:
        return next(iter(reversed(self._values(key))), None)

    def _best(self) -> str:
        """The best SWD, by count: numbers of different counts are not one scale."""
        keys = dict.fromkeys(key for m in self.measurements if m.metric == "swd" for key in m.values)
        bests = [
            (key, *protocol.best_of(key, ((value, round(1000 * kimg)) for kimg, value in self.measured(key))))
            for key in keys
            if "_" not in key
        ]
        named = [
            f"{key.removeprefix('metrics/')} {value:.4g} at {nimg / 1000:g} kimg" for key, value, nimg in bests
        ]
        return "; ".join(named) or "no metric measured yet"

    def measured(self, key: str) -> list[tuple[float, float]]:
        """(kimg, value) of one number over the training, by the protocol of its last measurement only."""
        having = [m for m in self.measurements if key in m.values]
        alike = [m for m in having if not protocol.differences(m.protocol, having[-1].protocol)]
        return [(m.nimg / 1000, m.values[key]) for m in alike]


def read_config(run_dir: Path) -> Row:
    """The run's config.json; FaceganError where the folder is no run's."""
    config = read_object(run_dir / "config.json")
    if not isinstance(config.get("values"), dict) or not isinstance(config.get("settings"), dict):
        raise FaceganError(f"{run_dir}: no run of facegan train here (expected a config.json); give a run folder")
    return config | {"values": recipes.stored(config["values"])}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
