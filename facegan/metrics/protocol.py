"""The protocol beside each number, and the refusal to compare numbers of different protocols."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facegan.errors import FaceganError
from facegan.files import json_lines, write_text

FILE = "metrics.jsonl"
# What may differ between two runs that are compared: which generator it is, and the software's versions.
FREE = frozenset({"snapshot", "versions"})


@dataclass(frozen=True)
class Measurement:
    """Numbers of one metric on one snapshot, with everything that decides whether others may stand beside them."""

    metric: str  # family: swd, msssim, ...
    nimg: int
    values: dict[str, float]  # by key, such as metrics/swd16k
    protocol: dict[str, Any]


def higher_is_better(key: str) -> bool:
    """Whether more of the number is better; all others are distances, or shares that should be small."""
    return bool(re.match(r"(metrics/)?(is\d|faces\d|\w+_(precision|recall|density|coverage)\d)", key))


def best_of(key: str, scored: Iterable[tuple[float, int]]) -> tuple[float, int]:
    """The best (value, nimg) of a number; of equal ones the earliest."""
    return min(scored, key=lambda pair: (-pair[0] if higher_is_better(key) else pair[0], pair[1]))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What keeps numbers under protocol `a` from standing beside those under `b`, in words; empty if nothing."""
    names = [name for name in {**a, **b} if name not in FREE and a.get(name) != b.get(name)]
    return [f"{name}: {a.get(name, 'not given')} against {b.get(name, 'not given')}" for name in names]


def require_same(measurements: Mapping[str, Measurement]) -> None:
    """Raise FaceganError naming the differences unless all, by name of their run, share one protocol."""
    (first, reference), *others = measurements.items()
    for name, other in others:
        if differing := differences(reference.protocol, other.protocol):
            raise FaceganError(
                f"{reference.metric} of {first} and of {name} cannot be compared:\n  "
                + "\n  ".join(differing)
                + "\nMeasure both the same way: facegan evaluate RUN with the same --data, --split, --n and --seed"
            )


def read(run_dir: Path) -> list[Measurement]:
    """The measurements of a run, oldest first; none where there is no file. FaceganError names a damaged line."""
    path = run_dir / FILE
    return [_parse(path, number, row) for number, row in enumerate(json_lines(path), 1)]


def record(run_dir: Path, fresh: Sequence[Measurement]) -> None:
    """Add measurements to `run_dir/metrics.jsonl`, whole or not at all; an equal earlier one is replaced."""
    unique = {_identity(m): m for m in read(run_dir)} | {_identity(m): m for m in fresh}
    ordered = sorted(unique.values(), key=lambda m: m.nimg)
    write_text(run_dir / FILE, "".join(json.dumps(asdict(m), allow_nan=False) + "\n" for m in ordered))


def _identity(m: Measurement) -> str:
    fixed = {name: value for name, value in m.protocol.items() if name != "versions"}
    return json.dumps([m.metric, m.nimg, fixed], sort_keys=True)


def _parse(path: Path, number: int, row: dict[str, Any]) -> Measurement:
    try:
        m = Measurement(**row)
        ok = isinstance(m.nimg, int) and all(isinstance(v, int | float) for v in m.values.values())
        if ok and isinstance(m.protocol, dict):
            return m
    except (TypeError, AttributeError):
        pass
    raise FaceganError(f"{path}, line {number}: not a measurement of facegan evaluate; remove the line")
