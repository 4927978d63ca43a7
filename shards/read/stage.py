"""Copies a set shard by shard into a node-local folder, checked by hash, once for all ranks of the node.

The ranks of a node agree through locks: whoever reads or fetches a shard holds its lock shared, whoever evicts it
alone; a second lock lets one at a time check or fetch it. A killed rank's locks are gone with it, and what it had
fetched is continued by the next. What lies there from an earlier start is hashed again before it is read.
"""

import os
import queue
import random
import stat
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from facegan.files import disk_full_said, sha256_file
from facegan.owner import process_identity
from shards.errors import ShardError
from shards.format.columns import Shard, Table
from shards.format.index import ShardIndex
from shards.read.locks import FIRST_FILE, ROOM, Locks
from shards.read.remote import Source, fetch, is_remote

CONNECTIONS, ROOM_TIMEOUT, ROOM_PAUSE = 4, 600.0, 0.2  # threads, seconds, seconds
Progress = Callable[[int], None]


class Stage:
    """The files of a set on their way into a local folder (see `shards.read.files.Files`)."""

    def __init__(
        self, source: Source, folder: Path, locks: Locks, index: ShardIndex, limit: int | None, progress: Progress
    ) -> None:
        self.source, self.folder, self.locks, self.limit, self.progress = source, folder, locks, limit, progress
        self.shards, self.bytes = index.shards, int(index.shards.bytes.sum())
        self.asked = limit  # for all stages that share it
        tables = [*index.side_tables, *index.member_parts, *index.labels]
        self._tables = {table.name: len(self.shards) + place for place, table in enumerate(tables)}
        self._thread_locks: defaultdict[str, threading.Lock] = defaultdict(
            threading.Lock
        )  # of this process's threads
        self._counting = threading.Lock()
        self._held: set[str] = set()  # those in use here, their locks held shared
        self._start = process_identity(os.getppid())  # the same for the ranks of one start: their launcher
        self._born = time.time()
        self._wanted: queue.SimpleQueue[Shard] = queue.SimpleQueue()
        self._fetchers: list[threading.Thread] = []

    @property
    def partial(self) -> bool:
        """Whether there is no room for all shards at a time."""
        return self.limit is not None and self.limit < self.bytes

    def path(self, shard: Shard) -> Path:
        """The shard as a local file, fetched first where it is not there yet."""
        return self.hold(shard)

    def hold(self, file: Shard | Table) -> Path:
        """Fetch a file where need be, and keep it from being evicted."""
        with self._thread_locks[file.name]:
            if file.name not in self._held and self._obtain(file, patient=True):
                self._held.add(file.name)
        return self.folder / file.name

    def missing(self) -> int:
        """Bytes that the folder lacks of the set."""
        sizes = zip(self.shards.names, self.shards.bytes.tolist(), strict=True)
        return sum(size for name, size in sizes if not (self.folder / name).exists())

    def prepare(self, shards: Sequence[Shard]) -> None:
        """Fetch all of them, unless the stage has room for some at a time only."""
        if self.partial:
            return
        shuffled = random.Random(os.getpid()).sample(list(shards), len(shards))  # so that ranks share the work
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="stage") as pool:
            for _ in pool.map(self.hold, shuffled):
                pass

    def expect(self, now: Sequence[Shard], then: Sequence[Shard]) -> None:
        """Release all shards but `now`, and fetch `then` in the background as far as there is room."""
        if not self.partial:
            return
        needed = sum({shard.name: shard.bytes for shard in (*now, *then)}.values())
        if self.limit is not None and needed > self.limit and not self._fetchers:
            gigabytes = needed * (self.asked or self.limit) / self.limit / 1e9
            raise ShardError(
                f"a stage of {self.limit / 1e9:.2f} GB is too small: this rank reads {len(now)} shards at a time "
                f"and needs the next {len(then)} beside them: raise --stage-gb to {gigabytes:.2f} GB for each "
                "rank of a node, or begin a new run with fewer --streams, which read fewer shards at a time"
            )
        kept = {*self._tables, *(shard.name for shard in now)}
        for name in self._held - kept:
            self._release(name)
        for shard in (*now, *then):
            if not (self.folder / shard.name).exists():
                self._wanted.put(shard)
        while len(self._fetchers) < CONNECTIONS:
            self._fetchers.append(threading.Thread(target=self._fetch_ahead, name="stage", daemon=True))
            self._fetchers[-1].start()

    def _release(self, name: str) -> None:
        with self._thread_locks[name]:
            os.utime(self._seal_path(name), (0, 0))  # done with: the first to go when room is needed
            self._held.discard(name)
            self.locks.free(self._lock_of(name))

    def _lock_of(self, name: str) -> int:
        """The number of the lock that who uses a file holds shared; the next is his who fetches it."""
        number = self._tables[name] if name in self._tables else self.shards.find(name)
        if number is None:
            raise ShardError(f"{name}: no file of the set at {self.source.address}")
        return FIRST_FILE + 2 * number

    def _fetch_ahead(self) -> None:
        while True:
            shard = self._wanted.get()
            try:
                with self._thread_locks[shard.name]:
                    if shard.name not in self._held and self._obtain(shard, patient=False):
                        self.locks.free(self._lock_of(shard.name))
            except (ShardError, OSError):
                continue  # whoever needs the shard meets the same error, and is told

    def _obtain(self, file: Shard | Table, patient: bool) -> bool:
        """Take a shared lock on a file that is there and whole; False where there is no room and no patience."""
        number = self._lock_of(file.name)
        self.locks.share(number)
        try:
            there = self._is_sealed(file) or self._check_or_fetch(file, patient)
        except BaseException:
            self.locks.free(number)
            raise
        if not there:
            self.locks.free(number)
        return there

    def _check_or_fetch(self, file: Shard | Table, patient: bool) -> bool:
        """Seal what an earlier start left, if it is whole, else fetch it: one process of the node at a time.

        Who reads a file that is replaced keeps the one it has mapped.
        """
        number = self._lock_of(file.name) + 1
        self.locks.alone(number)
        try:
            if self._is_sealed(file):
                return True
            if self._identity(file) and sha256_file(self.folder / file.name) == file.sha256:
                self._seal(file)
                return True
            return self._fetch(file, patient)
        finally:
            self.locks.free(number)

    def _fetch(self, file: Shard | Table, patient: bool) -> bool:
        path = self.folder / file.name
        if not self._make_room(file, patient):
            return False
        part = self._part_path(file.name)
        with disk_full_said(path):
            for _ in range(2):
                fetch(self.source, file.name, file.bytes, part, self.progress)
                sha256 = sha256_file(part)
                if sha256 == file.sha256:
                    with self._locked_room():  # names change under this lock only, so that they can be counted
                        part.replace(path)
                    self._seal(file)
                    return True
                os.truncate(part, 0)  # perhaps a line's fault, or another version's remains: again from the start
        raise ShardError(
            f"{self.source.address}/{file.name}: fetched twice, and its SHA-256 is {sha256[:12]}..., the index "
            f"says {file.sha256[:12]}...: the shard is damaged at its source; {self._advice}"
        )

    @property
    def _advice(self) -> str:
        """How to see what is wrong with the set: only a folder can be verified."""
        address = self.source.address
        if is_remote(address):
            return "copy the set into a folder: `facegan shards verify FOLDER` says which samples are hit"
        return f"`facegan shards verify {address}` says which samples are hit"

    def _seal(self, file: Shard | Table) -> None:
        """Note that the file as it is now was hashed by this start."""
        self._seal_path(file.name).write_text(self._identity(file), encoding="utf-8")

    def _is_sealed(self, file: Shard | Table) -> bool:
        """Whether a rank of this start has hashed the file, and nothing has touched it since."""
        try:
            return self._seal_path(file.name).read_text(encoding="utf-8") == self._identity(file) != ""
        except (FileNotFoundError, UnicodeDecodeError):
            return False

    def _identity(self, file: Shard | Table) -> str:
        """This start, and what changes with the file's content; empty where it is not ours or not of its size."""
        try:
            facts = (self.folder / file.name).lstat()
        except FileNotFoundError:
            return ""
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_size != file.bytes:
            return ""
        return f"{self._start} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"

    def _make_room(self, file: Shard | Table, patient: bool) -> bool:
        """Reserve room for a file, waiting for it if `patient`."""
        if self.limit is not None and file.bytes > self.limit and file.name not in self._tables:
            raise ShardError(
                f"{self.folder}: {file.name} has {file.bytes:,} bytes, the stage may hold {self.limit:,} of its "
                "set: raise --stage-gb"
            )
        deadline = time.monotonic() + ROOM_TIMEOUT
        while not self._reserve(file, everything=patient):
            if not patient:
                return False
            if time.monotonic() > deadline:
                raise ShardError(
                    f"{self.folder}: no room for {file.name} within a limit of {self.limit or 0:,} bytes: all "
                    "shards there are being read. Raise --stage-gb, or run fewer ranks on this node"
                )
            time.sleep(ROOM_PAUSE)
        return True

    def _reserve(self, file: Shard | Table, everything: bool) -> bool:
        """Evict shards until the file fits: those done with, or any that nobody reads."""
        with self._locked_room():
            if self.limit is not None and file.name not in self._tables:
                present = self._present(leave_out=file.name)
                room = self.limit - sum(size for _, size in present.values())
                for name, (used, size) in sorted(present.items(), key=lambda item: item[1][0]):
                    if room < file.bytes and (everything or used < self._born):
                        room += size * self._evict(name)
                if room < file.bytes:
                    return False
            self._part_path(file.name).touch()
            return True

    def _present(self, leave_out: str) -> dict[str, tuple[float, int]]:
        """Shards that take room, fetched or being fetched: when each was last of use, and its bytes."""
        present: dict[str, tuple[float, int]] = {}
        for entry in os.scandir(self.folder):
            name = entry.name.removeprefix(".").removesuffix(".part")
            place = None if name == leave_out else self.shards.find(name)
            if place is not None:
                seal = self._seal_path(name)
                used = seal.stat().st_mtime if seal.exists() else entry.stat().st_mtime
                present[name] = used, int(self.shards.bytes[place])
        return present

    def _evict(self, name: str) -> bool:
        """Remove a shard, unless somebody reads or fetches it; whether it is gone."""
        lock = self._thread_locks[name]
        if not lock.acquire(blocking=False):
            return False
        try:
            if name in self._held or not self.locks.try_alone(self._lock_of(name)):
                return False
            for path in (self.folder / name, self._part_path(name), self._seal_path(name)):
                path.unlink(missing_ok=True)
            self.locks.free(self._lock_of(name))
            return True
        finally:
            lock.release()

    @contextmanager
    def _locked_room(self) -> Iterator[None]:
        with self._counting:
            self.locks.alone(ROOM)
            try:
                yield
            finally:
                self.locks.free(ROOM)

    def _part_path(self, name: str) -> Path:
        return self.folder / f".{name}.part"

    def _seal_path(self, name: str) -> Path:
        return self.folder / f".{name}.hashed"


def share_room(stages: Sequence[Stage], limit: int) -> None:
    """Divide a limit (bytes) among stages that are read together: what a small set leaves, larger ones have."""
    by_size, asked = sorted(stages, key=lambda stage: stage.bytes), limit
    for left, stage in zip(range(len(stages), 0, -1), by_size, strict=True):
        stage.asked, stage.limit = asked, max(1, min(stage.bytes, limit // left))
        limit -= stage.limit
