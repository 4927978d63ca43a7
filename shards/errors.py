"""The one error of this package: something the user can mend."""


class ShardError(Exception):
    """Bad input, a damaged set or an impossible request; the message says what, where and what to do."""

    exit_code = 1
