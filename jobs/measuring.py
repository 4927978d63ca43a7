"""What is compared, from files: the set's pictures, a snapshot's generator, a checkpoint's critic, Inception."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facegan.errors import FaceganError, UsageError, between_ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from facegan.metrics import Reals, Subject
    from facegan.metrics.features import Extractor
    from facegan.recipes import Recipe
    from facegan.run.checkpoint import Checkpoint
    from facegan.run.settings import RunSettings
    from facegan.run.snapshot import Snapshot
    from shards import Images, ShardSet

SPLITS = ("test", "val", "train")


def during_training(
    opened: "ShardSet", recipe: "Recipe", settings: "RunSettings", device: "torch.device"
) -> "Callable[[nn.Module, int], dict[str, float]]":
    """What a training calls on all ranks every --eval-kimg: (generator, nimg) -> numbers for its stats.

    Uses up to `eval_n` pictures, the same each time, that are not trained on: what a run is judged by later, test,
    must not choose its best checkpoint. Raises UsageError for metrics that cannot be made, too few pictures, or a
    best that no metric gives, before anything is trained.
    """
    from facegan import sampling
    from facegan.metrics import Comparison, Ranks, Subject, evaluate, record, row
    from facegan.metrics.comparison import default_cache
    from facegan.metrics.evaluation import FEWEST, require_metrics

    reals = watched(opened, settings)
    extractor = inception_extractor(settings.inception, None, device)
    names = settings.eval_metrics.split(",") + ["inception"] * (extractor is not None)
    require_metrics(names, settings.best_metric)
    ranks, count = Ranks.current(), min(settings.eval_n, len(reals.images))
    if count < FEWEST:
        raise UsageError(
            f"--eval-kimg measures by {count} pictures (--eval-n {settings.eval_n}, and {reals.split} has "
            f"{len(reals.images):,}): expected at least {FEWEST}; without --eval-kimg nothing is measured"
        )

    def measure(generator: "nn.Module", nimg: int) -> dict[str, float]:
        def generate(z: "Tensor") -> "Tensor":
            return sampling.generate(generator, z, recipe.value_range)

        subject = Subject(generate, recipe.latent_dim, nimg)
        comparison = Comparison(subject, reals, count, inception=extractor, cache=default_cache(), ranks=ranks)
        measured = evaluate(comparison, names)
        if ranks.rank == 0:
            record(Path(settings.run_dir), measured)
        return row(measured)

    return measure


def watched(opened: "ShardSet", settings: "RunSettings") -> "Reals":
    """What a training measures itself against: pictures held out, val, or what it is trained on; never test."""
    import dataclasses

    from jobs.chosen import held_out, of_first_shard
    from shards.read.labels import Subset

    split, count = settings.split, settings.hold_out
    if count:
        say(f"{count:,} pictures of {split} are held out of the training, to measure by; test stays unseen")
        images = opened.split(split)
        part = Subset(images, held_out(len(images), count))
        return dataclasses.replace(as_reals(opened, split), images=part, split=f"{split}, held out {count}")
    if split != "val" and "val" in opened.index.splits:
        return as_reals(opened, "val")
    reals = as_reals(opened, split)
    if opened.files.partial:
        first = of_first_shard(opened.split(split))
        reals = dataclasses.replace(reals, images=first, split=f"{split}, first shard")
        say("the stage holds only some shards at a time: nothing is held out, and one shard is measured by")
    say(f"nothing was held out: metrics during training compare with pictures of {split}; test stays unseen")
    return reals


def as_reals(opened: "ShardSet", split: str) -> "Reals":
    """One split of an opened set as the metrics see it."""
    from facegan.metrics import Reals

    transform = opened.index.transform
    crop, filter = (transform.crop, transform.filter) if transform else ("", "")
    return Reals(opened.split(split), split, opened.fingerprint, crop, filter)


def as_subject(snapshot: "Snapshot", run_dir: Path, device: "torch.device") -> "Subject":
    """The snapshot's generator and, where its run has a whole checkpoint, that one's discriminator."""
    from facegan import sampling
    from facegan.metrics import Subject

    generator = snapshot.generator.to(device)
    value_range = snapshot.recipe.value_range
    return Subject(
        lambda z: sampling.generate(generator, z, value_range),
        snapshot.recipe.latent_dim,
        snapshot.nimg,
        str(snapshot.meta["sha256"]),
        _critic(snapshot, run_dir, device),
    )


def _critic(snapshot: "Snapshot", run_dir: Path, device: "torch.device") -> "Callable[[Tensor], Tensor] | None":
    """Scores of the discriminator of the snapshot's time, higher for what it takes for real; None without one."""
    import torch

    from facegan.networks import build_discriminator
    from facegan.run.checkpoint import below
    from facegan.train.augment import sharpen
    from facegan.train.objective import scale_images

    recipe, checkpoint = snapshot.recipe, _checkpoint_of(snapshot, run_dir)
    if checkpoint is None:
        return None
    critic = build_discriminator(recipe)
    critic.load_state_dict(below(checkpoint.tensors, "discriminator"))
    critic.eval().to(device)

    @torch.no_grad()
    def score(images: "Tensor") -> "Tensor":
        scores: Tensor = critic(sharpen(scale_images(images.to(device), recipe.value_range), recipe.sharpen))
        return scores.float().cpu()

    return score


