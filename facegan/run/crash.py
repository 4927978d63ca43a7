"""A process that the kernel kills for touching memory it cannot have: which signal, and what it means."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEANING = {
    "Bus error": "a shard was cut or replaced while it was read (SIGBUS); {commands} names it",
    "Segmentation fault": "SIGSEGV",
}


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Inside, a crash leaves its signal and the line it came from in `path`."""
    before = faulthandler.is_enabled()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        faulthandler.enable(file)
        try:
            yield
        finally:
            faulthandler.disable()
            path.unlink(missing_ok=True)
            if before:
                faulthandler.enable()


def last_crash(run_dir: Path, *sets: str) -> str:
    """What an earlier start of the run died of, with what to type next; empty where none crashed."""
    for path in sorted(run_dir.glob("logs/rank-*.crash")):
        text = path.read_text(encoding="utf-8", errors="replace")
        path.unlink()
        for name, meaning in MEANING.items():
            if name in text:
                folders = [f"`facegan shards verify {each}`" for each in sets if "://" not in each]
                commands = " or ".join(folders) or "the stage, hashed anew by this start,"
                return f"{path.stem} died of {name.lower()}: {meaning.format(commands=commands)}"
    return ""
