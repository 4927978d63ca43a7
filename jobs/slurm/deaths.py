"""Which rank died first, and of what: from the files that torch's launcher and torch's @record leave behind.

Every launcher writes `logs/deaths-JOB-START-NODE.json`; a single rank has none, and its @record writes
`logs/error-JOB-START.json`. A rank that was killed leaves no words of its own, and one that ends with a message for
people only leaves it in its log.
"""

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from facegan.errors import LOST
from facegan.files import append_json_line, json_lines, read_object, write_json
from jobs.slurm.records import job_id, restarts

CONSEQUENCE = re.compile(rf"{LOST}|by peer|[Cc]onnection (refused|closed)|NCCL|Broken pipe|SIGTERM|[Tt]imed out")
DEVICE = re.compile(r"CUDA error|uncorrectable|ECC|device-side|hardware", re.IGNORECASE)  # the node's fault
TWICE = 2  # deaths after which a node is avoided


class Death(NamedTuple):
    """A rank's end: exit code or minus the signal, when (seconds since 1970), its last words, its node."""

    rank: int
    code: int
    time: float
    words: str
    node: str

    @property
    def is_consequence(self) -> bool:
        """Whether it only lost its connection, or was ended for another's sake."""
        return bool(CONSEQUENCE.search(self.words)) or self.code == -signal.SIGTERM

    def sentence(self, logs: Path) -> str:
        how = (
            f"was killed by {signal.Signals(-self.code).name}"
            if self.code < 0
            else f"ended with exit code {self.code}"
        )
        spoken = f": {self.words}" if self.words and self.code > 0 else ""
        return f"rank {self.rank} {how}{spoken} (see {logs}/rank-{self.rank}.log)"


def write(failures: Mapping[int, tuple[int, float, Mapping[str, Any]]]) -> None:
    """By rank: exit code, time and error file of those that died on this node; needs FACEGAN_LOGS."""
    if folder := os.environ.get("FACEGAN_LOGS"):
        deaths = {
            rank: {"code": code, "time": time, "error": error} for rank, (code, time, error) in failures.items()
        }
        write_json(Path(folder) / f"deaths-{start()}-{os.environ.get('SLURM_NODEID', 0)}.json", deaths)


def start() -> str:
    """This start of this job, as part of a file's name."""
    return f"{job_id()}-{restarts()}"


def error_file(logs: Path) -> Path:
    """Where @record of a single rank writes."""
    return logs / f"error-{start()}.json"


def cause(logs: Path, sizes_before: Mapping[str, int], code: int) -> Death | None:
    """The first death that is not another's consequence, if any is not; None where nobody knows.

    `code` is srun's exit code: it tells of a single rank, which has no launcher.
    """
    deaths = []
    for path in sorted(logs.glob(f"deaths-{start()}-*.json")):
        for rank, death in read_object(path).items():
            words = _message(death["error"]) or _last_words(logs, int(rank), sizes_before)
            deaths.append(Death(int(rank), death["code"], death["time"], words, node_of(logs, int(rank))))
    deaths.sort(key=lambda death: (death.is_consequence, death.time, death.rank))
    if deaths or (logs / "rank-1.log").exists():
        return deaths[0] if deaths else None
    words = _message(read_object(error_file(logs))) or _last_words(logs, 0, sizes_before)
    return Death(0, code if code <= 128 else 128 - code, 0.0, words, node_of(logs, 0))


def remember(logs: Path, death: Death) -> None:
    """Note what the node is to blame for: a signal from outside, a fault of its device."""
    if death.code < 0 or DEVICE.search(death.words):
        append_json_line(logs / "deaths.jsonl", death._asdict())


def worn_out(logs: Path) -> list[str]:
    """The nodes on which ranks of this run died twice."""
    nodes = [death["node"] for death in json_lines(logs / "deaths.jsonl")]
    return sorted({node for node in nodes if node and nodes.count(node) >= TWICE})


def node_of(logs: Path, rank: int) -> str:
    """The node that a rank said it was on when it started last; '' where it said nothing."""
    nodes = re.findall(
        rf"^\[.*\] rank {rank} on (\S+), job", _tail(logs / f"rank-{rank}.log", 0), flags=re.MULTILINE
    )
    return nodes[-1] if nodes else ""


def _message(error: Any) -> str:
    """The message in an error file of torch's @record; its traceback is in the rank's log."""
    message = error.get("message", "") if isinstance(error, dict) else ""
    text = message.get("message", "") if isinstance(message, dict) else message
    return "" if text == "<NONE>" else str(text).strip()[:300]


def _last_words(logs: Path, rank: int, sizes_before: Mapping[str, int]) -> str:
    """The last line that says something; torch's own prefix and a Python's farewell do not."""
    name = f"rank-{rank}.log"
    lines = [
        re.sub(r"^\[rank\d+\]:", "", line).strip()
        for line in _tail(logs / name, sizes_before.get(name, 0)).splitlines()
    ]
    return next((line[:300] for line in reversed(lines) if line and not line.startswith("terminate called")), "")


def _tail(path: Path, start: int, most: int = 200_000) -> str:
    """What this attempt added to a log, at most its last `most` bytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - most))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
