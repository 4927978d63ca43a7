"""Errors a user can mend; each carries the exit code of its command."""


class FaceganError(Exception):
    """Bad input or an impossible request; the message says what, where, expected against found, what to do."""

    exit_code = 1


class UsageError(FaceganError):
    """An option or a combination of options that cannot work."""

    exit_code = 2


class DiskFullError(FaceganError):
    """No space left (or no quota) where something was to be written; what was finished before is kept."""

    exit_code = 74
