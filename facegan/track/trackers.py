"""Four trackers behind one door: `has` an event, `add` it, `close`; each is imported when it is opened."""

import json
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from facegan.errors import UsageError
from facegan.files import read_object, write_json
from facegan.run.wandb_run import AXIS, QUIET, follow_axis, public, resolve_mode, run_id
from facegan.track.events import Event

INSTALL = {
    "tensorboard": "pip install 'facegan[tensorboard]'",
    "trackio": "pip install trackio",
    "mlflow": "pip install 'facegan[mlflow]'",
}


class Tracker(Protocol):
    """One run of a tracker for one run folder."""

    place: str

    def has(self, event: Event) -> bool: ...

    def add(self, event: Event) -> None: ...

    def close(self) -> None: ...


class Record:
    """Names of the events that a tracker has taken, kept in the run folder once it has closed without an error."""

    def __init__(self, run_dir: Path, target: str) -> None:
        self.path = run_dir / "track" / f"{target}.json"
        content = read_object(self.path)
        self.sent: dict[str, None] = dict.fromkeys(map(str, content.get("sent", [])))
        self.id = str(content.get("id", ""))

    def write(self) -> None:
        """Keep it, whole or not at all."""
        write_json(self.path, {"id": self.id, "sent": list(self.sent)})


class TensorBoard:
    """Event files in RUN/tensorboard; they themselves say what they have."""

    def __init__(self, run_dir: Path, config: dict[str, Any], project: str) -> None:
        _import("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        folder = run_dir / "tensorboard"
        self.place = str(folder)
        self.known = _known(folder)
        self.writer = SummaryWriter(str(folder), max_queue=1000)
        if ("config/text_summary", 0) not in self.known:
            self.writer.add_text("config", f"```\n{json.dumps(public(config), indent=2)}\n```", 0)

    def has(self, event: Event) -> bool:
        return all((key, event.step) in self.known for key in [*event.values, *event.pictures])

    def add(self, event: Event) -> None:
        for key, value in event.values.items():
            if (key, event.step) not in self.known:
                self.writer.add_scalar(key, value, event.step, new_style=True, double_precision=True)
        for key, path in event.pictures.items():
            self.writer.add_image(key, _pixels(path), event.step, dataformats="HWC")
        self.known |= {(key, event.step) for key in [*event.values, *event.pictures]}

    def close(self) -> None:
        self.writer.close()


def _known(folder: Path) -> set[tuple[str, int]]:
    """Tags and steps in a folder's event files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    events = [event for path in sorted(folder.glob("events.*")) for event in EventFileLoader(str(path)).Load()]
    return {(value.tag, event.step) for event in events for value in event.summary.value}


class Wandb:
    """A W&B run of its own beside the one that a training may have written live, and complete where that is not."""

    def __init__(self, run_dir: Path, config: dict[str, Any], project: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.wandb, self.record = wandb, Record(run_dir, "wandb")
        self.record.id = run_id(run_dir, "track")
        mode: Any = resolve_mode("auto")
        self.run = wandb.init(
            project=project,
            id=self.record.id,
            name=run_dir.resolve().name,
            dir=str(run_dir),
            config=public(config),
            job_type="track",
            mode="disabled" if mode == "off" else mode,
            resume="allow",
            settings=wandb.Settings(**QUIET),
        )
        self.place = f"W&B ({mode}), project {project}, id {self.record.id}"
        follow_axis(self.run)

    def has(self, event: Event) -> bool:
        return event.name in self.record.sent

    def add(self, event: Event) -> None:
        # No `step`: W&B drops what lies before its last one, and a metric may be measured late.
        pictures = {key: self.wandb.Image(str(path)) for key, path in event.pictures.items()}
        self.run.log({AXIS: event.step / 1000, **event.values, **pictures})
        self.record.sent[event.name] = None

    def close(self) -> None:
        self.run.finish()
        self.record.write()


class Trackio:
    """A run of trackio's local board."""

    def __init__(self, run_dir: Path, config: dict[str, Any], project: str) -> None:
        self.trackio, self.record = _import("trackio", "trackio"), Record(run_dir, "trackio")
        name = run_dir.resolve().name
        here = {"auto_log_cpu": False, "auto_log_gpu": False}  # of the machine that replays, not of the training
        self.trackio.init(project=project, name=name, config=public(config), resume="allow", **here)
        self.place = f"trackio, project {project}, run {name}"

    def has(self, event: Event) -> bool:
        return event.name in self.record.sent

    def add(self, event: Event) -> None:
        pictures = {key: self.trackio.Image(str(path)) for key, path in event.pictures.items()}
        self.trackio.log({**event.values, **pictures}, step=event.step)
        self.record.sent[event.name] = None

    def close(self) -> None:
        self.trackio.finish()
        self.record.write()


class Mlflow:
    """A run of the MLflow server in $MLFLOW_TRACKING_URI, else of files in RUN/mlruns."""

    def __init__(self, run_dir: Path, config: dict[str, Any], project: str) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # SQLite is what breaks on a cluster's file system
        mlflow, self.record = _import("mlflow", "mlflow"), Record(run_dir, "mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run_dir.resolve() / "mlruns").as_uri()
        self.client = mlflow.MlflowClient(uri)
        if not self.record.id:
            self.record.id = self._begin(run_dir, public(config), project)
        self.place = f"MLflow at {public(uri)}, run {self.record.id}"

    def _begin(self, run_dir: Path, config: dict[str, Any], project: str) -> str:
        experiment = self.client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self.client.create_experiment(project)
        run = self.client.create_run(number, run_name=run_dir.resolve().name)
        for key, value in {"recipe": config.get("recipe"), **(config.get("values") or {})}.items():
            self.client.log_param(run.info.run_id, key, value)
        self.client.log_dict(run.info.run_id, config, "config.json")
        return str(run.info.run_id)

    def has(self, event: Event) -> bool:
        return event.name in self.record.sent

    def add(self, event: Event) -> None:
        for key, value in event.values.items():
            self.client.log_metric(self.record.id, key, value, step=event.step)
        for path in event.pictures.values():
            self.client.log_artifact(self.record.id, str(path), "samples")
        self.record.sent[event.name] = None

    def close(self) -> None:
        self.client.set_terminated(self.record.id)
        self.record.write()


TRACKERS: dict[str, type[Any]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": TensorBoard,
    "mlflow": Mlflow,
}


def _pixels(path: Path) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _import(package: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise UsageError(f"--to {extra} needs a package that is not installed: {INSTALL[extra]}") from None
