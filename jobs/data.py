"""The sets that a run learns from: opened, checked, mixed, described."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from facegan.errors import UsageError
from facegan.files import read_object
from facegan.recipes import Recipe
from facegan.run.settings import RunSettings
from jobs.chosen import chosen_images
from jobs.values import parse_mix
from shards import ShardSet, Stream, open_set, verify_set
from shards.errors import ShardError
from shards.read.files import Folder
from shards.read.images import Images
from shards.read.mixture import MixedImages, MixtureInStreams, MixtureOrder
from shards.read.order import Order
from shards.read.stage import Stage, share_room

log = logging.getLogger("facegan")


class Mixed(NamedTuple):
    """A set mixed in, and its share of the images."""

    shard_set: ShardSet
    share: Fraction


class Data(NamedTuple):
    """The set of --data, which is also what metrics compare with, and those of --mix."""

    main: ShardSet
    mixed: Sequence[Mixed] = ()

    def images(self, settings: RunSettings) -> Images:
        """All images to train on; see `chosen_images`. Those held out are of the main set."""
        main = chosen_images(self.main, settings)
        whole = dataclasses.replace(settings, hold_out=0)
        return (
            MixedImages([main, *(_mixed_in(each.shard_set, whole) for each in self.mixed)]) if self.mixed else main
        )

    def order(self, settings: RunSettings, images: Images, batch_size: int) -> Order | Literal["global", "window"]:
        """In streams of shards where that is asked for or needs be, but a run goes on as it began.

        The order of a mixture is named by its weights and the sets mixed in: a run is told by it.
        """
        needs_be = images.in_streams and settings.cache != "device"
        in_streams = settings.streams or images.files.partial or (needs_be and not _began_as_one(settings))
        if not isinstance(images, MixedImages):
            return "window" if in_streams else "global"
        shares = [1 - sum(each.share for each in self.mixed), *(each.share for each in self.mixed)]
        order = MixtureOrder([len(part) for part in images.parts], shares, settings.seed)
        if in_streams:
            sizes, streams = [np.diff(part.firsts) for part in images.parts], settings.streams or None
            order = MixtureInStreams(sizes, shares, settings.seed, batch_size, streams)
        order.name += f" with {', '.join(each.shard_set.fingerprint[:12] for each in self.mixed)}"
        return order


def _began_as_one(settings: RunSettings) -> bool:
    """Whether this run was begun when all shards were shuffled as one, however many."""
    order = str((read_object(Path(settings.run_dir) / "config.json").get("data") or {}).get("order") or "streams")
    return "streams" not in order


def _mixed_in(shard_set: ShardSet, settings: RunSettings) -> Images:
    """The images of a set of --mix; ShardError, which names it, where there are none."""
    try:
        images = chosen_images(shard_set, settings)
        if not len(images):
            raise ShardError(f"{shard_set.folder}: split {settings.split} is empty")
    except ShardError as error:
        raise ShardError(f"--mix {settings.mix}: {error}") from None
    return images


def open_data(recipe: Recipe, settings: RunSettings) -> Data:
    """The sets for this recipe; warns where one was cropped otherwise.

    Raises ShardError, with the command that makes the right set, where there is none of the recipe's size, and
    UsageError where the sets of --mix cannot be mixed in.
    """
    shares = parse_mix(settings.mix)
    limit = round(settings.stage_gb * 1e9) or None
    sets: list[ShardSet] = []
    for path in (settings.data, *shares):
        sets.append(_open(path, recipe, settings, limit))
        if sets[-1].fingerprint in [other.fingerprint for other in sets[:-1]]:
            raise UsageError(f"--mix {settings.mix}: {path} is a set that is there already")
    if limit:
        share_room([each.files for each in sets if isinstance(each.files, Stage)], limit)
    return Data(sets[0], [Mixed(each, share) for each, share in zip(sets[1:], shares.values(), strict=True)])


def describe_data(data: Data, stream: Stream) -> dict[str, Any]:
    """What configuration, checkpoints and snapshots say of the data; samples: those of an epoch."""
    mixed = [{"share": str(each.share)} | _describe(each.shard_set) for each in data.mixed]
    known = {"samples": stream.samples, "order": stream.order.name}
    return _describe(data.main) | known | ({"mixed": mixed} if mixed else {})


def _describe(shard_set: ShardSet) -> dict[str, Any]:
    index = shard_set.index
    return {
        "fingerprint": shard_set.fingerprint,
        "path": str(shard_set.folder),
        "source": dataclasses.asdict(index.source),
        "transform": dataclasses.asdict(index.transform) if index.transform else None,
        "terms": _terms(Path(shard_set.folder)),
    }


def _terms(folder: Path) -> str:
    """What `terms.txt` beside a set, or beside its sizes, says of passing on; "" where there is none."""
    files = [place / "terms.txt" for place in (folder, folder.parent) if (place / "terms.txt").is_file()]
    return files[0].read_text(encoding="utf-8", errors="replace").strip() if files else ""


def _open(path: str, recipe: Recipe, settings: RunSettings, limit: int | None) -> ShardSet:
    wanted = f"facegan preprocess SRC {path or 'data/shards'} --recipe {recipe.name}"
    if not path:
        raise ShardError(f"no data: give --data OUT (or FACEGAN_DATA). A set is made by: {wanted}")
    try:
        stage = Path(settings.stage) if settings.stage else None
        opened = open_set(path, recipe.resolution.height, stage=stage, stage_limit=limit)
    except ShardError as error:
        raise ShardError(f"{error}\nThe set of recipe {recipe.name} is made by: {wanted}") from error
    _compare(opened, path, recipe, wanted)
    if settings.verify and os.environ.get("LOCAL_RANK", "0") == "0":
        _verify(opened)
    return opened


def _verify(opened: ShardSet) -> None:
    """Once a node, before anything else: the ranks that do not look wait for this one to join them."""
    if not isinstance(opened.files, Folder):
        log.info("%s: --verify adds nothing, as each shard is hashed once a start", opened.folder)
        return
    log.info("verifying %s", opened.folder)
    damages = verify_set(opened.folder)
    if damages:
        shown = "\n".join(f"  {damage}" for damage in damages[:10])
        raise ShardError(f"{opened.folder} is damaged in {len(damages)} places, make the set anew:\n{shown}")


def _compare(opened: ShardSet, path: str, recipe: Recipe, wanted: str) -> None:
    shape = (opened.height, opened.width, opened.channels)
    if shape != (*recipe.resolution, recipe.channels):
        raise ShardError(
            f"{path}: images of {opened.height}x{opened.width} with {opened.channels} channels,"
            f" {recipe.name} takes {recipe.resolution.height}x{recipe.resolution.width} with {recipe.channels}."
            f" Make its set: {wanted}\nor change the recipe: --set resolution={opened.height}x{opened.width}"
            f" --set channels={opened.channels}"
        )
    crop = opened.index.transform.crop if opened.index.transform else "unknown"
    if crop != recipe.crop:
        log.warning(
            "Warning: %s was cropped %s, %s crops %s: its results are not comparable. Its own set: %s",
            *(path, crop, recipe.name, recipe.crop, wanted),
        )
