"""What a run tells while it trains: stats, grids, snapshots, metrics, W&B, progress; only rank 0 writes."""

import logging
import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facegan import sampling
from facegan.errors import FaceganError, UsageError
from facegan.files import write_text
from facegan.metrics.protocol import higher_is_better
from facegan.recipes import Recipe
from facegan.recipes.checks import MINIBATCH_GROUP
from facegan.run import history
from facegan.run.failures import Failure
from facegan.run.folder import RunFolder
from facegan.run.outcome import Outcome, write_outcome
from facegan.run.snapshot import write_snapshot
from facegan.run.tracking import Tracker
from facegan.train import losses
from facegan.train.job import Job, Row
from facegan.train.objective import scale_images
from facegan.train.schedules import ScheduleValues
from facegan.train.state import State

log = logging.getLogger("facegan")


class Journal:
    """The record of one run on one rank; ranks that do not write keep silent."""

    def __init__(self, job: Job, folder: RunFolder, state: State, config: dict[str, Any]) -> None:
        self.job, self.folder, self.state, self.config = job, folder, state, config
        self.main = job.machine.is_main
        self.tracker = Tracker(folder.path, "off")
        self.speed = Speed(0)
        self.seconds_before = 0.0  # of earlier starts
        self._shown_at: tuple[int, nn.Module] = (-1, state.generator)

    def open(self, nimg: int, seconds_before: float) -> None:
        """Record this start at position `nimg` and, at the very beginning, the untrained generator's grid."""
        self.seconds_before = seconds_before
        if self.main:
            settings, path = self.job.settings, self.folder.path
            self.folder.begin(self.config, nimg, self.job.machine, self.folder.previous_outcome())
            group, project = settings.wandb_group or None, settings.wandb_project
            replay = partial(history.steps, path)
            self.tracker = Tracker(
                path, settings.wandb, self.config, path.name, group, project=project, replay=replay
            )
            if "path" in self.job.data:
                self.tracker.log_data(Path(self.job.data["path"]) / "index.json", self.job.data["fingerprint"])
        if not nimg:
            self.sample(nimg)
        self.speed = Speed(nimg)

    def log(self, nimg: int, values: ScheduleValues, waited: float) -> None:
        """One line of stats: the terms' means since the last one, learning rates, speed."""
        row = self._progress(nimg) | self.state.meter.take() | self.speed.take(nimg, waited)
        row |= {
            "lr/generator": float(values.g_lr),
            "lr/discriminator": float(values.d_lr),
            "time/total_s": round(self.seconds(), 1),
        }
        self._write(nimg, row)

    def sample(self, nimg: int) -> None:
        """A grid of the averaged generator at the run's fixed latents, and the losses on held-out images."""
        job, path = self.job, self.folder.samples / f"fake-nimg-{nimg:012d}.png"
        if not self.main:
            return
        self.folder.owner.check()
        z = sampling.latents(job.settings.seed, job.settings.samples, job.recipe.latent_dim)
        sampling.save_png(sampling.grid(sampling.generate(self._shown(nimg), z, job.recipe.value_range)), path)
        if job.held_out is not None and len(job.held_out) > 1 and nimg:
            row = held_out_losses(job.recipe, self.state, job.held_out, job.settings.seed)
            self._write(nimg, self._progress(nimg) | row)
        images = {"samples/ema": path} | self._real_grid()
        self.tracker.log_images(images, self._progress(nimg))

    def evaluate(self, nimg: int) -> bool:
        """Measure the generator; whether it is the best so far by --best-metric, else the first. All ranks."""
        if self.job.evaluate is None:
            return False
        row = self.job.evaluate(self._shown(nimg), nimg)
        self._write(nimg, self._progress(nimg) | row)
        metric = f"metrics/{self.job.settings.best_metric}" if self.job.settings.best_metric else next(iter(row))
        if metric not in row:
            raise UsageError(f"--best-metric {metric.partition('/')[2]}: measured were {', '.join(row)}")
        higher = higher_is_better(metric)
        improved = self.main and self.folder.improve(nimg, metric, row[metric], higher=higher)
        return bool(self.job.machine.highest([int(improved)])[0])

    def snapshot(self, nimg: int) -> None:
        """Write the generator to use."""
        if self.main:
            self.folder.owner.check()
            about = {"data": self.job.data, "settings": self.config["settings"]}
            seed, root = self.job.settings.seed, self.folder.snapshots
            path = write_snapshot(root, nimg, self._shown(nimg), self.job.recipe, seed, about)
            self.tracker.log_snapshot(path, nimg)

    def close(self, outcome: Outcome) -> None:
        """Write the outcome and close W&B."""
        if self.main:
            self.folder.owner.check()
            write_outcome(self.folder.path, outcome)
            self.tracker.finish(outcome.state)

    def record_failure(self, failure: Failure, nimg: int, error: BaseException | None = None) -> None:
        """Leave this rank's `error` in a file of its own; rank 0 writes the outcome.

        Nothing is written in a folder that was lost; on a disk that is full or gone, what can be.
        """
        if not failure.may_write:
            return
        whose = f"rank {failure.rank}: " if failure.rank != self.job.machine.rank else ""
        try:
            if error is not None:
                path = self.folder.path / "logs" / f"rank-{self.job.machine.rank}.error"
                write_text(path, "".join(traceback.format_exception(error)))
            self.close(Outcome("failed", whose + failure.reason, nimg, failure.exit_code))
        except (OSError, FaceganError) as unwritten:
            log.error("%s: how the run ended could not be written: %s", self.folder.path, unwritten)
            self.tracker.finish("failed")

    def seconds(self) -> float:
        """Seconds of training so far, earlier starts included."""
        return self.seconds_before + self.speed.total()

    def _shown(self, nimg: int) -> nn.Module:
        """The generator as it is shown at position `nimg`, made once for grid, metrics and snapshot."""
        if self._shown_at[0] != nimg:
            self._shown_at = nimg, self.state.shown_generator()
        return self._shown_at[1]

    def _write(self, nimg: int, row: Row) -> None:
        """A row with a number that is not finite is left out: the run is about to stop and say why."""
        if self.main and all(math.isfinite(value) for value in row.values()):
            self.folder.append_stats(row)
            self.tracker.log(row)
            self.job.progress(nimg, self.job.total_nimg, row)

    def _real_grid(self) -> dict[str, Path]:
        path = self.folder.samples / "real.png"
        if self.job.real is None or path.exists():
            return {}
        sampling.save_png(sampling.grid(self.job.real), path)
        return {"samples/real": path}

    def _progress(self, nimg: int) -> Row:
        return {
            "progress/nimg": nimg,
            "progress/kimg": nimg / 1000,
            "progress/epoch": nimg / self.job.stream.samples,
            "progress/step": nimg // self.job.recipe.batch_size,
        }


