"""The records of finished shards, kept beside a set until it is closed: facts, lines of the side table, rejects."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from facegan.files import whole_file
from shards.errors import ShardError
from shards.format.members import Row, write_members
from shards.make.sorting import name_bytes

FOLDER = ".parts"
CONTENT_MODULUS = 1 << 256


@dataclass(frozen=True)
class Part:
    """What is known of a finished shard; `content` is the sum of content_of its pictures, in hexadecimal."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str
    rejects: int
    by_reason: dict[str, int]
    content: str


def content_of(name: str, data: bytes | None) -> int:
    """The fingerprint of one picture, a 256-bit number from its name and bytes.

    The sum over a source, modulo 2^256, does not depend on how it was cut into shards and slices.
    """
    digest = hashlib.sha256(name_bytes(name) + b"\0")
    digest.update(b"unreadable" if data is None else hashlib.sha256(data).digest())
    return int.from_bytes(digest.digest(), "big")


def count_reasons(rejects: list[dict[str, str]]) -> dict[str, int]:
    """How many pictures were rejected for each reason, sorted by reason."""
    return dict(sorted(Counter(reject["reason"] for reject in rejects).items()))


def part_path(folder: Path, shard: str) -> Path:
    """Where the record of a set's shard lies."""
    return folder / FOLDER / f"{Path(shard).stem}.jsonl"


def members_path(folder: Path, shard: str) -> Path:
    """Where the rows of a shard's encoded members lie until the set has its member table."""
    return part_path(folder, shard).with_suffix(".members")


def write_part(
    folder: Path, part: Part, samples: list[str], rejects: list[dict[str, str]], rows: Sequence[Row] = ()
) -> None:
    """Write the record of a shard that is whole: `samples` are JSON lines of the side table, `rows` its members."""
    if rows:
        with whole_file(members_path(folder, part.name)) as path:
            write_members(path, rows)
    lines = [json.dumps(asdict(part)), *samples, *map(json.dumps, rejects)]
    target = part_path(folder, part.name)
    with whole_file(target) as path:
        path.write_text("\n".join(lines) + "\n", encoding="ascii")


def read_part(folder: Path, shard: str) -> Part | None:
    """The record of a shard, if it is there and the shard too, of the stated length (absent without samples)."""
    try:
        with part_path(folder, shard).open(encoding="ascii") as lines:
            part = Part(**json.loads(lines.readline()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ShardError(f"{part_path(folder, shard)}: damaged ({error}): remove it, then run again") from None
    file = folder / shard
    present = file.stat().st_size if file.exists() else None
    return part if present == (part.bytes if part.samples else None) else None


def read_lines(folder: Path, part: Part) -> tuple[bytes, bytes]:
    """A shard's lines of the side table, and a line for each of its pictures that was rejected."""
    lines = part_path(folder, part.name).read_bytes().splitlines(keepends=True)[1:]
    if len(lines) != part.samples + part.rejects:
        raise ShardError(f"{part_path(folder, part.name)}: damaged: remove it, then run again")
    return b"".join(lines[: part.samples]), b"".join(lines[part.samples :])
