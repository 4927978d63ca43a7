"""One self-contained HTML page about one or several runs: what they are, how they went, what they made.

Nothing in the page comes from outside: pictures are re-encoded into it, charts are inline SVG, its one script is
allowed by its hash and everything else is forbidden by a Content-Security-Policy. Every text that comes from a
name or a file is escaped.
"""

import base64
import dataclasses
import hashlib
import io
import json
import re
import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from facegan import __version__, recipes, sampling
from facegan.errors import FaceganError
from facegan.files import json_lines, read_object, write_text
from facegan.metrics import Measurement, protocol, require_same
from facegan.report.charts import Series, line_chart
from facegan.run.outcome import read_outcome
from facegan.run.settings import RunSettings
from facegan.run.snapshot import load_snapshot, snapshot_folders

PICTURE_BYTES = 6_500_000  # of all pictures of a page; a third more as text, and the page stays below 10 MB
MOST_FRAMES = 24  # sample grids behind one slider
WIDEST = 1100  # pixels of a picture in the page
QUALITIES = (88, 75, 60, 45, 30)
INTERPOLATION_ROWS, INTERPOLATION_STEPS = 4, 8

Row = dict[str, Any]
Grid = tuple[int, Path]  # nimg, picture file

# Charts of a single run: title, then keys or beginnings of keys.
CHARTS = (
    ("Losses", ("loss/discriminator", "loss/generator")),
    ("Loss on real and on fake", ("loss/real", "loss/fake", "loss/held_out")),
    ("Penalties", ("loss/gp", "loss/r1", "loss/r2", "loss/diversity")),
    ("Discriminator's scores", ("scores/",)),
    ("Gradient norms", ("grad/",)),
    ("Learning rates", ("lr/",)),
    ("Images per second", ("speed/imgs_per_sec",)),
    ("Share of time waiting for data", ("speed/data_wait_frac",)),
)


@dataclass(frozen=True)
class Frame:
    """One picture of a slider."""

    kimg: float
    uri: str


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
        found = dict.fromkeys(key for row in self.stats for key in row)
        return [key for key in found if key.startswith(tuple(beginnings))]

    def _values(self, key: str) -> list[float]:
        return [row[key] for row in self.stats if _is_number(row.get(key))]

    def _last(self, key: str) -> float | None:
        return next(iter(reversed(self._values(key))), None)

    def _best(self) -> str:
        scored = [
            (value, key, m.nimg) for m in self.measurements for key, value in m.values.items() if m.metric == "swd"
        ]
        mean = [(value, key, nimg) for value, key, nimg in scored if "_" not in key]
        if not mean:
            return "no metric measured yet"
        value, key, nimg = min(mean)
        return f"{key.removeprefix('metrics/')} {value:.4g} at {nimg / 1000:g} kimg"


