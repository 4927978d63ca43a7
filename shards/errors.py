"""What can go wrong with a set of shards that a user can mend."""

from facegan.errors import FaceganError


class ShardError(FaceganError):
    """Bad input, a damaged set or an impossible request; the message says what, where and what to do."""


class PassingError(ShardError):
    """What may have passed when the same command is run again: what is kept of a listing stays for it."""