class Speed:
    """Images per second and the share of the time spent waiting for data, since the last `take`."""

    def __init__(self, nimg: int) -> None:
        self.began = self.at = time.perf_counter()
        self.nimg, self.waited = nimg, 0.0

    def take(self, nimg: int, waited: float) -> Row:
        """The rates since the last call, from all seconds `waited` so far; starts anew."""
        now = time.perf_counter()
        elapsed = max(now - self.at, 1e-9)
        row = {
            "speed/imgs_per_sec": round((nimg - self.nimg) / elapsed, 1),
            "speed/data_wait_frac": round((waited - self.waited) / elapsed, 4),
        }
        self.at, self.nimg, self.waited = now, nimg, waited
        return row

    def total(self) -> float:
        """Seconds since the training began."""
        return time.perf_counter() - self.began


@torch.no_grad()
def held_out_losses(recipe: Recipe, state: State, held_out: Tensor, seed: int) -> Row:
    """Losses on images (n, C, H, W) uint8 that were not trained on, without dropout and smoothing.

    A discriminator that scores them far below training images has learned those by heart. Both networks normalise
    by the batch, as in training: running statistics of a discriminator mix real and generated batches, fit neither.
    """
    generator, critic = state.generator.eval(), state.discriminator.eval()
    real_logits, fake_logits = [], []
    if recipe.minibatch_std:
        held_out = held_out[: len(held_out) // MINIBATCH_GROUP * MINIBATCH_GROUP or None]
    z = sampling.latents(seed, len(held_out), recipe.latent_dim).to(next(generator.parameters()).device)
    pieces = _pieces(len(held_out), recipe.batch_size, MINIBATCH_GROUP if recipe.minibatch_std else 1)
    with normalised_by_batch(generator), normalised_by_batch(critic):
        for images, part in zip(torch.split(held_out, pieces), torch.split(z, pieces), strict=True):
            real_logits.append(critic(scale_images(images.to(z.device), recipe.value_range)))
            fake_logits.append(critic(generator(part)))
    generator.train()
    critic.train()
    real, fake = torch.cat(real_logits), torch.cat(fake_logits)
    on_real, on_fake = losses.discriminator_loss(recipe.loss, real, fake)
    return {
        "loss/held_out_real": float(on_real),
        "loss/held_out_fake": float(on_fake),
        "loss/held_out_generator": float(losses.generator_loss(recipe.loss, fake, real)),
        "scores/held_out": float(real.float().mean()),
    }


def _pieces(n: int, most: int, group: int) -> list[int]:
    """Sizes of pieces of about `most` images, all about equal (one image has no statistics), of whole groups."""
    count, groups = math.ceil(n / most), n // group
    ends = [groups * k // count * group for k in range(count)]
    return [end - start for start, end in pairwise([*ends, n])]


@contextmanager
def normalised_by_batch(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in eval mode takes the batch's statistics; its running ones stay as they are.

    Unlike train mode this needs no other rank, which does not measure, where BatchNorm is synchronised.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [(layer.running_mean, layer.running_var) for layer in layers]
    try:
        for layer in layers:
            layer.running_mean = layer.running_var = None
        yield
    finally:
        for layer, (mean, var) in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var = mean, var
