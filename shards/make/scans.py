"""What was found in each of anybody's tars, kept until the set is whole: a file a tar.

It begins with a line of JSON; then come the rejects, a line each, the rows of the member table, the labels.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facegan.files import whole_file
from shards.format.columns import Shard
from shards.format.mapping import Bytes, map_file
from shards.format.members import Row, member_type, rows_of
from shards.make.fields import Fields, LabelRows, Told

AT_ONCE = 1 << 12  # rows that are Python's objects
MOST_SIZES = 100  # that are told apart
Sizes = Counter[tuple[int, int]]  # how many pictures have each height and width


@dataclass
class Found:
    """What was met in some samples: sizes of pictures, why samples cannot be used, and labels."""

    sizes: Sizes = field(default_factory=Sizes)
    by_reason: Counter[str] = field(default_factory=Counter)
    told: Told = field(default_factory=Told)

    def add(self, other: "Found") -> None:
        """Take in what was met in other samples."""
        self.sizes.update(other.sizes)
        self.by_reason.update(other.by_reason)
        self.told.add(other.told)

    def to_json(self) -> dict[str, Any]:
        """For a record on disk."""
        sizes = [[*size, count] for size, count in self.sizes.items()]
        return {"sizes": sizes, "by_reason": self.by_reason, "told": self.told.to_json()}

    @classmethod
    def from_json(cls, stated: dict[str, Any]) -> "Found":
        """From such a record; KeyError, TypeError or ValueError where it is none."""
        sizes = Sizes({(height, width): count for height, width, count in stated["sizes"]})
        return cls(sizes, Counter(stated["by_reason"]), Told.from_json(stated["told"]))


@dataclass(frozen=True)
class Scan:
    """What a pass over one tar found; `file` holds what there is of each sample, from these bytes on."""

    file: Path
    shard: Shard
    found: Found
    starts: tuple[int, int, int, int]  # of rejects, members and labels, and the end

    def rejects(self) -> bytes:
        """A line of JSON for each sample that cannot be used."""
        return self._section(0).tobytes()

    def members(self) -> NDArray[np.void]:
        """Its rows of the member table."""
        return rows_of(self._section(1), self.shard.samples, self.file)

    def labels(self, fields: Fields) -> NDArray[np.void]:
        """Its labels, rows of `Fields.kind`."""
        return self._section(2).view(fields.kind)

    def _section(self, number: int) -> Bytes:
        return map_file(self.file)[slice(*self.starts[number : number + 2])]


class Record:
    """Gathers what is found in a tar, then keeps it."""

    def __init__(self, fields: Fields) -> None:
        self.labels, self.samples = LabelRows(fields), 0
        self._found = Found(told=self.labels.told)
        self._rejects = list[str]()
        self._rows, self._some = list[NDArray[np.void]](), list[Row]()

    def reject(self, shard: str, key: str, reason: str, detail: str) -> None:
        """Add a sample that cannot be used."""
        self._found.by_reason[reason] += 1
        about = {"shard": shard, "key": key, "reason": reason, "detail": detail}
        self._rejects.append(json.dumps(about) + "\n")

    def add(self, row: Row, size: tuple[int, int], stated: dict[str, Any]) -> None:
        """Add a sample: its row of the member table, height and width, and what it says of itself."""
        self.samples += 1
        sizes = self._found.sizes
        if size in sizes or len(sizes) < MOST_SIZES:
            sizes[size] += 1
        self.labels.add(stated)
        self._some.append(row)
        if len(self._some) == AT_ONCE:
            self._close_block()

    def keep(self, file: Path, shard: Shard, conditions: list[Any]) -> None:
        """Write it all as `file`, whole or not at all, with what it depends on."""
        self._close_block()
        labels = self.labels.blocks()
        width = max((rows.dtype["key"].itemsize for rows in self._rows), default=1)
        members = [rows.astype(member_type(width)) for rows in self._rows]
        rejects = "".join(self._rejects).encode("ascii")
        sections = [[memoryview(rejects)], [each.data for each in members], [each.data for each in labels]]
        head = {
            "conditions": conditions,
            "shard": asdict(shard),
            **self._found.to_json(),
            "lengths": [sum(each.nbytes for each in section) for section in sections],
        }
        with whole_file(file) as part, part.open("wb") as stream:
            stream.write(json.dumps(head).encode("ascii") + b"\n")
            for section in sections:
                for each in section:
                    stream.write(each)

    def _close_block(self) -> None:
        if self._some:
            width = max(1, *(len(row[3]) for row in self._some))
            self._rows.append(np.array(self._some, member_type(width)))
            self._some.clear()


def kept_scan(file: Path, conditions: Sequence[Any]) -> Scan | None:
    """The scan kept in a file; None where there is none, or it is damaged or depends on something else."""
    try:
        with file.open("rb") as stream:
            line = stream.readline()
            head = json.loads(line)
            rejects, members, labels, end = accumulate(head["lengths"], initial=len(line))
            if head["conditions"] != conditions or end != file.stat().st_size:
                return None
        return Scan(file, Shard(**head["shard"]), Found.from_json(head), (rejects, members, labels, end))
    except (KeyError, TypeError, ValueError, FileNotFoundError):
        return None
