"""Who works in OUT: each slice of a preprocess owns its part of the shards; what all need is made by the first."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

from facegan.errors import FaceganError
from facegan.owner import OwnedError, Owner

SLICE = re.compile(r"\.slice-(\d+)-of-(\d+)\.json")
PAUSE = 0.5  # seconds between two looks at what another process makes

log = logging.getLogger("shards.claims")
Slice = tuple[int, int]


@contextmanager
def claimed(out: Path, part: Slice) -> Iterator[None]:
    """Own slice I of N of OUT, so that no other process writes the same shards.

    Raises FaceganError naming the job or process that is at work on any of them.
    """
    refuse_live(out, [other for other in _slices(out) if other != part and _overlap(other, part)])
    owner = _owner(out, part)
    _claim(owner)
    try:
        yield
    finally:
        _release(owner)
        with suppress(OSError):  # not empty: others are at work, or something was made
            out.rmdir()


def refuse_live(out: Path, parts: list[Slice] | None = None) -> None:
    """Raise FaceganError where one of these slices of OUT, or any at all, is still at work."""
    for part in _slices(out) if parts is None else parts:
        _owner(out, part).refuse_beside_live()


def is_alone(out: Path, part: Slice) -> bool:
    """Whether no other slice of OUT is known to be at work."""
    try:
        refuse_live(out, [other for other in _slices(out) if other != part])
    except FaceganError:
        return False
    return True


def forget(out: Path) -> None:
    """Remove the records of owners, where nobody is at work any more."""
    for pattern in (".slice-*.json", "..slice-*.lock", "..source-*.lock", "..listing-*.lock"):
        for file in out.glob(pattern):
            file.unlink(missing_ok=True)


def made_once(target: Path, make: Callable[[], None]) -> None:
    """Have one process make `target`; others that come wait for it. Where it was killed, the next makes it anew."""
    announced = False
    while not target.exists():
        owner = Owner(target.with_name(f"{target.name}.owner.json"), "choose another OUT")
        try:
            _claim(owner, watch=False)  # nobody may hold the lock for long: the maker needs it to end
        except OwnedError as error:
            if not announced:
                log.warning("waiting for %s: %s", target.name, error)
            announced = True
            sleep(PAUSE)
            continue
        try:
            if not target.exists():
                make()
        finally:
            _release(owner)


def _release(owner: Owner) -> None:
    owner.release()
    owner.path.with_name(f".{owner.path.name}.lock").unlink(missing_ok=True)


def _claim(owner: Owner, watch: bool = True) -> None:
    try:
        owner.claim(log.warning, watch)
    except FileNotFoundError:  # the last one who worked here has just removed the folder
        owner.claim(log.warning, watch)


def _owner(out: Path, part: Slice) -> Owner:
    index, count = part
    return Owner(out / f".slice-{index}-of-{count}.json", "choose another OUT")


def _slices(out: Path) -> list[Slice]:
    """The slices of OUT that have an owner, dead or alive."""
    matches = [SLICE.fullmatch(path.name) for path in out.glob(".slice-*.json")]
    return [(int(match[1]), int(match[2])) for match in matches if match]


def _overlap(one: Slice, other: Slice) -> bool:
    (a, m), (b, n) = one, other
    return a * n < (b + 1) * m and b * m < (a + 1) * n
