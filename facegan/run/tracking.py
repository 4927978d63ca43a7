"""Weights & Biases behind one door: a mirror of `stats.jsonl` that can be slow, full or gone without harm.

Everything that touches `wandb` happens in one background thread fed by a bounded queue, so neither its
import, nor its network, nor a dead service ever holds up a training step. The truth stays in the run
folder; what does not reach W&B is said once and can be sent later with `wandb sync`.
"""

import logging
import netrc
import os
import queue
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from facegan.errors import UsageError
from facegan.files import write_text

MODES = ("auto", "online", "offline", "off")
AXIS = "progress/kimg"
LOWER_IS_BETTER = re.compile(r"metrics/(swd|fid|kid|randomnet_kd)\d+k?$")

INIT_SECONDS = 20.0  # a server that has not answered by then is treated as no network
FINISH_SECONDS = 60.0  # the upload left at the end; the rest stays on disk for `wandb sync`
QUEUE_ROWS = 10_000

_SECRET_NAME = re.compile(r"api_?key|token|secret|passw|credential", re.IGNORECASE)
_RUN_ID = re.compile(r"[a-z0-9]{8}")

log = logging.getLogger("facegan.run.tracking")


class Tracker:
    """One W&B run for one run folder; the same folder always continues the same W&B run.

    `mode`: "online", "offline" (files under `run_dir/wandb`, for `wandb sync`), "off" (nothing is imported
    or written), or "auto" ($WANDB_MODE where set, else online where a key is found, else offline). Online
    without a key or a server becomes offline with one warning. `config` is logged without its secrets.
    `group` gathers runs that belong together (a sweep, a pipeline); `job_type` is "preprocess", "train",
    "evaluate" or "sweep"; `project` is $WANDB_PROJECT, else "facegan". Only one rank makes a tracker.

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
    ) -> None:
        self.mode = resolve_mode(mode)
        self._queue: queue.Queue[Callable[[Any, Any], None] | None] = queue.Queue(QUEUE_ROWS)
        self._lost = 0
        self._best_kept: set[str] = set()
        self._thread: threading.Thread | None = None
        if self.mode == "off":
            return
        self._options = {
            "id": run_id(run_dir, job_type),
            "dir": str(run_dir),
            "config": public(config or {}),
            "name": name or run_dir.name,
            "group": group,
            "job_type": job_type,
            "project": project or os.environ.get("WANDB_PROJECT", "facegan"),
        }
        self._thread = threading.Thread(target=self._work, name="facegan-wandb", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, Any]) -> None:
        """Send the numbers of a row; `progress/nimg` is its step (a job without one counts), AXIS the axis."""
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        step = _step(row)

        def send(_: Any, run: Any) -> None:
            for key in filter(LOWER_IS_BETTER.match, numbers.keys() - self._best_kept):
                run.define_metric(key, step_metric=AXIS, summary="min,last")
                self._best_kept.add(key)
            run.log(numbers, step=step)

        self._put(send)

    def log_images(self, images: Mapping[str, Path], row: Mapping[str, Any]) -> None:
        """Send picture files, e.g. `{"samples/ema": path}`, at the progress of `row`."""
        progress = {key: row[key] for key in (AXIS, "progress/epoch") if key in row}
        step = _step(row)

        def send(wandb: Any, run: Any) -> None:
            found = {key: wandb.Image(str(path)) for key, path in images.items() if path.is_file()}
            run.log({**progress, **found}, step=step)

        self._put(send)

    def log_table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send rows of numbers and texts as one table; a column is a key of any row, empty where a row lacks it."""
        columns = list(dict.fromkeys(name for row in rows for name in row))

        def send(wandb: Any, run: Any) -> None:
            run.log({key: wandb.Table(columns, [[row.get(name) for name in columns] for row in rows])})

        self._put(send)

    def log_data(self, index: Path, fingerprint: str) -> None:
        """Record the set's `index.json` as this run's input artifact (online only: W&B's own limit)."""

        def send(wandb: Any, run: Any) -> None:
            artifact = wandb.Artifact(
                f"set-{fingerprint[:12]}", type="dataset", metadata={"fingerprint": fingerprint}
            )
            artifact.add_file(str(index))
            run.use_artifact(artifact)

        if index.is_file():
            self._put_online(send)

    def log_snapshot(self, folder: Path, nimg: int) -> None:
        """Record a snapshot folder as this run's output artifact (online only)."""

        def send(wandb: Any, run: Any) -> None:
            artifact = wandb.Artifact(f"generator-{run.id}", type="model", metadata={"nimg": nimg})
            artifact.add_dir(str(folder))
            run.log_artifact(artifact, aliases=["latest", f"nimg-{nimg:09d}"])

        self._put_online(send)

    def finish(self, state: str = "finished") -> None:
        """End the W&B run as "finished", "stopped" (shown as preempted; a restart continues it) or "failed".

        Waits a bounded time for what is still to be uploaded. Calling it again does nothing.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        try:
            self._queue.put(lambda _, run: _end(run, state), timeout=FINISH_SECONDS)
            self._queue.put(None, timeout=FINISH_SECONDS)
        except queue.Full:
            self._lost += 1
        thread.join(INIT_SECONDS + FINISH_SECONDS)
        if thread.is_alive() or self._lost:
            log.warning(
                "W&B did not take everything (%d rows left out); stats.jsonl is complete, "
                "and `wandb sync` sends what lies under %s/wandb",
                self._lost,
                self._options["dir"],
            )

    def _put(self, send: Callable[[Any, Any], None]) -> None:
        if self._thread is None:
            return
        try:
            self._queue.put_nowait(send)
        except queue.Full:
            self._lost += 1

    def _put_online(self, send: Callable[[Any, Any], None]) -> None:
        self._put(lambda wandb, run: send(wandb, run) if self.mode == "online" else None)

    def _work(self) -> None:
        """Run in the thread: open the W&B run, then do what the queue says until it says None."""
        try:
            wandb, run = self._open()
            for send in iter(self._queue.get, None):
                send(wandb, run)
        except Exception as error:  # a mirror: whatever the client raises is said, and training goes on
            log.warning("W&B is off for the rest of this job: %s: %s", type(error).__name__, error)
            for _ in iter(self._queue.get, None):
                pass

    def _open(self) -> tuple[Any, Any]:
        # W&B's own error reports need a network that a compute node may not have.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if self.mode == "online":
            try:
                return wandb, self._init(wandb)
            except (wandb.Error, OSError, TimeoutError) as error:
                log.warning(
                    "W&B does not answer (%s); this job is tracked offline, send it later with `wandb sync`",
                    str(error).splitlines()[0],
                )
                wandb.teardown()  # or its service keeps the id as in use
                self.mode = "offline"
        return wandb, self._init(wandb)

    def _init(self, wandb: Any) -> Any:
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,  # it holds the command line, where a signed URL may stand
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
        )
        run = wandb.init(
            mode=self.mode,
            resume="allow",
            reinit="create_new",
            settings=settings,
            **self._options,
        )
        run.define_metric(AXIS)
        run.define_metric("*", step_metric=AXIS)
        return run


def resolve_mode(mode: str) -> str:
    """What `mode` means here: "online", "offline" or "off". Says it when online is not possible."""
    if mode not in MODES:
        raise UsageError(f"unknown W&B mode {mode!r}; it is one of {', '.join(MODES)}")
    if mode == "auto":
        mode = {"disabled": "off", "dryrun": "offline", "run": "online"}.get(wish := _wish(), wish)
    if mode == "online" and not has_key():
        log.warning(
            "no W&B key ($WANDB_API_KEY or ~/.netrc): this job is tracked offline; "
            "`wandb login`, then `wandb sync` sends it"
        )
        return "offline"
    return mode


def _wish() -> str:
    wish = os.environ.get("WANDB_MODE", "")
    if wish in ("online", "offline", "disabled", "dryrun", "run"):
        return wish
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Is there a key for the W&B server in use, without asking anybody and without importing wandb?"""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    path = os.environ.get("NETRC", str(Path("~/.netrc").expanduser()))
    try:
        return host in netrc.netrc(path).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def run_id(run_dir: Path, job_type: str) -> str:
    """The W&B id of this folder's run of this job type: made once, kept in `run_dir/wandb`."""
    path = run_dir / "wandb" / f"{job_type}.id"
    try:
        kept = path.read_text(encoding="ascii").strip()
        if _RUN_ID.fullmatch(kept):
            return kept
        log.warning("%s holds no run id; a new W&B run begins", path)
    except FileNotFoundError:
        pass
    fresh = secrets.token_hex(4)
    write_text(path, fresh + "\n")
    return fresh


def public(value: Any, name: str = "") -> Any:
    """`value` (JSON-like) without secrets: fields named like one, and what URLs carry beside their place."""
    if _SECRET_NAME.search(name):
        return "(not logged)"
    if isinstance(value, Mapping):
        return {str(key): public(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if isinstance(value, str | Path):
        return re.sub(r"://[^/@\s]+@", "://", re.sub(r"(https?://[^?\s]*)\?\S*", r"\1", str(value)))
    return value


def _step(row: Mapping[str, Any]) -> int | None:
    # nimg as W&B's step: lines that a resume repeats are the ones W&B has already, and it drops them.
    return int(row["progress/nimg"]) if "progress/nimg" in row else None


def _end(run: Any, state: str) -> None:
    run.summary["outcome"] = state
    if state == "stopped":
        run.mark_preempting()
    run.finish(exit_code=0 if state == "finished" else 1)
