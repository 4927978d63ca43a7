"""What was found in each of somebody's tars, kept until all are read: a record, and the rows that it is of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from facegan.files import read_object, sha256_file, whole_file, write_json
from shards.format.columns import Shard
from shards.format.members import Row, write_members


@dataclass
class Scan:
    """What a pass over one tar found; `rows` is the file of its rows of the member table."""

    shard: Shard
    rows: Path
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # height, width
    rejects: list[dict[str, str]] = field(default_factory=list)


def keep_scan(records: Path, scan: Scan, members: Sequence[Row], conditions: list[Any]) -> None:
    """Keep a scan and what it depends on. The rows first, their record last: an old one is of other rows."""
    record = records / f"{scan.shard.name}.json"
    record.unlink(missing_ok=True)
    with whole_file(scan.rows) as part:
        write_members(part, members)
    sizes = [[*size, count] for size, count in scan.sizes.items()]
    about = {"shard": asdict(scan.shard), "sizes": sizes, "rejects": scan.rejects}
    write_json(record, {"conditions": conditions, "rows": sha256_file(scan.rows), **about})


def kept_scan(records: Path, name: str, conditions: list[Any]) -> Scan | None:
    """The scan kept of a tar; None where it is damaged, depends on something else, or other rows lie there."""
    rows = records / f"{name}.rows"
    try:
        record = read_object(records / f"{name}.json")
        if record["conditions"] != conditions or record["rows"] != sha256_file(rows):
            return None
        sizes = Counter({(height, width): count for height, width, count in record["sizes"]})
        return Scan(Shard(**record["shard"]), rows, sizes, record["rejects"])
    except (KeyError, TypeError, ValueError, FileNotFoundError):
        return None
