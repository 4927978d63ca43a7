"""Opening and closing a run of Weights & Biases: mode, key, id, and what is never logged."""

import logging
import netrc
import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from facegan.errors import UsageError
from facegan.files import home, write_text

MODES = ("auto", "online", "offline", "off")
AXIS = "progress/kimg"
LOWER_IS_BETTER = re.compile(r"metrics/(swd|fid|kid|randomnet_kd)\d+k?(_full)?$")
INIT_SECONDS = 20.0  # a server that has not answered by then is treated as no network

# Nothing of the terminal, the checkout or the command line, where a signed URL may stand.
QUIET: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "x_disable_meta": True,
}

Options = dict[str, Any]  # of wandb.init: id, dir, config, name, group, job_type, project

_SECRET_NAME = re.compile(r"api_?key|token|secret|passw|credential", re.IGNORECASE)
_RUN_ID = re.compile(r"[a-z0-9]{8}")

log = logging.getLogger("facegan.run.tracking")


def open_run(mode: str, options: Options, finish_seconds: float) -> tuple[Any, Any, str]:
    """W&B's module, the run, and the mode it came to: an online run without an answering server is offline."""
    # W&B's own error reports need a network that a compute node may not have.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    if mode == "online":
        try:
            return wandb, _init(wandb, mode, options, finish_seconds), mode
        except (wandb.Error, OSError, TimeoutError) as error:
            log.warning(
                "W&B does not answer (%s); this job is tracked offline: the next start, or `wandb sync`, sends it",
                str(error).splitlines()[0],
            )
            forget_service()  # or it keeps the id as in use
    return wandb, _init(wandb, "offline", options, finish_seconds), "offline"


def forget_service() -> None:
    """End W&B's service, or what is left of a dead one: the next run gets another, no hook misses it at exit."""
    try:
        if wandb := sys.modules.get("wandb"):
            wandb.teardown()
    except Exception as error:  # it is dead: whatever the client raises says so
        log.debug("W&B's service was gone: %s", error)


def _init(wandb: Any, mode: str, options: Options, finish_seconds: float) -> Any:
    settings = wandb.Settings(**QUIET, init_timeout=INIT_SECONDS, finish_timeout=finish_seconds)
    run = wandb.init(mode=mode, resume="allow", reinit="create_new", settings=settings, **options)
    follow_axis(run)
    return run


def follow_axis(run: Any) -> None:
    """Draw every number over the images seen."""
    run.define_metric(AXIS)
    run.define_metric("*", step_metric=AXIS)


def keep_best(run: Any, keys: Iterable[str]) -> None:
    """Show the lowest value of these numbers, not only the last."""
    for key in filter(LOWER_IS_BETTER.match, keys):
        run.define_metric(key, step_metric=AXIS, summary="min,last")


def close(run: Any, state: str) -> None:
    """End the run as finished, stopped (shown as preempted) or failed; waits for what is left to upload."""
    run.summary["outcome"] = state
    if state == "stopped":
        run.mark_preempting()
    run.finish(exit_code=0 if state == "finished" else 1)


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
    path = os.environ.get("NETRC", str(home() / ".netrc"))
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
