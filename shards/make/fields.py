"""Labels beside the pictures of anybody's tars, by webdataset's names: `.cls`, a number, and `.json`, an object."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.labels import UNKNOWN
from shards.format.mapping import Bytes, map_file
from shards.format.tar import members
from shards.make.samples import Group, samples, split_of

CLASS, IDENTITY = "cls", "identity"
NO_IDENTITY = np.iinfo(np.int64).min
MOST_VALUE, MOST_IDENTITY = np.iinfo(np.int16).max, np.iinfo(np.int64).max
DECIMAL = re.compile(rb"\s*[+-]?\d{1,19}\s*")
NAME = re.compile(r"[^\s=,](?:[^=,]{0,62}[^\s=,])?")  # of an attribute: what `--where` can ask for
MAX_BYTES = 1 << 20  # of a member
FIRST = 256  # samples looked at before the others
MOST = 1024  # attributes
MOST_SEEN, MOST_UNUSED = 1 << 14, 64  # other names that are known in a tar; that are told
AT_ONCE = 1 << 12  # samples whose labels are Python's objects


@dataclass(frozen=True)
class Fields:
    """What is read of each sample: the attributes of these names, and whether an identity is."""

    names: tuple[str, ...] = ()
    identity: bool = False

    @property
    def kind(self) -> "np.dtype[np.void]":
        """A sample's labels: UNKNOWN and NO_IDENTITY for what it does not say; nothing where nothing is read."""
        columns = [(IDENTITY, "<i8"), ("values", "<i2", (len(self.names),))]
        return np.dtype(columns if self.identity or self.names else [])


@dataclass
class Told:
    """What was met of labels in some samples.

    known: how many samples say each attribute, and the identity; unfit: attributes that had another value than a
    small whole number; unused: other names, not all where there are many.
    """

    known: Counter[str] = field(default_factory=Counter)
    unfit: set[str] = field(default_factory=set)
    unused: set[str] = field(default_factory=set)

    def add(self, other: "Told") -> None:
        """Take in what was met in other samples."""
        self.known.update(other.known)
        self.unfit |= other.unfit
        self.note(other.unused)

    def note(self, names: Iterable[str]) -> None:
        """Remember some names that are not used."""
        shown = ("".join(each if each.isprintable() else "?" for each in name[:64]) for name in sorted(names))
        self.unused.update([*shown][: max(0, MOST_UNUSED - len(self.unused))])

    def to_json(self) -> dict[str, Any]:
        """For a record on disk."""
        return {"known": self.known, "unfit": sorted(self.unfit), "unused": sorted(self.unused)}

    @classmethod
    def from_json(cls, stated: dict[str, Any]) -> "Told":
        """From such a record; KeyError or TypeError where it is none."""
        return cls(Counter(stated["known"]), set(stated["unfit"]), set(stated["unused"]))


class LabelRows:
    """Gathers the labels of a tar's samples."""

    def __init__(self, fields: Fields) -> None:
        self.fields, self.told = fields, Told()
        self._blocks = list[NDArray[np.void]]()
        self._some = list[tuple[int, list[int]]]()
        self._seen = {*fields.names, IDENTITY}  # and names that are not used

    def add(self, stated: dict[str, Any]) -> None:
        """Add a sample that says this of itself."""
        if not self.fields.kind.names:
            return
        get = stated.get
        values = [
            value
            if type(value := get(name)) is int and -MOST_VALUE <= value <= MOST_VALUE
            else self._odd(name, value)
            for name in self.fields.names
        ]
        identity = self._odd(IDENTITY, get(IDENTITY), NO_IDENTITY) if self.fields.identity else NO_IDENTITY
        self._some.append((identity, values))
        if not stated.keys() <= self._seen and len(self._seen) < MOST_SEEN:
            new = stated.keys() - self._seen
            self.told.note(new)
            self._seen |= new
        if len(self._some) == AT_ONCE:
            self.blocks()

    def blocks(self) -> list[NDArray[np.void]]:
        """All labels so far, rows of `Fields.kind`."""
        if self._some:
            rows = np.array(self._some, self.fields.kind)
            counts = (rows["values"] != UNKNOWN).sum(axis=0).tolist()
            self.told.known.update(dict(zip(self.fields.names, counts, strict=True)))
            self.told.known[IDENTITY] += int((rows[IDENTITY] != NO_IDENTITY).sum())
            self._blocks.append(rows)
            self._some.clear()
        return self._blocks

    def _odd(self, name: str, value: Any, unknown: int = UNKNOWN) -> int:
        """A value that is not simply a number."""
        try:
            number = _whole(name, value)
        except ValueError:
            self.told.unfit.add(name)
            return unknown
        return unknown if number is None else number


def find_fields(folder: Path, tars: Iterable[str]) -> Fields:
    """What can be read of all samples: whole numbers in the first FIRST of the first tar of each split.

    A field that has another value in one of them is left out. Raises ShardError for a damaged tar.
    """
    first: dict[str, Path] = {}
    for name in tars:
        first.setdefault(split_of(name), folder / name)
    known, unfit = dict.fromkeys([CLASS], False), set[str]()
    for path in first.values():
        for stated in islice(_stated(path), FIRST):
            for name, value in stated.items():
                try:
                    known[name] = _whole(name, value) is not None or known.get(name, False)
                except ValueError:
                    unfit.add(name)
    names = [name for name, some in known.items() if some and name not in unfit]
    attributes = [name for name in names if name != IDENTITY and NAME.fullmatch(name) and name.isprintable()]
    return Fields(tuple(attributes[:MOST]), IDENTITY in names)


def stated_of(group: Group, data: Bytes) -> dict[str, Any]:
    """What a sample's members say of it; nothing where they cannot be read. `.cls` is its identity as well."""
    stated: dict[str, Any] = {}
    for extension, entry in group:
        if extension not in (CLASS, "json") or not entry.plain or entry.size > MAX_BYTES:
            continue
        text = data[entry.offset : entry.offset + entry.size].tobytes()
        if extension == "json":
            stated = _object(text) | stated
        else:
            number = int(text) if DECIMAL.fullmatch(text) else text
            stated |= {CLASS: number, IDENTITY: number}
    return stated


def _stated(path: Path) -> Iterator[dict[str, Any]]:
    data = map_file(path)
    return (stated_of(group, data) for _, group in samples(members(path)))


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _whole(name: str, value: Any) -> int | None:
    """A value as a number: 7 and 7.0 are 7, true is 1; None for null and NaN; ValueError for anything else."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or abs(value) > (MOST_IDENTITY if name == IDENTITY else MOST_VALUE):
        raise ValueError(f"{name}: no whole number that fits")
    return int(value)
