"""Copies a set shard by shard into a node-local folder, checked by hash, once for all ranks of the node.

The ranks of a node agree through lock files: whoever reads a shard holds its lock shared, whoever fetches or evicts
it holds it alone. A killed rank's locks are gone with it, and what it had fetched is continued by the next.
"""

import fcntl
import os
import queue
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from facegan.files import disk_full_said, sha256_file
from shards.errors import ShardError
from shards.format.index import MAX_INDEX_BYTES, NAME, Shard, ShardIndex, Table, load_index
from shards.read.remote import RemoteSource, Source, fetch, read_whole
from shards.read.sets import ShardSet

SUBFOLDER = "facegan-shards"  # of $SLURM_TMPDIR
CONNECTIONS = 4
ROOM_TIMEOUT, ROOM_PAUSE = 600.0, 0.2  # seconds
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "panfs", "wekafs", "9p"}
Progress = Callable[[int], None]


def open_staged(source: Source, folder: Path, limit: int | None, progress: Progress | None = None) -> ShardSet:
    """The set at `source`, its shards staged into a subfolder of `folder` that is named after its content.

    Without a limit, or with one that the set fits in, a split is fetched whole when it is opened. With a smaller
    limit (bytes, over all splits) shards come ahead of need and go when they are done with.
    Raises ShardError where there is no set, or no room for it.
    """
    index, place = _fetch_index(source, folder)
    stage = Stage(source, place, index, limit, progress or (lambda count: None))
    if not stage.partial:
        _check_disk(place, index)
    if index.members == "encoded" and index.table:
        stage.hold(index.table)
    return ShardSet(index, place, stage)


def open_remote(
    address: str, resolution: int | None, stage: Path | None, limit: int | None, progress: Progress | None = None
) -> ShardSet:
    """The set at an address OUT or OUT/64; see `open_staged` and `shards.open_set`."""
    folder = stage or slurm_folder()
    if folder is None:
        raise ShardError(f"{address}: give --stage DIR, a folder on a local disk to copy the shards to")
    try:
        opened = open_staged(RemoteSource(address), folder, limit, progress)
    except FileNotFoundError:
        if resolution is None:
            raise ShardError(f"{address}: no {NAME} there; give the address of one set, or a resolution") from None
        return open_remote(f"{address.rstrip('/')}/{resolution}", None, folder, limit, progress)
    if resolution not in (None, opened.height):
        raise ShardError(f"{address}: images of {opened.height} px, resolution {resolution} was asked for")
    return opened


def slurm_folder() -> Path | None:
    """The stage in the node-local folder that Slurm made for this job, if it made one."""
    folder = os.environ.get("SLURM_TMPDIR")
    return Path(folder) / SUBFOLDER if folder else None


