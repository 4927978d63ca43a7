"""What is known of samples beside their pixels, attributes and identity; and the part of a split that has some."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.mapping import Bytes
from shards.read.choice import Choice
from shards.read.images import Images

if TYPE_CHECKING:
    import torch

CONDITION = re.compile(r"\s*(?P<name>[^=,]+?)\s*=\s*(?P<value>-?\d+)\s*")


@dataclass(frozen=True)
class Labels:
    """Labels of n samples, in the order of the split's.

    names: of the attributes; values: (n, attributes) int16, as the source has them (CelebA's -1 and 1 become 0
    and 1), UNKNOWN where the source says nothing of the sample; identities: (n,) int64, numbers that are equal
    where the source's identities are, -1 where it has none.
    """

    names: tuple[str, ...]
    values: NDArray[np.int16]
    identities: Ints

    @property
    def identity_count(self) -> int:
        """All identities are below this number."""
        return int(self.identities.max(initial=-1)) + 1

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, samples: Ints | slice) -> "Labels":
        return Labels(self.names, self.values[samples], self.identities[samples])

    def where(self, conditions: str) -> Ints:
        """The samples that meet all conditions, like "Smiling=1,Male=0": their numbers, ascending.

        Raises ShardError where an attribute is not known, or no sample meets them.
        """
        (chosen,) = self.masks(conditions)
        refuse_none(int(chosen.sum()), conditions, len(self))
        return np.flatnonzero(chosen)

    def masks(self, conditions: str) -> Iterator[NDArray[np.bool_]]:
        """Which samples meet conditions: (n,), at once."""
        chosen = np.ones(len(self), bool)
        for name, value in parse_conditions(conditions, self.names):
            chosen &= self.values[:, self.names.index(name)] == value
        yield chosen


class AnyLabels(Protocol):
    """Labels of a split, in memory (`Labels`) or where they lie (`LabelsInPlace`)."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def values(self) -> NDArray[np.int16]: ...
    @property
    def identities(self) -> Ints: ...
    @property
    def identity_count(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, samples: Ints) -> Labels: ...
    def where(self, conditions: str) -> Ints: ...
    def masks(self, conditions: str) -> Iterator[NDArray[np.bool_]]: ...


def refuse_none(chosen: int, conditions: str, samples: int) -> None:
    """Raise ShardError where none of a split's samples are chosen."""
    if not chosen:
        raise ShardError(f"--where {conditions}: no sample of {samples:,} meets it")


def parse_conditions(conditions: str, known: Sequence[str]) -> list[tuple[str, int]]:
    """Names and values of conditions like "Smiling=1,Male=0"; ShardError where one is not of the `known` names."""
    matches = [CONDITION.fullmatch(part) for part in conditions.split(",")]
    found = [(match["name"], int(match["value"])) for match in matches if match and match["name"] in known]
    if len(found) < len(matches):
        raise ShardError(
            f"--where {conditions}: expected ATTRIBUTE=NUMBER, separated by commas, with attributes of "
            f"the set: {', '.join(known) or 'it has none'}"
        )
    return found


class LabelsInPlace(ABC):
    """Labels that stay where they are: those of some samples are read when they are asked for."""

    names: tuple[str, ...]

    @property
    @abstractmethod
    def identity_count(self) -> int:
        """All identities are below this number."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, samples: Ints) -> Labels:
        """The labels of these samples (int64, (m,), in [0, n))."""

    @property
    def values(self) -> NDArray[np.int16]:
        """All samples' attributes, in memory: see `Labels`."""
        return self[np.arange(len(self))].values

    @property
    def identities(self) -> Ints:
        """All samples' identities, in memory: see `Labels`."""
        return self[np.arange(len(self))].identities

    def where(self, conditions: str) -> Ints:
        """See `Labels.where`."""
        chosen = np.flatnonzero(np.concatenate([np.empty(0, bool), *self.masks(conditions)]))
        refuse_none(len(chosen), conditions, len(self))
        return chosen

    @abstractmethod
    def masks(self, conditions: str) -> Iterator[NDArray[np.bool_]]:
        """Which samples meet conditions, as `Labels.where` has them, some samples at a time in their order."""


class JoinedLabels(LabelsInPlace):
    """See `join_labels`."""

    def __init__(self, parts: Sequence[AnyLabels]) -> None:
        self.parts, self.names = parts, parts[0].names
        self._firsts = np.cumsum([0, *map(len, parts)])
        self._shifts = np.cumsum([0, *(part.identity_count for part in parts)])

    @property
    def identity_count(self) -> int:
        return int(self._shifts[-1])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, samples: Ints) -> Labels:
        if len(samples) and (samples.min() < 0 or samples.max() >= len(self)):
            raise ShardError(f"labels {samples.min()} to {samples.max()} asked for, there are 0 to {len(self) - 1}")
        values, identities = np.empty((len(samples), len(self.names)), np.int16), np.empty(len(samples), np.int64)
        which = np.searchsorted(self._firsts, samples, side="right") - 1
        for number, part in enumerate(self.parts):
            mine = np.flatnonzero(which == number)
            some = part[samples[mine] - self._firsts[number]]
            values[mine] = some.values
            identities[mine] = np.where(some.identities < 0, -1, some.identities + self._shifts[number])
        return Labels(self.names, values, identities)

    def masks(self, conditions: str) -> Iterator[NDArray[np.bool_]]:
        """See `LabelsInPlace.masks`."""
        for part in self.parts:
            yield from part.masks(conditions)


def join_labels(parts: Sequence[AnyLabels]) -> JoinedLabels:
    """The labels of a mixture's images: those of its sets one after the other, their identities kept apart.

    Each set's stay where they are. Raises ShardError where the sets have other attributes.
    """
    names = parts[0].names
    for labels in parts:
        if labels.names != names:
            raise ShardError(f"labels of {', '.join(labels.names)} do not go with those of {', '.join(names)}")
    return JoinedLabels(parts)


class Subset(Images):
    """Some images of a split, numbered anew in its order; its shards are shards of the split."""

    def __init__(self, images: Images, chosen: Choice | Ints) -> None:
        self.images = images
        self.chosen = chosen = chosen if isinstance(chosen, Choice) else Choice.of(chosen)
        self.height, self.width, self.channels = images.height, images.width, images.channels
        self.shards, self.split, self.files = images.shards, images.split, images.files
        self.version, self.mapped = images.version, images.mapped
        self.firsts = chosen.before(images.firsts)

    def numbers(self) -> Ints:
        """The samples' numbers in the split: (n,), ascending."""
        return self.chosen[np.arange(len(self))]

    def places(self, indices: Ints) -> Ints:
        """See `Images.places`."""
        self.locate(indices)
        return self.images.places(self.chosen[indices])

    def gather_at(self, places: Ints) -> Bytes:
        """See `Images.gather_at`."""
        return self.images.gather_at(places)

    def batch_at(self, places: Ints) -> "torch.Tensor":
        """See `Images.batch_at`."""
        return self.images.batch_at(places)

    def will_need(self, places: Ints) -> None:
        """See `Images.will_need`."""
        self.images.will_need(places)

    def keys(self, indices: Ints) -> list[str]:
        """See `Images.keys`."""
        return self.images.keys(self.chosen[indices])

    def expect(self, now: Ints, then: Ints) -> None:
        """See `Images.expect`."""
        self.images.expect(now, then)
