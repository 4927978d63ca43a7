"""What a run folder has to tell a tracker, in order: lines of statistics, metrics, sample grids."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from facegan.files import json_lines, read_object
from facegan.metrics import protocol
from facegan.run.history import sample_grids


@dataclass(frozen=True)
class Event:
    """Numbers, or a picture, at `step` images seen."""

    step: int
    values: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells it from every other: the step, and which numbers or pictures it has."""
        return f"{self.step} {' '.join(sorted([*self.values, *self.pictures]))}"


def read_events(run_dir: Path) -> list[Event]:
    """Everything that the folder tells, by step, each number of a step once (a metric may stand in two files).

    Raises FaceganError where a line is damaged.
    """
    sent: set[tuple[int, str]] = set()
    events = []
    for event in [*_stats(run_dir), *_metrics(run_dir), *_pictures(run_dir)]:
        values = {key: value for key, value in event.values.items() if (event.step, key) not in sent}
        sent |= {(event.step, key) for key in values}
        if values or event.pictures:
            events.append(Event(event.step, values, event.pictures))
    return sorted(events, key=lambda event: event.step)


def read_config(run_dir: Path) -> dict[str, object]:
    """The resolved configuration, and how the run ended; parts that are not there are left out."""
    config, outcome = read_object(run_dir / "config.json"), read_object(run_dir / "outcome.json")
    return config | ({"outcome": outcome} if outcome else {})


def _stats(run_dir: Path) -> Iterator[Event]:
    for row in json_lines(run_dir / "stats.jsonl"):
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        yield Event(int(row.get("progress/nimg", 0)), numbers)


def _metrics(run_dir: Path) -> Iterator[Event]:
    for measurement in protocol.read(run_dir):
        yield Event(measurement.nimg, dict(measurement.values))


def _pictures(run_dir: Path) -> Iterator[Event]:
    for nimg, path in sample_grids(run_dir):
        yield Event(nimg, pictures={"samples/ema": path})
    real = run_dir / "samples" / "real.png"
    if real.exists():
        yield Event(0, pictures={"samples/real": real})
