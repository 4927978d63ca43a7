"""The training loop: from a recipe, a stream of images and a run folder to snapshots; the same call continues."""

import logging
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facegan import losses, sampling
from facegan.checkpoint import Checkpoint, newest_checkpoint, prune_checkpoints, write_checkpoint
from facegan.config import RunSettings
from facegan.draws import Drawer
from facegan.errors import DiskFullError, FaceganError, UsageError
from facegan.feed import Feed, Stream
from facegan.machine import Machine
from facegan.objective import scale_images
from facegan.owner import Owner
from facegan.recipes import Recipe
from facegan.run_folder import Outcome, RunFolder, check_resume, make_config
from facegan.snapshot import write_snapshot
from facegan.state import State
from facegan.step import Batch, Step
from facegan.stopping import EXIT_CODES, GO, REASONS, Lookout, Signals
from facegan.tracking import Tracker

log = logging.getLogger("facegan")
Row = dict[str, float]


@dataclass(frozen=True)
class Job:
    """One run: what to compute, on what, where."""

    recipe: Recipe
    settings: RunSettings  # resolved: precision, compile and threads are not "auto"
    stream: Stream
    machine: Machine
    data: dict[str, Any] = field(default_factory=dict)  # fingerprint and description of the set
    sources: dict[str, str] = field(default_factory=dict)  # where each value of the configuration came from
    real: Tensor | None = None  # (n, C, H, W) uint8 for the grid of real images
    held_out: Tensor | None = None  # (n, C, H, W) uint8 not trained on, for the held-out losses
    progress: Callable[[int, int, Row], None] = lambda nimg, total, row: None
    evaluate: Callable[[torch.nn.Module, int], Row] | None = None  # metrics of a generator, all ranks

    @property
    def total_nimg(self) -> int:
        """Length in real images: kimg or epochs of the recipe, up to whole batches."""
        images = self.recipe.kimg * 1000 or self.recipe.epochs * self.stream.samples
        return math.ceil(round(images, 6) / self.recipe.batch_size) * self.recipe.batch_size


def train(job: Job) -> Outcome:
    """Train until the recipe's length is reached or somebody asks to stop; all ranks call it, all return the same.

    Raises FaceganError where the run folder belongs to another job, or holds a run of another configuration.
    """
    if job.total_nimg <= 0:
        raise UsageError("the run has no length: give --kimg or --epochs")
    folder = RunFolder(Path(job.settings.run_dir))
    owner = Owner(folder.path)
    _claim(owner, job.machine)
    try:
        with Signals() as signals:
            return _Run(job, folder, signals).train()
    finally:
        if job.machine.is_main:
            owner.release()


