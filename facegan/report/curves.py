"""Which curves the page shows: what was logged while training, and what was measured."""

from collections.abc import Sequence

from markupsafe import Markup

from facegan.report.charts import Series, line_chart
from facegan.report.run import Run

# Charts of a single run: title, then keys or beginnings of keys.
CHARTS = (
    ("Losses", ("loss/discriminator", "loss/generator")),
    ("Loss on real and on fake", ("loss/real", "loss/fake", "loss/held_out")),
    ("Penalties", ("loss/gp", "loss/r1", "loss/r2", "loss/diversity")),
    ("Discriminator's scores", ("scores/",)),
    ("Augmentation: its chance, and the sign it follows", ("augment/",)),
    ("Gradient norms", ("grad/",)),
    ("Learning rates", ("lr/",)),
    ("Images per second", ("speed/imgs_per_sec",)),
    ("Share of time waiting for data", ("speed/data_wait_frac",)),
)


def charts(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
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
        return [(k, [Series(run.name, run.measured(k), n) for n, run in enumerate(runs)]) for k in groups]
    return [
        (group, [Series(key.removeprefix("metrics/"), runs[0].measured(key), n) for n, key in enumerate(parts)])
        for group, parts in groups.items()
    ]
