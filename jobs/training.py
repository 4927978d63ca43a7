"""A training as a job: opens the set, resolves the machine, shows progress, says how it ended."""

import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facegan.errors import UsageError
from facegan.files import read_object
from facegan.recipes import Recipe
from facegan.recipes.checks import check_batch_per_rank, few_for_batch_norm
from facegan.run import machine as machines
from facegan.run.checkpoint import checkpoint_folders
from facegan.run.machine import Machine
from facegan.run.outcome import Outcome
from facegan.run.settings import RunSettings, current
from facegan.train.job import Job, Row
from facegan.train.loop import train
from jobs.chosen import first_images, held_out_images, holding_out
from jobs.data import Data, describe_data, open_data
from jobs.measuring import during_training
from jobs.progress import Progress
from shards import Stream
from shards.read.images import Images
from shards.read.mapped import MAX_MAPPINGS

log = logging.getLogger("facegan")


def run(recipe: Recipe, settings: RunSettings, sources: dict[str, str]) -> int:
    """Train, and return the exit code. Raises ShardError or FaceganError for what a user can mend."""
    with shown_log():
        return _run(recipe, settings, sources)


def _run(recipe: Recipe, settings: RunSettings, sources: dict[str, str]) -> int:
    data = open_data(recipe, settings)
    settings = holding_out(data.main, keep_resolved(settings))
    machine = machines.start(settings)
    settings = machines.resolved(settings, machine)
    with machine.failures:
        check_batch(recipe, settings, machine)
        outcome = _train(data, recipe, settings, sources, machine)
        machine.leave()
    if machine.is_main:
        print(farewell(outcome, settings), file=sys.stderr)
    return 0 if outcome.state == "stopped" and is_launched() else outcome.exit_code


def check_batch(recipe: Recipe, settings: RunSettings, machine: Machine) -> None:
    """Refuse a new run whose ranks would have too few images for BatchNorm; one that was begun so may go on."""
    begun = bool(checkpoint_folders(Path(settings.run_dir) / "checkpoints"))
    on_gpu = machine.device.type == "cuda"
    words = check_batch_per_rank(recipe, machine.world, sync_bn=settings.sync_bn, on_gpu=on_gpu, begun=begun)
    if few_for_batch_norm(recipe, machine.world, sync_bn=settings.sync_bn):
        log.warning(words)


def _train(data: Data, recipe: Recipe, settings: RunSettings, sources: dict[str, str], machine: Machine) -> Outcome:
    chosen = data.images(settings)
    images = _cached(chosen, settings, machine)
    ranks, order = (machine.rank, machine.world), data.order(settings, chosen, recipe.batch_size)
    streams = settings.streams or None
    stream = Stream(images, recipe.batch_size, settings.seed, *ranks, order=order, streams=streams)
    _warn_of_remapping(stream)
    measure = during_training(data.main, recipe, settings, machine.device) if settings.eval_kimg else None
    with _ShownProgress(recipe.name, is_shown=machine.is_main) as progress:
        return train(
            Job(
                recipe=recipe,
                settings=settings,
                stream=stream,
                machine=machine,
                data=describe_data(data, stream),
                sources=sources,
                real=first_images(images, settings.samples),
                held_out=held_out_images(data.main, settings),
                progress=progress,
                evaluate=measure,
            )
        )


def _warn_of_remapping(stream: Stream) -> None:
    if stream.images.in_streams and "streams" not in stream.order.name and not stream.images.files.partial:
        log.warning(
            "Warning: %d shards are shuffled as one, as this run began, and %d are mapped at a time: nearly every "
            "image maps a file anew. A new run reads a few shards at a time",
            *(len(stream.images.firsts) - 1, MAX_MAPPINGS),
        )


def keep_resolved(settings: RunSettings) -> RunSettings:
    """What an earlier start of this run left to its machine and resolved there stays as it was.

    Recorded steps do not, where this start cannot have them: they differ from others by rounding alone.
    """
    stored = current(read_object(Path(settings.run_dir) / "config.json").get("settings") or {})
    free = {"precision": "auto", "cuda_graphs": "auto", "threads": 0, "hold_out": 0}
    kept = {name: stored.get(name, auto) for name, auto in free.items() if getattr(settings, name) == auto}
    if kept.get("cuda_graphs") == "on":
        kept["cuda_graphs"] = "auto"
    return dataclasses.replace(settings, **kept)


def is_launched() -> bool:
    """Whether accelerate, torchrun or srun started this process: they make a failure of every exit code but 0."""
    return any(name in os.environ for name in ("RANK", "LOCAL_RANK", "ACCELERATE_MIXED_PRECISION"))


def farewell(outcome: Outcome, settings: RunSettings) -> str:
    """The last lines: what happened, where it is, what to type next."""
    run_dir, kimg = settings.run_dir, f"{outcome.nimg / 1000:g} kimg"
    if outcome.state == "finished":
        return (
            f"Finished at {kimg}. Pictures: {run_dir}/samples. Next:\n"
            f"  facegan sample {run_dir}\n"
            f"  facegan evaluate {run_dir} --data {settings.data}\n"
            f"  facegan report {run_dir}"
        )
    if outcome.state == "stopped":
        return f"Stopped at {kimg}, {outcome.reason}; saved in {run_dir}. The same command continues."
    return f"Error: the run failed at {kimg}: {outcome.reason}"


@contextmanager
def shown_log() -> Iterator[None]:
    """What the trainer says goes to standard error; all ranks warn, rank 0 also tells."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _ShownProgress:
    """The trainer's progress callback: a bar or lines on rank 0, with the time left and the share spent waiting."""

    def __init__(self, label: str, *, is_shown: bool) -> None:
        self.label, self.is_shown = label, is_shown
        self.progress: Progress | None = None

    def __enter__(self) -> "_ShownProgress":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.progress is not None:
            self.progress.__exit__(*error)

    def __call__(self, nimg: int, total: int, row: Row) -> None:
        if not self.is_shown:
            return
        if self.progress is None:
            self.progress = Progress(total, "img", self.label, initial=nimg)
        notes = {name: f"{row[key]:.3f}" for name, key in _NOTES.items() if key in row}
        if "speed/data_wait_frac" in row:
            notes["waiting_for_data"] = f"{100 * row['speed/data_wait_frac']:.1f} %"
        self.progress.update(nimg - self.progress.count, **notes)


_NOTES = {"D": "loss/discriminator", "G": "loss/generator"}


def _cached(images: Images, settings: RunSettings, machine: Machine) -> Images:
    if settings.cache not in ("none", "device"):
        raise UsageError(f"--cache {settings.cache}: expected none or device")
    if settings.cache == "none":
        return images
    from shards.read.device import DeviceImages

    return DeviceImages(images, machine.device)