class _Run:
    """A run in progress on one rank."""

    def __init__(self, job: Job, folder: RunFolder, signals: Signals) -> None:
        self.job, self.folder, self.main = job, folder, job.machine.is_main
        self.state = State(job.recipe, job.settings.seed, job.machine, sync_bn=job.settings.sync_bn)
        self.lookout = Lookout(job.machine, signals, folder.stop_file, job.settings.checkpoint_minutes)
        self.nimg = self.saved_nimg = 0
        self.seconds_before = 0.0  # of earlier starts
        self.config = make_config(job.recipe, job.settings, job.data, job.sources)

    def train(self) -> Outcome:
        """The loop, and around it what happens when it ends in whichever way."""
        self._begin()
        try:
            outcome = self._loop()
        except DiskFullError as error:
            outcome = Outcome("failed", str(error), self.nimg, error.exit_code)
        except BaseException as error:
            self._record_failure(error)
            raise
        if self.main:
            self.folder.end(outcome)
            self.tracker.finish(outcome.state)
        return outcome

    def _loop(self) -> Outcome:
        job, settings, total = self.job, self.job.settings, self.job.total_nimg
        step = Step(job.recipe, self.state, job.machine, settings.batch_per_rank)
        drawer = Drawer(job.recipe, settings.seed, self.state.generator, self.state.discriminator)
        asked, trouble = GO, None
        with Feed(job.stream, drawer, job.recipe, job.machine, self.nimg, total) as feed:
            self.speed = Speed(feed)
            for batch in feed:
                step(batch)
                before, self.nimg = batch.nimg, batch.nimg + job.recipe.batch_size
                if self._crossed(settings.log_kimg, before):
                    self._log(batch)
                if self._crossed(settings.sample_kimg, before):
                    self._sample()
                if self._crossed(settings.eval_kimg, before):
                    self._evaluate()
                if self._crossed(settings.snapshot_kimg, before):
                    self._snapshot()
                looking = self.lookout.due()
                save = self._crossed(settings.checkpoint_kimg, before)
                if looking:
                    asked, due = self.lookout.look()
                    trouble, save = self.state.meter.trouble(), save or due
                if trouble or asked != GO:
                    break
                if save:
                    self._save()
        return self._finish(asked, trouble or self.state.meter.trouble())

    def _finish(self, asked: int, trouble: tuple[str, int] | None) -> Outcome:
        if trouble:
            term, at = trouble
            reason = f"{term} was not finite at image {at}; the update was withheld and the last checkpoint kept"
            return Outcome("failed", reason, self.nimg, 1)
        if self.nimg != self.saved_nimg or not self.nimg:
            self._save()
        if self.nimg < self.job.total_nimg:
            return Outcome("stopped", REASONS[asked], self.nimg, EXIT_CODES[asked])
        if not self._grid_path().exists():  # a kill after the checkpoint leaves these two to the next start
            self._sample()
        self._snapshot()
        return Outcome("finished", "reached its length", self.nimg)

    # What happens now and then

    def _crossed(self, kimg: float, before: int) -> bool:
        """Whether this step passed a multiple of `kimg` thousand images, or ended the run."""
        every = round(kimg * 1000)
        return bool(every) and (self.nimg // every > before // every or self.nimg >= self.job.total_nimg)

    def _log(self, batch: Batch) -> None:
        means = self.state.meter.take()
        row = self._progress() | means | self.speed.take(self.nimg)
        row |= {"lr/generator": batch.knobs.g_lr, "lr/discriminator": batch.knobs.d_lr}
        row["time/total_s"] = round(self._seconds(), 1)
        self._write(row)

    def _write(self, row: Row) -> None:
        if self.main and all(math.isfinite(value) for value in row.values()):
            self.folder.append_stats(row)
            self.tracker.log(row)
            self.job.progress(self.nimg, self.job.total_nimg, row)

    def _sample(self) -> None:
        """A grid of the averaged generator at the run's fixed latents, and the losses on held-out images."""
        if not self.main:
            return
        job, images, path = self.job, {}, self._grid_path()
        z = sampling.latents(job.settings.seed, job.settings.samples, job.recipe.latent_dim)
        fakes = sampling.generate(self.state.sampler.eval(), z, value_range=job.recipe.value_range)
        sampling.save_png(sampling.grid(fakes), path)
        images["samples/ema"] = path
        self.state.generator.train()
        if job.held_out is not None and self.nimg:
            self._write(self._progress() | held_out_losses(job.recipe, self.state, job.held_out, job.settings.seed))
        real = self.folder.samples / "real.png"
        if job.real is not None and not real.exists():
            sampling.save_png(sampling.grid(job.real), real)
            images["samples/real"] = real
        self.tracker.log_images(images, self._progress())

    def _grid_path(self) -> Path:
        return self.folder.samples / f"fake-nimg-{self.nimg:012d}.png"

    def _evaluate(self) -> None:
        if self.job.evaluate is None:
            return
        row = self.job.evaluate(self.state.sampler.eval(), self.nimg)
        self.state.generator.train()
        self._write(self._progress() | row)

    def _snapshot(self) -> None:
        if self.main:
            about = {"data": self.job.data, "settings": self.config["settings"]}
            path = write_snapshot(
                self.folder.snapshots, self.nimg, self.state.sampler, self.job.recipe, self.job.settings.seed, about
            )
            self.tracker.log_snapshot(path, self.nimg)

    def _save(self) -> None:
        """Write a checkpoint on rank 0; the others wait, so that a full disk stops all of them."""
        full = 0
        start = time.perf_counter()
        if self.main:
            try:
                self.folder.sync_stats()
                meta = {"config": self.config, "seconds": self._seconds(), "world": self.job.machine.world}
                write_checkpoint(self.folder.checkpoints, self.nimg, self.state.tensors(), meta)
                prune_checkpoints(self.folder.checkpoints, self.job.settings.keep_checkpoints, lambda nimg: False)
            except DiskFullError as error:
                log.error("%s", error)
                full = 1
        (full,) = self.job.machine.highest([full])
        if full:
            raise DiskFullError(f"{self.folder.checkpoints}: no space left; the last checkpoint is kept")
        self.saved_nimg = self.nimg
        self.lookout.saved()
        log.info("checkpoint at %.1f kimg (%.2f s)", self.nimg / 1000, time.perf_counter() - start)

    # Beginning and end

    def _begin(self) -> None:
        """Load the newest whole checkpoint and bring the run folder to its position."""
        job, machine = self.job, self.job.machine
        found = newest_checkpoint(self.folder.checkpoints, log.warning if self.main else lambda _: None)
        if found is not None:
            check_resume(found.meta["config"], job.recipe, job.settings, job.data)
            self._load(found)
        if self.main:
            self.folder.begin(self.config, self.nimg, machine, self.folder.previous_outcome())
            self.tracker = Tracker(
                self.folder.path,
                job.settings.wandb,
                self.config,
                self.folder.path.name,
                job.settings.wandb_group or None,
            )
            self._say_hello(found)
        machine.wait()
        if not self.nimg:
            self._sample()

    def _load(self, found: Checkpoint) -> None:
        self.state.load(found.tensors)
        self.nimg = self.saved_nimg = found.nimg
        self.seconds_before = float(found.meta["seconds"])

    def _say_hello(self, found: Checkpoint | None) -> None:
        job = self.job
        log.info("%s on %s", job.recipe.name, job.machine.describe())
        if found is not None:
            log.info("continuing %s at %.1f of %.1f kimg", found.path, self.nimg / 1000, job.total_nimg / 1000)
        if job.machine.world > 1 and self.state.buffers("generator") and not job.settings.sync_bn:
            log.warning(
                "BatchNorm uses each rank's own %d images: another number of ranks gives other statistics",
                job.recipe.batch_size // job.machine.world,
            )

    def _record_failure(self, error: BaseException) -> None:
        """Leave the cause in a file of this rank; rank 0 writes the outcome."""
        logs = self.folder.path / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"rank-{self.job.machine.rank}.error").write_text("".join(traceback.format_exception(error)))
        if self.main:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self.folder.end(Outcome("failed", reason, self.nimg, 1))
            self.tracker.finish("failed")

    def _progress(self) -> Row:
        recipe = self.job.recipe
        return {
            "progress/nimg": self.nimg,
            "progress/kimg": self.nimg / 1000,
            "progress/epoch": self.nimg / self.job.stream.samples,
            "progress/step": self.nimg // recipe.batch_size,
        }

    def _seconds(self) -> float:
        return self.seconds_before + (self.speed.total() if hasattr(self, "speed") else 0.0)


