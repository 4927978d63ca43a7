"""The training loop: from a recipe, a stream of images and a run folder to snapshots; the same call continues."""

import logging
import time
from pathlib import Path

from facegan.errors import UsageError
from facegan.recipes.checks import check_split
from facegan.run import crash
from facegan.run.checkpoint import (
    Checkpoint,
    await_checkpoint,
    folder_name,
    newest_checkpoint,
    prune_checkpoints,
    set_damaged_aside,
    write_checkpoint,
)
from facegan.run.folder import RunFolder, check_resume, make_config
from facegan.run.outcome import Outcome
from facegan.run.stopping import EXIT_CODES, GO, REASONS, Signals, StopRequests
from facegan.train.cuda_graphs import recorded
from facegan.train.draws import RandomNumbers
from facegan.train.feed import Feed
from facegan.train.finetune import begin_from
from facegan.train.job import Job
from facegan.train.journal import Journal
from facegan.train.moments import training_moments
from facegan.train.state import State
from facegan.train.step import Step

log = logging.getLogger("facegan")


def train(job: Job) -> Outcome:
    """Train until the recipe's length is reached or somebody asks to stop; all ranks call it, all return the same.

    Raises FaceganError where the run folder belongs to another job, or holds a run of another configuration.
    """
    if job.total_nimg <= 0:
        raise UsageError("the run has no length: give --kimg or --epochs")
    settings, world = job.settings, job.machine.world
    check_split(job.recipe, world, settings.batch_per_rank, sync_bn=settings.sync_bn)
    folder = RunFolder(Path(job.settings.run_dir))
    with job.machine.failures, Signals() as signals:
        if job.machine.is_main:
            folder.owner.claim(log.warning)
        try:
            return _Run(job, folder, signals).train()
        finally:
            if job.machine.is_main:
                folder.owner.release()


