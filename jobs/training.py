"""A training as a job: opens the set, resolves the machine, shows progress, says how it ended."""

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facegan.errors import UsageError
from facegan.recipes import Recipe
from facegan.recipes.checks import check_batch_per_rank, few_for_batch_norm
from facegan.run import machine as machines
from facegan.run.checkpoint import checkpoint_folders
from facegan.run.machine import Machine
from facegan.run.outcome import Outcome
from facegan.run.settings import RunSettings, current
from facegan.train.job import Job, Row
from facegan.train.loop import train
from jobs.chosen import chosen_images, first_images, held_out_images, holding_out
from jobs.measuring import during_training
from jobs.progress import Progress
from shards import ShardSet, Stream, open_set, verify_set
from shards.errors import ShardError
from shards.read.images import Images

log = logging.getLogger("facegan")


def run(recipe: Recipe, settings: RunSettings, sources: dict[str, str]) -> int:
    """Train, and return the exit code. Raises ShardError or FaceganError for what a user can mend."""
    with shown_log():
        return _run(recipe, settings, sources)


def _run(recipe: Recipe, settings: RunSettings, sources: dict[str, str]) -> int:
    shard_set = open_data(recipe, settings)
    settings = holding_out(shard_set, keep_resolved(settings))
    machine = machines.start(settings)
    settings = machines.resolved(settings, machine)
    with machine.failures:
        check_batch(recipe, settings, machine)
        outcome = _train(shard_set, recipe, settings, sources, machine)
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


def _train(
    shard_set: ShardSet, recipe: Recipe, settings: RunSettings, sources: dict[str, str], machine: Machine
) -> Outcome:
    images = _cached(chosen_images(shard_set, settings), settings, machine)
    ranks, streams = (machine.rank, machine.world), settings.streams or None
    stream = Stream(images, recipe.batch_size, settings.seed, *ranks, streams=streams)
    measure = during_training(shard_set, recipe, settings, machine.device) if settings.eval_kimg else None
    with _ShownProgress(recipe.name, is_shown=machine.is_main) as progress:
        return train(
            Job(
                recipe=recipe,
                settings=settings,
                stream=stream,
                machine=machine,
                data=describe_data(shard_set, stream),
                sources=sources,
                real=first_images(images, settings.samples),
                held_out=held_out_images(shard_set, settings),
                progress=progress,
                evaluate=measure,
            )
        )


def open_data(recipe: Recipe, settings: RunSettings) -> ShardSet:
    """The set for this recipe; warns where it was cropped otherwise.

    Raises ShardError, with the command that makes the right set, where there is none of the recipe's size.
    """
    wanted = f"facegan preprocess SRC {settings.data or 'data/shards'} --recipe {recipe.name}"
    if not settings.data:
        raise ShardError(f"no data: give --data OUT (or FACEGAN_DATA). A set is made by: {wanted}")
    try:
        limit = round(settings.stage_gb * 1e9) or None
        stage = Path(settings.stage) if settings.stage else None
        found = open_set(settings.data, recipe.resolution.height, stage=stage, stage_limit=limit)
    except ShardError as error:
        raise ShardError(f"{error}\nThe set of recipe {recipe.name} is made by: {wanted}") from error
    _compare(found, recipe, settings, wanted)
    if settings.verify and os.environ.get("LOCAL_RANK", "0") == "0":
        _verify(found)
    return found


def keep_resolved(settings: RunSettings) -> RunSettings:
    """What an earlier start of this run left to its machine and resolved there stays as it was.

    Recorded steps do not, where this start cannot have them: they differ from others by rounding alone.
    """
    try:
        stored = json.loads((Path(settings.run_dir) / "config.json").read_text(encoding="utf-8"))["settings"]
    except FileNotFoundError:
        return settings
    stored = current(stored)
    free = {"precision": "auto", "cuda_graphs": "auto", "threads": 0, "hold_out": 0}
    kept = {name: stored.get(name, auto) for name, auto in free.items() if getattr(settings, name) == auto}
    if kept.get("cuda_graphs") == "on":
        kept["cuda_graphs"] = "auto"
    return dataclasses.replace(settings, **kept)


def describe_data(shard_set: ShardSet, stream: Stream) -> dict[str, Any]:
    """What configuration, checkpoints and snapshots say of the data; samples: those of an epoch."""
    index = shard_set.index
    return {
        "fingerprint": shard_set.fingerprint,
        "path": str(shard_set.folder),
        "samples": stream.samples,
        "order": stream.order.name,
        "source": dataclasses.asdict(index.source),
        "transform": dataclasses.asdict(index.transform) if index.transform else None,
        "terms": _terms(Path(shard_set.folder)),
    }


def _terms(folder: Path) -> str:
    """What `terms.txt` beside a set, or beside its sizes, says of passing on; "" where there is none."""
    found = [place / "terms.txt" for place in (folder, folder.parent) if (place / "terms.txt").is_file()]
    return found[0].read_text(encoding="utf-8", errors="replace").strip() if found else ""


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


def _verify(found: ShardSet) -> None:
    """Once a node, before anything else: the ranks that do not look wait for this one to join them."""
    log.info("verifying %s", found.folder)
    damages = verify_set(found.folder)
    if damages:
        shown = "\n".join(f"  {damage}" for damage in damages[:10])
        raise ShardError(f"{found.folder} is damaged in {len(damages)} places, make the set anew:\n{shown}")


def _compare(found: ShardSet, recipe: Recipe, settings: RunSettings, wanted: str) -> None:
    shape = (found.height, found.width, found.channels)
    if shape != (*recipe.resolution, recipe.channels):
        raise ShardError(
            f"{settings.data}: images of {found.height}x{found.width} with {found.channels} channels,"
            f" {recipe.name} takes {recipe.resolution.height}x{recipe.resolution.width} with {recipe.channels}."
            f" Make its set: {wanted}\nor change the recipe: --set resolution={found.height}x{found.width}"
            f" --set channels={found.channels}"
        )
    crop = found.index.transform.crop if found.index.transform else "unknown"
    if crop != recipe.crop:
        log.warning(
            "Warning: %s was cropped %s, %s crops %s: its results are not comparable. Its own set: %s",
            *(settings.data, crop, recipe.name, recipe.crop, wanted),
        )
