"""What can go wrong with a set of shards that a user can mend."""


class ShardError(Exception):
    """Bad input, a damaged set or an impossible request; the message says what, where and what to do."""

    exit_code = 1


class DiskFullError(ShardError):
    """No space left (or no quota) where a shard should go; what was finished before is kept."""

    exit_code = 74