class _Run:
    """A run in progress on one rank."""

    def __init__(self, job: Job, folder: RunFolder, signals: Signals) -> None:
        self.job, self.folder, self.main = job, folder, job.machine.is_main
        self.config = make_config(job.recipe, job.settings, job.data, job.sources)
        self.state = State(job.recipe, job.settings.seed, job.machine, sync_bn=job.settings.sync_bn)
        self.journal = Journal(job, folder, self.state, self.config)
        self.stopping = StopRequests(job.machine, signals, folder.stop_files, job.settings.checkpoint_minutes)
        self.nimg = self.saved_nimg = 0

    def train(self) -> Outcome:
        """The loop, and around it what happens when it ends in whichever way."""
        failures = self.job.machine.failures
        failures.on_other = lambda failure: self.journal.record_failure(failure, self.nimg)
        try:
            self._begin()
            with crash.recorded(self.folder.path / "logs" / f"rank-{self.job.machine.rank}.crash"):
                outcome = self._loop()
            self.journal.close(outcome)
        except BaseException as error:
            self.journal.record_failure(failures.report(error), self.nimg, error)
            raise
        return outcome

    def _loop(self) -> Outcome:
        job, settings, total = self.job, self.job.settings, self.job.total_nimg
        step = recorded(Step(job.recipe, self.state, job.machine, settings.batch_per_rank), job.machine)
        networks = self.state.generator, self.state.discriminator
        numbers = RandomNumbers(job.recipe, settings.seed, *networks, job.machine.device)
        request, trouble = GO, None
        job.progress(self.nimg, total, {})
        with Feed(job.stream, numbers, job.recipe, job.machine, self.nimg, total) as feed:
            for batch in feed:
                step(batch)
                before, self.nimg = batch.nimg, batch.nimg + job.recipe.batch_size
                job.progress(self.nimg, total, {})
                if self._crossed(settings.log_kimg, before):
                    self.journal.log(self.nimg, batch.values, feed.waited)
                if self._crossed(settings.sample_kimg, before):
                    self.journal.sample(self.nimg)
                if self._crossed(settings.snapshot_kimg, before):
                    self.journal.snapshot(self.nimg)
                save = self._crossed(settings.checkpoint_kimg, before) or self._is_milestone(self.nimg)
                if settings.eval_kimg and self._crossed(settings.eval_kimg, before):
                    save |= self.journal.evaluate(self.nimg)
                looking = self.stopping.due()
                if looking:
                    if self.main:
                        self.folder.owner.check()
                    request, due = self.stopping.look()
                    save |= due
                if looking or save:
                    trouble = self.state.meter.trouble()
                if trouble or request != GO:
                    break
                if save:
                    self._save()
        return self._finish(request, trouble)

    def _finish(self, request: int, trouble: tuple[str, int] | None) -> Outcome:
        if trouble:
            term, at = trouble
            reason = f"{term} was not finite at image {at}; the update was withheld and the last checkpoint kept"
            return Outcome("failed", reason, self.nimg, 1)
        if self.nimg != self.saved_nimg:
            self._save()
        if self.nimg < self.job.total_nimg:
            self.journal.snapshot(self.nimg)  # so that a stopped run can be sampled
            return Outcome("stopped", REASONS[request], self.nimg, EXIT_CODES[request])
        return Outcome("finished", "reached its length", self.nimg)

    def _crossed(self, kimg: float, before: int) -> bool:
        """Whether this step passed a multiple of `kimg` thousand images, or ended the run."""
        every = round(kimg * 1000)
        return self.nimg >= self.job.total_nimg or bool(every and self.nimg // every > before // every)

    def _is_milestone(self, nimg: int) -> bool:
        """Whether the checkpoint at `nimg` is kept for good: the first after each multiple of milestone_kimg."""
        every = round(self.job.settings.milestone_kimg * 1000)
        return bool(every) and nimg // every > (nimg - self.job.recipe.batch_size) // every

    def _save(self) -> None:
        """Write a checkpoint on rank 0; the others go on to the next message, and wait there."""
        start = time.perf_counter()
        if self.main:
            self._write_checkpoint()
        self.saved_nimg = self.nimg
        self.stopping.saved()
        log.info("checkpoint at %.1f kimg (%.2f s)", self.nimg / 1000, time.perf_counter() - start)

    def _write_checkpoint(self) -> None:
        self.folder.owner.check()
        self.folder.sync_stats()
        meta = {"config": self.config, "seconds": self.journal.seconds(), "world": self.job.machine.world}
        write_checkpoint(self.folder.checkpoints, self.nimg, self.state.tensors(), meta)
        self._prune()

    def _prune(self) -> None:
        """Remove the checkpoints that are no longer needed."""
        best = self.folder.best().get("nimg")
        keep = self.job.settings.keep_checkpoints
        prune_checkpoints(self.folder.checkpoints, keep, lambda nimg: nimg == best or self._is_milestone(nimg))

    def _begin(self) -> None:
        """Load the newest whole checkpoint and bring the run folder to its position."""
        job = self.job
        checkpoint = self._newest()
        if checkpoint is not None:
            check_resume(checkpoint.meta["config"], job.recipe, job.settings, job.data)
            self.state.load(checkpoint.tensors)
            self.nimg = self.saved_nimg = checkpoint.nimg
        elif job.settings.init_from:
            log.info("%s", begin_from(self.state, Path(job.settings.init_from)))
        self.journal.open(self.nimg, float(checkpoint.meta["seconds"]) if checkpoint else 0.0)
        if checkpoint is None:  # after the grid of the untrained generator, whose images stay as they come
            self.state.moments = training_moments(job.recipe, job.stream, job.machine)
        self._say_hello(checkpoint)
        job.machine.wait()

    def _newest(self) -> Checkpoint | None:
        """The checkpoint to go on from: rank 0 picks, all ranks load that one."""
        sets = [self.job.settings.data, *(each["path"] for each in self.job.data.get("mixed", ()))]
        if self.main and (crashed := crash.last_crash(self.folder.path, *sets)):
            log.warning("the last start of this run: %s", crashed)
        checkpoint = newest_checkpoint(self.folder.checkpoints, log.warning) if self.main else None
        if checkpoint is not None:
            set_damaged_aside(checkpoint, log.warning)
            self._prune()  # what an interrupted removal has left
        (nimg,) = self.job.machine.highest([checkpoint.nimg if checkpoint else -1])
        if nimg >= 0 and not self.main:
            checkpoint = await_checkpoint(self.folder.checkpoints / folder_name(nimg))
        return checkpoint

    def _say_hello(self, checkpoint: Checkpoint | None) -> None:
        job, world = self.job, self.job.machine.world
        log.info("%s on %s", job.recipe.name, job.machine.describe())
        if checkpoint is not None:
            log.info("continuing %s at %.1f of %.1f kimg", checkpoint.path, self.nimg / 1000, job.total_nimg / 1000)
        if self.main and world > 1 and self.state.buffers() and not job.settings.sync_bn:
            own = job.recipe.batch_size // world
            log.warning("BatchNorm uses each rank's own %d images: other ranks, other statistics", own)
        if checkpoint is not None and checkpoint.meta["world"] != world and self.main:
            log.warning(
                "the checkpoint was made on %d ranks, this is %d: equal to rounding",
                checkpoint.meta["world"],
                world,
            )