def automatic_folder(folder: Path) -> Path | None:
    """Where a set in a mounted folder is staged unasked: in $SLURM_TMPDIR, if the folder is on a network."""
    return slurm_folder() if slurm_folder() and file_system_of(folder) in NETWORK_FILE_SYSTEMS else None


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The kind of file system that a folder lies on, as Linux names it; "" where that cannot be found out."""
    if not mounts.exists():
        return ""
    fields = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    kinds = {each[4]: each[each.index("-") + 1] for each in fields if "-" in each}
    here = folder.resolve()
    return next((kinds[str(parent)] for parent in (here, *here.parents) if str(parent) in kinds), "")


class Stage:
    """The files of a set on their way into a local folder (see `shards.read.images.Files`)."""

    def __init__(
        self, source: Source, folder: Path, index: ShardIndex, limit: int | None, progress: Progress
    ) -> None:
        self.source, self.folder, self.limit, self.progress = source, folder, limit, progress
        self.sizes = {shard.name: shard.bytes for shard in index.shards}
        self.partial = limit is not None and limit < sum(self.sizes.values())
        self._room_path = folder / ".room.lock"
        self._held: dict[str, int] = {}  # the lock, held shared, of each shard in use
        self._born = time.time()
        self._wanted: queue.SimpleQueue[Shard] = queue.SimpleQueue()
        self._fetchers: list[threading.Thread] = []

    def path(self, shard: Shard) -> Path:
        """The shard as a local file, fetched first where it is not there yet."""
        return self.hold(shard)

    def hold(self, file: Shard | Table) -> Path:
        """Fetch a file where need be, and keep it from being evicted."""
        if file.name not in self._held:
            lock = self._obtain(file, patient=True)
            if lock is not None:
                self._held[file.name] = lock
        return self.folder / file.name

    def prepare(self, shards: Sequence[Shard]) -> None:
        """Fetch all of them, unless the stage has room for some at a time only."""
        if self.partial:
            return
        turn = random.Random(os.getpid()).sample(list(shards), len(shards))  # so that ranks share the work
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="stage") as pool:
            for _ in pool.map(self.hold, turn):
                pass

    def expect(self, now: Sequence[Shard], then: Sequence[Shard]) -> None:
        """Release all shards but `now`, and fetch `then` in the background as far as there is room."""
        if not self.partial:
            return
        needed = sum({shard.name: shard.bytes for shard in (*now, *then)}.values())
        if self.limit is not None and needed > self.limit and not self._fetchers:
            raise ShardError(
                f"a stage of {self.limit / 1e9:.2f} GB is too small: this rank reads {len(now)} shards at a time "
                f"and needs the next {len(then)} beside them: raise the limit to {needed / 1e9:.2f} GB for each "
                "rank of a node"
            )
        for name in set(self._held) & set(self.sizes) - {shard.name for shard in now}:
            self._release(name)
        for shard in (*now, *then):
            if not (self.folder / shard.name).exists():
                self._wanted.put(shard)
        while len(self._fetchers) < CONNECTIONS:
            self._fetchers.append(threading.Thread(target=self._fetch_ahead, name="stage", daemon=True))
            self._fetchers[-1].start()

    def _release(self, name: str) -> None:
        os.utime(self.folder / name, (0, 0))  # done with: the first to go when room is needed
        os.close(self._held.pop(name))

    def _fetch_ahead(self) -> None:
        while True:
            shard = self._wanted.get()
            try:
                lock = self._obtain(shard, patient=False)
            except (ShardError, OSError):
                continue  # whoever needs the shard meets the same error, and is told
            if lock is not None:
                os.close(lock)

    def _obtain(self, file: Shard | Table, patient: bool) -> int | None:
        """A shared lock on a file that is there; None where there is no room and one is not to wait for it."""
        path = self.folder / file.name
        lock = os.open(self._lock_path(file.name), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while True:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if path.exists():
                    return lock
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists() and not self._fetch(file, patient):
                    os.close(lock)
                    return None
        except BaseException:
            os.close(lock)
            raise

    def _fetch(self, file: Shard | Table, patient: bool) -> bool:
        path = self.folder / file.name
        if not self._make_room(file, patient):
            return False
        part = self._part_path(file.name)
        with disk_full_said(path):
            for _ in range(2):
                fetch(self.source, file.name, file.bytes, part, self.progress)
                found = sha256_file(part)
                if found == file.sha256:
                    with _locked(self._room_path):  # names change under this lock only, so that they can be counted
                        part.replace(path)
                    return True
                os.truncate(part, 0)  # perhaps a line's fault, or another version's remains: again from the start
        raise ShardError(
            f"{self.source.address}/{file.name}: fetched twice, and its SHA-256 is {found[:12]}..., the index says "
            f"{file.sha256[:12]}...: the shard is damaged at its source; `facegan shards verify` there says where"
        )

    def _make_room(self, file: Shard | Table, patient: bool) -> bool:
        """Reserve room for a file, waiting for it if `patient`."""
        deadline = time.monotonic() + ROOM_TIMEOUT
        while not self._reserve(file, everything=patient):
            if not patient:
                return False
            if time.monotonic() > deadline:
                raise ShardError(
                    f"{self.folder}: no room for {file.name} within a limit of {self.limit or 0:,} bytes: all "
                    "shards there are being read. Raise the limit, or run fewer ranks on this node"
                )
            time.sleep(ROOM_PAUSE)
        return True

    def _reserve(self, file: Shard | Table, everything: bool) -> bool:
        """Evict shards until the file fits: those done with, or any that nobody reads."""
        with _locked(self._room_path):
            if self.limit is not None and file.name in self.sizes:
                present = self._present(leave_out=file.name)
                room = self.limit - sum(self.sizes[name] for name in present)
                for name, used in sorted(present.items(), key=lambda item: item[1]):
                    if room < file.bytes and (everything or used < self._born):
                        room += self._evict(name)
                if room < file.bytes:
                    return False
            self._part_path(file.name).touch()
            return True

    def _present(self, leave_out: str) -> dict[str, float]:
        """Shards that take room, fetched or being fetched, and when each was last of use."""
        found: dict[str, float] = {}
        for entry in os.scandir(self.folder):
            name = entry.name.removeprefix(".").removesuffix(".part")
            if name in self.sizes and name != leave_out:
                found[name] = entry.stat().st_mtime
        return found

    def _evict(self, name: str) -> int:
        """Remove a shard that nobody reads or fetches; the bytes gained."""
        lock = os.open(self._lock_path(name), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.folder / name).unlink(missing_ok=True)
            self._part_path(name).unlink(missing_ok=True)
            return self.sizes[name]
        except BlockingIOError:
            return 0
        finally:
            os.close(lock)

    def _part_path(self, name: str) -> Path:
        return self.folder / f".{name}.part"

    def _lock_path(self, name: str) -> Path:
        return self.folder / f".{name}.lock"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _fetch_index(source: Source, folder: Path) -> tuple[ShardIndex, Path]:
    """Fetch and check the index, into the subfolder of `folder` for data of that fingerprint."""
    raw = read_whole(source, NAME, MAX_INDEX_BYTES)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".index-") as scratch:
        (Path(scratch) / NAME).write_bytes(raw)
        try:
            index = load_index(Path(scratch))
        except ShardError as error:
            raise ShardError(str(error).replace(scratch, source.address)) from None
        place = folder / index.fingerprint[:16]
        place.mkdir(exist_ok=True)
        (Path(scratch) / NAME).replace(place / NAME)
    return index, place


def _check_disk(place: Path, index: ShardIndex) -> None:
    needed = sum(shard.bytes for shard in index.shards if not (place / shard.name).exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ShardError(
            f"{place}: the set needs {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free: give --stage-limit, "
            "so that shards come and go, or another --stage folder"
        )