class Speed:
    """Images per second and the share of the time spent waiting for data, since the last `take`."""

    def __init__(self, feed: Feed) -> None:
        self.feed, self.began = feed, time.perf_counter()
        self.at, self.nimg, self.waited = self.began, feed.nimg, 0.0

    def take(self, nimg: int) -> Row:
        """The rates since the last call; starts anew."""
        now = time.perf_counter()
        elapsed = max(now - self.at, 1e-9)
        row = {
            "speed/imgs_per_sec": round((nimg - self.nimg) / elapsed, 1),
            "speed/data_wait_frac": round((self.feed.waited - self.waited) / elapsed, 4),
        }
        self.at, self.nimg, self.waited = now, nimg, self.feed.waited
        return row

    def total(self) -> float:
        """Seconds since the loop began."""
        return time.perf_counter() - self.began


@torch.no_grad()
def held_out_losses(recipe: Recipe, state: State, held_out: Tensor, seed: int) -> Row:
    """Losses on images (n, C, H, W) uint8 that were not trained on, both networks in eval mode, no smoothing.

    A discriminator that scores them far below training images has learned those by heart.
    """
    generator, critic = state.generator.eval(), state.discriminator.eval()
    z = sampling.latents(seed, len(held_out), recipe.latent_dim).to(next(generator.parameters()).device)
    real_logits, fake_logits = [], []
    for images, part in zip(
        torch.split(held_out, recipe.batch_size), torch.split(z, recipe.batch_size), strict=True
    ):
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


def _claim(owner: Owner, machine: Machine) -> None:
    """Rank 0 claims the run folder; where it is refused, every rank leaves."""
    refused, reason = 0, ""
    if machine.is_main:
        try:
            taken = owner.claim()
            if taken:
                log.warning("%s", taken)
        except FaceganError as error:
            refused, reason = 1, str(error)
    (refused,) = machine.highest([refused])
    if refused:
        raise FaceganError(reason or "rank 0 was refused the run folder")
