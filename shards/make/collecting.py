"""From a source's entries to its listing, kept as far as they are read: killed, the next process goes on."""

import json
import logging
import shutil
import struct
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facegan.files import write_json
from shards.make.address import Where
from shards.make.celeba import kind_of
from shards.make.folders import TIME
from shards.make.listing import HIDDEN_FILE, PLACE, PLACE_STRUCT, Listing, Mark, Place, Seen, why_left_out
from shards.make.sorting import Sorter

TIME_STRUCT = struct.Struct("<q")
RECORD = "read.json"
END = "end"  # in place of a mark: the source has been read
PAUSE = 60.0  # seconds between two lines of the log

log = logging.getLogger("shards.collecting")
Runs = list[tuple[int, int]]


@dataclass
class Begun:
    """What a listing has so far, in a folder of its own: sorted runs, and up to which mark of the source they go.

    folder: None to keep nothing. What was not finished when the record was written is cut off and read again.
    """

    folder: Path | None = None
    at: Any = None
    names: int = 0  # of pictures
    left_out: Counter[str] = field(default_factory=Counter)
    tables: dict[str, tuple[str, Place]] = field(default_factory=dict)
    runs: dict[str, Runs] = field(default_factory=dict)
    told: float = field(default_factory=time.monotonic)

    def sorter(self, name: str, kind: "np.dtype[np.void]", scratch: Path | None) -> Sorter:
        """What sorts the pictures, or the folders; with the runs that are kept."""
        kept = self.folder / name if self.folder else None
        return Sorter(kind, scratch, kept, self.runs.get(name, []))

    def reached(self, at: Any, sorters: dict[str, Sorter]) -> None:
        """Keep all there is up to a mark, if runs came since the last; what memory holds is soon read again."""
        new = any(sorter.runs if at == END else sorter.has_new for sorter in sorters.values())
        if self.folder is None or self.at == END or not new:
            return
        self.at, self.runs = at, {name: sorter.keep() for name, sorter in sorters.items()}
        tables = {kind: [name, list(place)] for kind, (name, place) in self.tables.items()}
        known = {"at": at, "names": self.names, "left_out": self.left_out, "tables": tables, "runs": self.runs}
        write_json(self.folder / RECORD, known)
        if at == END:
            log.warning("all %s names are listed; next they are merged and written", f"{self.names:,}")

    def tell(self) -> None:
        """Say now and then how far it is."""
        if time.monotonic() > self.told + PAUSE:
            log.warning("%s names listed so far", f"{self.names:,}")
            self.told = time.monotonic()


def begun_in(folder: Path | None) -> Begun:
    """What a killed process left there; a new beginning where it is not whole, or there is nothing."""
    if folder is None or not (folder / RECORD).exists():
        return Begun(folder)
    try:
        known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        tables = {kind: (name, Place(*place)) for kind, (name, place) in known["tables"].items()}
        runs = {name: [(start, stop) for start, stop in found] for name, found in known["runs"].items()}
        for name, found in runs.items():
            if found and (folder / name).stat().st_size < found[-1][1]:
                raise ValueError("cut short")
        begun = Begun(folder, known["at"], int(known["names"]), Counter(known["left_out"]), tables, runs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        shutil.rmtree(folder, ignore_errors=True)
        return Begun(folder)
    log.warning("%s names were listed before, by a process that was killed: going on", f"{begun.names:,}")
    return begun


def collect(
    kind: str,
    path: Where,
    entries: Iterable[tuple[str, Place] | Seen | Mark],
    scratch: Path | None = None,
    begun: Begun | None = None,
) -> Listing:
    """Sort the pictures among `entries` by the bytes of their names (equal names in the order they come).

    scratch: folder for what memory should not hold (see `Sorter`). begun: what is kept of the entries before these.
    """
    begun = begun or Begun()
    left_out, tables = begun.left_out, begun.tables
    with (
        closing(begun.sorter("pictures", PLACE, scratch)) as pictures,
        closing(begun.sorter("folders", TIME, scratch)) as folders,
    ):
        sorters = {"pictures": pictures, "folders": folders}
        for entry in entries if begun.at != END else ():
            if isinstance(entry, Mark):
                begun.tell()
                begun.reached(entry.at, sorters)
                continue
            if isinstance(entry, Seen):
                folders.add(entry.folder, TIME_STRUCT.pack(entry.time))
                continue
            name, place = entry
            if why := why_left_out(kind, name):
                left_out[why] += 1
                if why != HIDDEN_FILE and (table := kind_of(name)):
                    tables.setdefault(table, (name, place))
                continue
            pictures.add(name, PLACE_STRUCT.pack(*place))
            begun.names += 1
        begun.reached(END, sorters)
        names, places = pictures.sorted()
        rest: dict[str, Any] = {"folders": folders.sorted(), "scratch": scratch, "kept": begun.folder}
        return Listing(kind, path, names, places, left_out, tables, **rest)
