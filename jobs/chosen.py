"""Which pictures of a set a run learns from, and which are kept from it to measure by."""

import dataclasses
from pathlib import Path

import numpy as np
from torch import Tensor

from facegan.errors import UsageError
from facegan.run.settings import RunSettings
from shards import ShardSet
from shards.format.columns import Ints
from shards.read.choice import Choice
from shards.read.images import Images
from shards.read.labels import Subset

HELD_OUT = 1000  # held-out images whose losses are followed, as in the dcgan-128 reference
HELD_OUT_SPLITS = ("val", "test")


def holding_out(shard_set: ShardSet, settings: RunSettings) -> RunSettings:
    """The settings with the number of pictures that a new run keeps out of its training, to be measured by.

    A tenth of the split at most; none where that is too few to measure by, or the stage holds only some shards at a
    time, as those held out are spread over all of them. Raises UsageError for too few, too many, or any with such a
    stage, and ShardError where there is no such split.
    """
    samples = shard_set.counts(settings.split).samples
    begun = (Path(settings.run_dir) / "config.json").exists()
    if not settings.hold_out and (begun or not settings.eval_kimg or "val" in shard_set.index.splits):
        return settings
    if shard_set.files.partial:
        if not settings.hold_out:
            return settings
        raise UsageError(
            f"--hold-out {settings.hold_out}: these are spread over all shards, the stage holds some at a time: "
            "raise --stage-gb to the size of the set, leave it out, or measure by a split val"
        )
    from facegan.metrics.evaluation import FEWEST  # slow to import, and most runs need none of it

    if settings.hold_out >= samples:
        raise UsageError(f"--hold-out {settings.hold_out}: expected less than the {samples:,} of {settings.split}")
    if settings.hold_out < 0 or (0 < settings.hold_out < FEWEST and (settings.eval_kimg or not begun)):
        raise UsageError(f"--hold-out {settings.hold_out}: expected 0, or at least the {FEWEST} that metrics need")
    count = settings.hold_out or min(settings.eval_n, samples // 10)
    return dataclasses.replace(settings, hold_out=count if count >= FEWEST else 0)


def chosen_images(shard_set: ShardSet, settings: RunSettings) -> Images:
    """The images to train on: of the split those that --where names, without those held out."""
    images = shard_set.split(settings.split)
    if not settings.where and not settings.hold_out:
        return images
    named = shard_set.choose(settings.split, settings.where) if settings.where else Choice.all(len(images))
    chosen = named.without(held_out(len(images), settings.hold_out))
    if not len(chosen):
        named_by = f"--where {settings.where}: all that it names" if settings.where else f"all of {settings.split}"
        raise UsageError(f"{named_by} are held out (--hold-out {settings.hold_out}): give a smaller --hold-out")
    return Subset(images, chosen)


def held_out(samples: int, count: int) -> Ints:
    """Numbers of the `count` samples of a split that are kept from a training: spread evenly, ascending."""
    return np.arange(count, dtype=np.int64) * samples // max(count, 1)


def held_out_images(shard_set: ShardSet, settings: RunSettings) -> Tensor | None:
    """Images not trained on: those held out, else the first of another split; None where there are none."""
    if settings.hold_out:
        images = shard_set.split(settings.split)
        return images.batch(held_out(len(images), settings.hold_out)[:HELD_OUT])
    for name in HELD_OUT_SPLITS:
        split = shard_set.index.splits.get(name)
        if name != settings.split and split is not None and split.samples:
            return first_images(shard_set.split(name), HELD_OUT)
    return None


def of_first_shard(images: Images) -> Images:
    """The images of the split's first shard: what a stage that holds only some shards can give at any time."""
    later = images.firsts[images.firsts > 0]
    return Subset(images, Choice.all(int(later.min(initial=len(images)))))


def first_images(images: Images, n: int) -> Tensor:
    """The split's first n images, (n, C, H, W) uint8."""
    return images.batch(np.arange(min(n, len(images)), dtype=np.int64))
