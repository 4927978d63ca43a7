"""Weights & Biases behind one door: a mirror of the run folder that can be slow, full or gone without harm.

Everything that touches `wandb` happens in one background thread fed by a bounded queue, so neither its
import, nor its network, nor a dead service ever holds up a training step. The truth stays in the run folder:
what W&B lacks is told by the last step it knows, and sent from there when the mirror opens the next time.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from facegan.run.history import Step
from facegan.run.wandb_run import Options, close, forget_service, keep_best, open_run, public, resolve_mode, run_id

FINISH_SECONDS = 60.0  # the upload left at the end; the rest is sent by the next start
ARTIFACT_SECONDS = 120  # a file of weights that is not taken by then counts as refused, and is tried again
AGAIN_SECONDS = 60.0  # between attempts at what failed
QUEUE_LENGTH = 10_000

Send = Callable[[Any, Any], None]  # (wandb module, its run)
Message = tuple[Mapping[str, Any], Mapping[str, Path]] | Send | str  # a row with its pictures; a call; how it ended
Replay = Callable[[int], Iterable[Step]]  # the steps past a position, as `history.steps` of a run folder

log = logging.getLogger("facegan.run.tracking")


class Tracker:
    """One W&B run for one run folder; the same folder always continues the same W&B run.

    `mode`: "online", "offline" (files under `run_dir/wandb`, for `wandb sync`), "off" (nothing is imported
    or written), or "auto" ($WANDB_MODE where set, else online where a key is found, else offline). Online
    without a key or a server becomes offline with one warning. `config` is logged without its secrets.
    `group` gathers runs that belong together (a sweep, a pipeline); `job_type` is "preprocess", "train",
    "evaluate" or "sweep"; `project` is by default $WANDB_PROJECT, else "facegan". `replay` gives the steps that W&B
    may have missed. Only one rank makes a tracker.

    Nothing here raises for reasons of network, key, quota or disk. Raises `UsageError` for an unknown mode.
    """

    def __init__(
        self,
        run_dir: Path,
        mode: str = "auto",
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str = "train",
        project: str = "",
        replay: Replay = lambda after: (),
    ) -> None:
        self._queue: queue.Queue[tuple[str, Message] | None] = queue.Queue(QUEUE_LENGTH)
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._mirror = Mirror(resolve_mode(mode), {}, replay)
        if self.mode == "off":
            return
        self._mirror.options = {
            "id": run_id(run_dir, job_type),
            "dir": str(run_dir),
            "config": public(config or {}),
            "name": name or run_dir.name,
            "group": group,
            "job_type": job_type,
            "project": project or os.environ.get("WANDB_PROJECT") or "facegan",
        }
        self._thread = threading.Thread(target=self._work, name="facegan-wandb", daemon=True)
        self._thread.start()

    @property
    def mode(self) -> str:
        """What it came to: online, offline or off."""
        return self._mirror.mode

    def log(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row; `progress/nimg` is its step, and rows of one step are sent as one."""
        self._put("rows", (row, {}))

    def log_images(self, images: Mapping[str, Path], row: Mapping[str, Any]) -> None:
        """Send picture files, e.g. `{"samples/ema": path}`, at the progress of `row`."""
        self._put("rows", (row, images))

    def log_table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rows of numbers and texts as one table; a column is a key of any row, empty where a row lacks it."""
        columns = list(dict.fromkeys(name for row in rows for name in row))

        def send(wandb: Any, run: Any) -> None:
            table = wandb.Table(columns, [[row.get(name) for name in columns] for row in rows])
            run.log({key: table}, commit=False)  # or the step would be over for the row that goes with it

        self._put("the table", send)

    def log_data(self, index: Path, fingerprint: str) -> None:
        """Record the set's `index.json` as this run's input artifact (online only: W&B's own limit)."""

        def send(wandb: Any, run: Any) -> None:
            about = {"fingerprint": fingerprint}
            artifact = wandb.Artifact(f"set-{fingerprint[:12]}", type="dataset", metadata=about)
            artifact.add_file(str(index))
            run.use_artifact(artifact)

        if index.is_file():
            self._put("the set's index", send)

    def log_snapshot(self, folder: Path, nimg: int) -> None:
        """Record a snapshot folder as this run's output artifact (online only)."""

        def send(wandb: Any, run: Any) -> None:
            artifact = wandb.Artifact(f"generator-{run.id}", type="model", metadata={"nimg": nimg})
            artifact.add_dir(str(folder))
            run.log_artifact(artifact, aliases=["latest", f"nimg-{nimg:09d}"]).wait(ARTIFACT_SECONDS)

        self._put("a snapshot", send)

    def finish(self, state: str = "finished") -> None:
        """End the W&B run as "finished", "stopped" (shown as preempted; a restart continues it) or "failed".

        Waits a bounded time for what is still to be uploaded. Calling it again does nothing.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._queue.put(("the end", state), timeout=FINISH_SECONDS)
            self._queue.put(None, timeout=FINISH_SECONDS)
        except queue.Full:
            self._lost += 1
        thread.join(2 * FINISH_SECONDS)
        if thread.is_alive() or self._lost or self._mirror.run is not None:
            log.warning("W&B did not take everything in time; the run folder has it, the next start sends the rest")

    def _put(self, kind: str, message: Message) -> None:
        if self._thread is None:
            return
        try:
            self._queue.put_nowait((kind, message))
        except queue.Full:
            self._lost += 1

    def _work(self) -> None:
        """Run in the thread: do what the queue says until it says None, and in between again what failed."""
        mirror = self._mirror
        mirror.connect()
        while True:
            try:
                message = self._queue.get(timeout=AGAIN_SECONDS)
            except queue.Empty:
                mirror.try_again()
                continue
            if message is None:
                return
            mirror.take(*message)


class Mirror:
    """W&B's run as the thread sees it: each kind of message fails alone, says so once and is tried again later."""

    def __init__(self, mode: str, options: Options, replay: Replay) -> None:
        self.mode, self.options, self.replay = mode, options, replay
        self.wandb: Any = None
        self.run: Any = None  # None while the service is gone
        self.step = -1  # of the row that is being gathered; those before it have been sent
        self.row: dict[str, Any] = {}
        self.pictures: dict[str, Path] = {}
        self.sent: int | None = None  # the last step sent, in this process
        self.shown: set[str] = set()  # keys whose summary W&B has been told of
        self.later: list[tuple[str, Send]] = []
        self.warned_of: set[str] = set()
        self.tried = time.monotonic()

    def connect(self) -> None:
        """Open W&B's run and send the steps that it has missed."""
        self.tried = time.monotonic()
        try:
            self.wandb, self.run, self.mode = open_run(self.mode, self.options, FINISH_SECONDS)
            after = self.run.starting_step - 1 if self.mode == "online" else self.sent
            self.shown = set()
            if after is not None:
                self.step, self.row, self.pictures = after, {}, {}
                for step in self.replay(after):
                    self._gather(step.numbers, step.pictures)
        except Exception as error:  # a mirror: whatever the client raises is said, and training goes on
            self._lose_service(error)

    def take(self, kind: str, message: Message) -> None:
        """Send one message, or keep it for later."""
        if not isinstance(message, str) and time.monotonic() - self.tried > AGAIN_SECONDS:
            self.try_again()
        if isinstance(message, str):
            self._end(message)
        elif isinstance(message, tuple):
            self._take_row(*message)
        elif self.mode == "online" or kind == "the table":
            self._send(kind, message)

    def try_again(self) -> None:
        """Send what failed before."""
        if self.run is None:
            self.connect()
        waiting, self.later, self.tried = self.later, [], time.monotonic()
        for kind, send in waiting:
            self._send(kind, send)

    def _send(self, kind: str, send: Send) -> None:
        try:
            if self.run is None:
                raise ConnectionError("W&B's service is gone")
            send(self.wandb, self.run)
        except Exception as error:  # see connect
            self._say(kind, error)
            self.later.append((kind, send))

    def _take_row(self, row: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        try:
            self._gather(row, pictures)
        except Exception as error:  # see connect
            self._lose_service(error)

    def _gather(self, row: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """Add to the step of `row`, and send the one before it; a step that W&B has already is passed over."""
        step = int(row["progress/nimg"]) if "progress/nimg" in row else self.step + 1
        if step > self.step:
            self._flush()
            self.step = step
        if step == self.step and self.run is not None:
            self.row |= {key: value for key, value in row.items() if isinstance(value, int | float)}
            self.pictures |= pictures

    def _flush(self) -> None:
        row, pictures, self.row, self.pictures = self.row, self.pictures, {}, {}
        if not row or self.run is None:
            return
        for key, path in pictures.items():
            try:
                if path.is_file():
                    row[key] = self.wandb.Image(str(path))
            except Exception as error:  # see connect
                self._say("pictures", error)
        keep_best(self.run, row.keys() - self.shown)
        self.shown |= row.keys()
        self.run.log(row, step=self.step, commit=True)
        self.sent = self.step

    def _lose_service(self, error: Exception) -> None:
        self._say("rows", error)
        self.run = None
        forget_service()

    def _say(self, kind: str, error: Exception) -> None:
        if kind not in self.warned_of:
            self.warned_of.add(kind)
            lines = str(error).strip().splitlines() or [""]
            log.warning("W&B: %s not sent (%s: %s); tried again later", kind, type(error).__name__, lines[0])

    def _end(self, state: str) -> None:
        self.try_again()
        try:
            if self.run is not None:
                self._flush()
                close(self.run, state)
                self.run = None
        except Exception as error:  # see connect
            self._say("the end", error)
            forget_service()
