"""How many pictures go into a shard: few enough files for any set, enough of them to share the work."""

import re

from shards.errors import ShardError
from shards.format.png import Geometry

MOST_BYTES = 256 << 20  # of a shard: 10^9 images of 128 px are then 190,000 files
WANTED_SHARDS = 64  # of a set, so that slices and ranks share the work
FEWEST_SAMPLES = 256  # of a shard of a small set: more, smaller files would help nobody
SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SHARD_BYTES = re.compile(r"(\d+)([KMG]?)(?:i?B)?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """A number of bytes, written like 268435456, 256M or 1G (powers of 1024); ShardError for anything else."""
    match = SHARD_BYTES.fullmatch(text)
    if match is None or not int(match[1]):
        raise ShardError(f"--shard-bytes {text}: expected a number of bytes, like 256M or 1G")
    return int(match[1]) * SUFFIXES[match[2].upper()]


def samples_per_shard(pictures: int, geometries: list[Geometry], most_bytes: int | None = None) -> int:
    """Pictures in each shard of the sets that are made together, one set a geometry.

    most_bytes: of the largest shard, where it was asked for. Otherwise as many pictures as make WANTED_SHARDS
    shards, at least FEWEST_SAMPLES, and at most MOST_BYTES.
    """
    fitting = (most_bytes or MOST_BYTES) // max(geometry.stride for geometry in geometries)
    wanted = fitting if most_bytes else max(FEWEST_SAMPLES, -(-pictures // WANTED_SHARDS))
    return max(1, min(fitting, wanted))