def _checkpoint_of(snapshot: "Snapshot", run_dir: Path) -> "Checkpoint | None":
    """The checkpoint of the snapshot's own position; for the newest snapshot the newest whole one."""
    from facegan.run.checkpoint import folder_name, newest_checkpoint, read_checkpoint
    from facegan.run.snapshot import snapshot_folders

    own = run_dir / "checkpoints" / folder_name(snapshot.nimg)
    if own.is_dir():
        return read_checkpoint(own)
    is_newest = [path.resolve() for path in snapshot_folders(run_dir)][-1:] == [snapshot.path.resolve()]
    return newest_checkpoint(run_dir / "checkpoints", say) if is_newest else None


def inception_extractor(path: str, trusted: str | None, device: "torch.device") -> "Extractor | None":
    from facegan.metrics import inception

    file = inception.find(path)
    if file is None:
        return None

    def confirm(digest: str) -> bool:
        if trusted:
            return trusted.lower() == digest
        question = f"{file} is TorchScript, which runs code. Its SHA-256 is {digest}. Load it, now and in future?"
        return sys.stdin.isatty() and click.confirm(question, err=True)

    return inception.load(file, confirm, device)


def open_for(data: str, recipe: "Recipe") -> "ShardSet":
    import shards

    opened = shards.open_set(data, recipe.resolution.height)
    shape, expected = (opened.height, opened.width, opened.channels), (*recipe.resolution, recipe.channels)
    if shape != expected:
        raise FaceganError(
            f"{data} holds pictures of {'x'.join(map(str, shape))}, the run makes {'x'.join(map(str, expected))} "
            "(height x width x channels); give --data a set preprocessed for this recipe"
        )
    return opened


def trained_on(run_dir: Path) -> str:
    try:
        data = json.loads((run_dir / "config.json").read_text())["settings"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        data = ""
    if not data:
        raise UsageError(f"{run_dir} does not say which set it was trained on: give --data")
    return str(data)


def default_split(opened: "ShardSet") -> str:
    return next((split for split in SPLITS if split in opened.index.splits), SPLITS[0])


def train_images(opened: "ShardSet", compared: str, run_dir: Path) -> "Images | None":
    """The pictures of train that the run may have learned from; None where those are what it is compared with.

    What the run held out is left out of the split of the set that it was held out of, and of no other.
    """
    from facegan.files import read_object
    from facegan.run.settings import RunSettings
    from jobs.chosen import chosen_images

    if compared == "train" or "train" not in opened.index.splits:
        return None
    config = read_object(run_dir / "config.json")
    settings, data = config.get("settings") or {}, config.get("data") or {}
    is_same = settings.get("split", "train") == "train" and data.get("fingerprint") == opened.fingerprint
    return chosen_images(opened, RunSettings(hold_out=int(settings.get("hold_out", 0)) if is_same else 0))


def device_named(name: str) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA GPU here; see: facegan doctor")
    on_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Under a launcher the ranks share the work; they exchange results through the CPU, and part together."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")
    try:
        yield
        with between_ranks():
            dist.barrier()  # a rank that just exits can abort the others
    finally:
        dist.destroy_process_group()


def is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    if is_main():
        click.echo(text, err=True)
