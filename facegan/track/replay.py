"""The replay: every event that a tracker does not have yet, in order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import FaceganError
from facegan.track.events import read_config, read_events
from facegan.track.trackers import TRACKERS, Tracker


@dataclass(frozen=True)
class Replay:
    """What was done."""

    place: str
    sent: int
    known: int


def replay(run_dir: Path, target: str, project: str, progress: Callable[[int, int], None] | None = None) -> Replay:
    """Send what `target` ("wandb", "trackio", "tensorboard", "mlflow") lacks of the run in `run_dir`.

    Raises FaceganError where the folder tells nothing, UsageError where the tracker's package is not installed.
    """
    events = read_events(run_dir)
    if not events:
        raise FaceganError(f"{run_dir}: nothing to replay here (expected stats.jsonl); give a run folder")
    tracker: Tracker = TRACKERS[target](run_dir, read_config(run_dir), project)
    missing = [event for event in events if not tracker.has(event)]
    for done, event in enumerate(missing, 1):
        tracker.add(event)
        if progress:
            progress(done, len(missing))
    tracker.close()
    return Replay(tracker.place, len(missing), len(events) - len(missing))
