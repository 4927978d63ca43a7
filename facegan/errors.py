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


LOST = "another rank has ended without a word"
LOST_WORDS = f"{LOST}: killed, out of memory, or its node was lost; its own log or `dmesg` there says which. "
LOST_WORDS += "The same command again continues the run"
DEVICE = "CUDA error"  # of an earlier kernel of this rank, told where its results are waited for


@contextmanager
def between_ranks(words: str = LOST_WORDS) -> Iterator[None]:
    """Around a message between ranks; LostRankError where it fails, for which gloo and NCCL have RuntimeErrors."""
    try:
        yield
    except RuntimeError as error:
        if DEVICE in str(error):
            raise
        raise LostRankError(f"{words} ({str(error).splitlines()[0]})") from error
