"""Where the files of a set are, as its readers see it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from shards.errors import ShardError
from shards.format.columns import Shard, Table

LOOKED_AT = 4096


class Files(Protocol):
    """Where the files of a set are: in a folder, or on their way into one (`shards.read.stage`)."""

    @property
    def partial(self) -> bool:
        """Whether the folder never holds the whole set."""
        ...

    def path(self, shard: Shard) -> Path:
        """The shard as a local file; waits until it is there."""
        ...

    def hold(self, file: Shard | Table) -> Path:
        """A file of the set as a local file, kept as long as the set is open."""
        ...

    def prepare(self, shards: Sequence[Shard]) -> None:
        """These will be read: look whether they are in order, or fetch them."""
        ...

    def expect(self, now: Sequence[Shard], then: Sequence[Shard]) -> None:
        """Only `now` will be read for the time being, `then` soon; a stage fetches and evicts by it."""
        ...


class Folder:
    """The files of a set that lies in a local folder."""

    partial = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, shard: Shard) -> Path:
        """The shard's path; ShardError where it is missing or has another size than the index says."""
        path = self.folder / shard.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ShardError(f"{path}: in the index, but cannot be read: {error.strerror}") from None
        if size != shard.bytes:
            raise ShardError(
                f"{path}: {size:,} bytes, the index says {shard.bytes:,}; "
                f"`facegan shards verify {self.folder}` says which samples are hit"
            )
        return path

    def hold(self, file: Shard | Table) -> Path:
        """The file's path."""
        return self.folder / file.name

    def prepare(self, shards: Sequence[Shard]) -> None:
        """ShardError where one of the shards is missing or has another size than the index says.

        Of more than LOOKED_AT shards, so many are looked at, spread evenly; the others when they are mapped. Ten
        thousand ranks that ask a shared file system for a million files each would stop it.
        """
        for shard in shards[:: max(1, -(-len(shards) // LOOKED_AT))]:
            self.path(shard)

    def expect(self, now: Sequence[Shard], then: Sequence[Shard]) -> None:
        """Nothing to do: everything is here."""