class Pictures:
    """Re-encodes pictures for the page, sharing its budget of bytes among them."""

    def __init__(self, count: int) -> None:
        self.share = PICTURE_BYTES // max(count, 1)
        self.notes: list[str] = []

    def embed(self, path: Path) -> str:
        """The picture file as a data URI, or "" with a note where it cannot be read."""
        try:
            with Image.open(path) as picture:
                return self.encode(picture.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            self.notes.append(f"{path.name} could not be read: {error}")
            return ""

    def encode(self, picture: Image.Image) -> str:
        """A picture as a WebP data URI, of the best quality that fits its share of the page."""
        picture.thumbnail((WIDEST, WIDEST))
        for quality in QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, format="WEBP", quality=quality, method=4)
            if len(buffer.getvalue()) <= self.share:
                break
        else:
            return self.encode(picture.resize((max(picture.width // 2, 1), max(picture.height // 2, 1))))
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the page about these runs, whole or not at all; return its path.

    Raises FaceganError where a folder is no run's, or one of its files is damaged.
    """
    write_text(out, render([Run(path) for path in run_dirs]))
    return out


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    grids = {run.path: _spread(sampling.sample_grids(run.path), MOST_FRAMES) for run in runs}
    pictures = Pictures(sum(len(found) + 3 for found in grids.values()))
    environment = Environment(
        loader=PackageLoader("facegan.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        runs=runs,
        cards=[_card(run, grids[run.path], pictures) for run in runs],
        charts=_charts(runs),
        metrics=_metric_tables(runs),
        configuration=_configuration(runs),
        environments=[(run, _environment(run)) for run in runs],
        commands=[(run, reproduce(run)) for run in runs],
        notes=pictures.notes,
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        script_hash=_script_hash(environment),
    )


def _script_hash(environment: Environment) -> str:
    """What the page's Content-Security-Policy allows: the template's own script and no other."""
    source = Path(str(environment.get_template("report.html").filename)).read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def reproduce(run: Run) -> list[str]:
    """The commands that make this run again and look at it, ready to paste into a shell."""
    data, settings = run.config.get("data") or {}, run.config["settings"]
    source = (data.get("source") or {}).get("name", "SRC")
    shards = Path(str(settings.get("data") or "data/shards"))
    out = shards.parent if shards.name == run.config["values"].get("resolution") else shards
    train, home = ["facegan", "train", run.recipe], str(run.path)
    lines = [
        ["facegan", "preprocess", str(source), str(out), "--recipe", run.recipe],
        [*train, "--config", str(run.path / "config.json"), "--run-dir", "NEW"],
        [*train, "--data", str(shards), "--run-dir", "NEW", *_flags(run)],
        ["facegan", "sample", home],
        ["facegan", "evaluate", home, "--data", str(shards)],
    ]
    return [shlex.join(line) for line in lines]


def _flags(run: Run) -> list[str]:
    """What the run has otherwise than its recipe and the program, as options of `facegan train`."""
    defaults: Row = {field.name: field.default for field in dataclasses.fields(RunSettings)}
    flags = set(defaults) | {"batch_size", "kimg", "epochs"}
    if known := recipes.recipe_classes().get(run.recipe):
        defaults |= recipes.to_values(known())
        flags |= set(known.options())
    placed = ("data", "run_dir", "precision", "compile", "threads")  # given above, or resolved by the machine
    given = {**run.config["values"], **run.config["settings"]}
    changed = {k: v for k, v in given.items() if k not in placed and k in defaults and v != defaults[k]}
    return [part for name, value in changed.items() for part in _flag(name, value, name in flags)]


def _flag(name: str, value: Any, has_flag: bool) -> list[str]:
    if not has_flag:
        return ["--set", f"{name}={value}"]
    flag = name.replace("_", "-")
    return [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]


def read_config(run_dir: Path) -> Row:
    """The run's config.json; FaceganError where the folder is no run's."""
    config = read_object(run_dir / "config.json")
    if not isinstance(config.get("values"), dict) or not isinstance(config.get("settings"), dict):
        raise FaceganError(f"{run_dir}: no run of facegan train here (expected a config.json); give a run folder")
    return config


# Pictures


def _card(run: Run, grids: Sequence[Grid], pictures: Pictures) -> Row:
    frames = [Frame(nimg / 1000, uri) for nimg, path in grids if (uri := pictures.embed(path))]
    real, nearest = run.path / "samples" / "real.png", sorted(run.path.glob("samples/nearest-nimg-*.png"))
    return {
        "run": run,
        "frames": frames,
        "real": pictures.embed(real) if real.exists() else "",
        "interpolation": _interpolation(run, pictures),
        "nearest": pictures.embed(nearest[-1]) if nearest else "",
    }


def _interpolation(run: Run, pictures: Pictures) -> str:
    if not snapshot_folders(run.path):
        return ""
    try:
        snapshot = load_snapshot(run.path)
    except FaceganError as error:
        pictures.notes.append(str(error))
        return ""
    z = sampling.interpolation_rows(
        snapshot.seed, INTERPOLATION_ROWS, INTERPOLATION_STEPS, snapshot.recipe.latent_dim
    )
    images = sampling.generate(snapshot.generator, z, snapshot.recipe.value_range)
    return pictures.encode(sampling.grid(images, INTERPOLATION_STEPS).convert("RGB"))


def _spread(items: Sequence[Grid], most: int) -> list[Grid]:
    """At most `most` of the items, evenly spread, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


# Curves


def _charts(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    named = [(title, _group_series(runs[0], keys)) for title, keys in CHARTS] if len(runs) == 1 else []
    if len(runs) > 1:
        keys = dict.fromkeys(key for _, beginnings in CHARTS for run in runs for key in run.keys(beginnings))
        named = [(key, [Series(run.name, run.points(key), k) for k, run in enumerate(runs)]) for key in keys]
    named += _metric_charts(runs)
    return [(title, Markup(chart)) for title, series in named if (chart := line_chart(series, "kimg"))]


def _group_series(run: Run, beginnings: Sequence[str]) -> list[Series]:
    keys = run.keys(beginnings)
    return [Series(key.partition("/")[2], run.points(key), k) for k, key in enumerate(keys)]


def _metric_charts(runs: Sequence[Run]) -> list[tuple[str, list[Series]]]:
    """A chart a metric: of one run with its parts (the levels of an SWD), of several the metric itself."""
    keys = dict.fromkeys(key for run in runs for m in run.measurements for key in m.values)
    groups: dict[str, list[str]] = {}
    for key in keys:
        whole = key.rpartition("_")[0]
        groups.setdefault(whole if whole in keys else key, []).append(key)
    if len(runs) > 1:
        return [(k, [Series(run.name, _measured(run, k), n) for n, run in enumerate(runs)]) for k in groups]
    return [
        (group, [Series(key.removeprefix("metrics/"), _measured(runs[0], key), n) for n, key in enumerate(parts)])
        for group, parts in groups.items()
    ]


def _measured(run: Run, key: str) -> list[tuple[float, float]]:
    """(kimg, value) of one number over the training, by the protocol of its last measurement only."""
    having = [m for m in run.measurements if key in m.values]
    return [
        (m.nimg / 1000, m.values[key]) for m in having if not protocol.differences(m.protocol, having[-1].protocol)
    ]


# Tables


def _metric_tables(runs: Sequence[Run]) -> list[Row]:
    """One table a metric: values a run, the protocol, and why runs are not set side by side if they are not."""
    metrics = dict.fromkeys(m.metric for run in runs for m in run.measurements)
    return [_metric_table(metric, runs) for metric in metrics]


def _metric_table(metric: str, runs: Sequence[Run]) -> Row:
    last = {run.name: m for run in runs for m in run.measurements if m.metric == metric}
    try:
        require_same(last)
        refused = ""
    except FaceganError as error:
        refused = str(error)
    tables = [last] if not refused else [{name: m} for name, m in last.items()]
    return {"metric": metric, "refused": refused, "tables": [_values_table(table) for table in tables]}


def _values_table(measured: dict[str, Measurement]) -> Row:
    keys = list(dict.fromkeys(key for m in measured.values() for key in m.values))
    first = next(iter(measured.values()))
    return {
        "heads": [f"{name}, {m.nimg / 1000:g} kimg" for name, m in measured.items()],
        "rows": [
            (key.removeprefix("metrics/"), [_number(m.values.get(key)) for m in measured.values()]) for key in keys
        ],
        "protocol": [(name, _text(value)) for name, value in first.protocol.items()],
    }


def _configuration(runs: Sequence[Run]) -> list[Row]:
    """One line a field: value and origin a run; whether the runs differ."""
    tables = [{**run.config["values"], **run.config["settings"]} for run in runs]
    origins = [run.config.get("sources", {}) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    lines = []
    for name in names:
        cells = [(_text(t.get(name, "")), str(o.get(name, ""))) for t, o in zip(tables, origins, strict=True)]
        lines.append({"name": name, "cells": cells, "differs": len({value for value, _ in cells}) > 1})
    return lines


def _environment(run: Run) -> list[tuple[str, str]]:
    software = run.config.get("software", {})
    data = run.config.get("data", {})
    last = run.starts[-1] if run.starts else {}
    facts = {**software, "machine": last.get("machine", "unknown"), "host": last.get("host", "unknown")}
    facts |= {f"data {name}": value for name, value in data.items()}
    return [(name, _text(value)) for name, value in facts.items()]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
