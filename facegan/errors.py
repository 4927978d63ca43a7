"""Errors a user can mend; each carries the exit code of its command."""

from collections.abc import Iterator
from contextlib import contextmanager


class FaceganError(Exception):
    """Bad input or an impossible request; the message says what, where, expected against found, what to do."""

    exit_code = 1


class UsageError(FaceganError):
    """An option or a combination of options that cannot work."""

    exit_code = 2


class DiskFullError(FaceganError):
    """No space left (or no quota) where something was to be written; what was finished before is kept."""

    exit_code = 74


class LostRankError(FaceganError):
    """A message between ranks did not come through: another rank is no more."""


LOST = "another rank has ended without a word: killed, out of memory, or its node was lost; its own log or `dmesg` "
LOST += "there says which. The same command again continues the run"


@contextmanager
def between_ranks(words: str = LOST) -> Iterator[None]:
    """Around a message between ranks; LostRankError where it fails, for which gloo and NCCL have RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(f"{words} ({str(error).splitlines()[0]})") from error
