"""The tables of the page: metrics with their protocols, the configuration, the environment."""

import json
from collections.abc import Sequence

from facegan.errors import FaceganError
from facegan.metrics import Measurement, require_same
from facegan.report.run import Row, Run


def metric_tables(runs: Sequence[Run]) -> list[Row]:
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


def configuration(runs: Sequence[Run]) -> list[Row]:
    """One line a field: value and origin a run; whether the runs differ."""
    tables = [{**run.config["values"], **run.config["settings"]} for run in runs]
    origins = [run.config.get("sources", {}) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    lines = []
    for name in names:
        cells = [(_text(t.get(name, "")), str(o.get(name, ""))) for t, o in zip(tables, origins, strict=True)]
        lines.append({"name": name, "cells": cells, "differs": len({value for value, _ in cells}) > 1})
    return lines


def environment(run: Run) -> list[tuple[str, str]]:
    software = run.config.get("software", {})
    data = run.config.get("data", {})
    last = run.starts[-1] if run.starts else {}
    facts = {**software, "machine": last.get("machine", "unknown"), "host": last.get("host", "unknown")}
    facts |= {f"data {name}": value for name, value in data.items()}
    return [(name, _text(value)) for name, value in facts.items()]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
