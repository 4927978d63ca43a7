"""A finished set at an address: each file whole, what is there already left as it is, the index last.

An object store has no rename and no locks: a file appears whole, as stores have it; the index is written when all
that it names is there; and one writer at a time holds a mark that stores with conditional writes give only once.
Slices send the shards that each has made, side by side: what they are part of is said by the set's plan, which is
sent first, if it is not there. They need no mark, as who closes the set looks at all that is there.
"""

import hashlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from facegan.files import append_json_line, json_lines
from facegan.owner import process_identity
from shards.errors import ShardError
from shards.format.columns import cut
from shards.format.index import NAME, ShardIndex, columns_of, load_index, read_summary
from shards.make.address import Address, objects_below, system_of, version_of
from shards.make.claims import Slice
from shards.make.closing import close_set, sets_begun, whole_index
from shards.make.listing import state_of
from shards.make.plan import PLAN, Options, parse_plan, read_plan
from shards.make.writer import is_unchanged
from shards.read.node import slurm_folder
from shards.read.remote import attempt, failure_types

MARK = ".writer.json"
STALE_AFTER = 900.0  # seconds without a sign of life of another machine's writer; a mark is renewed with each file
DONE = ".uploaded.jsonl"  # in the set's folder: what was sent, and the version that the store gave it

Progress = Callable[[int], None]


def refuse_unwritable(address: Address) -> None:
    """Raise ShardError where nothing can be written to such an address."""
    if address.url.startswith("http"):
        raise ShardError(f"{address}: sets are written to s3:// or gs://, or into a folder")


def upload(out: Path, address: Address, progress: Progress = lambda count: None) -> dict[str, ShardIndex]:
    """Send every set of OUT (or OUT/64 alone) to the address, closed first if slices made it; indices by address.

    The same call again continues. Raises ShardError where shards are missing, another set is at the address, or
    another writer; and where the store has other files at the end than were sent.
    """
    refuse_unwritable(address)
    folders = sets_begun(out)
    if not folders:
        raise ShardError(f"{out}: no set was made here by `facegan preprocess`")
    if not all(map(whole_index, folders)):
        close_set(out)
    sent = {}
    for folder in folders:
        target = address.below(folder.name) if folder != out else Address(address.url.rstrip("/"))
        sent[str(target)] = _Upload(folder, target, progress).run()
    return sent


def upload_slice(options: Options, address: Address, progress: Progress = lambda count: None) -> None:
    """Send the shards of this slice; the tables and the index follow with `upload`, which misses none.

    The same call again sends what it has not sent. Raises ShardError where another set was begun at the address.
    """
    for folder in map(options.folder, options.sizes):
        _Upload(folder, address.below(folder.name), progress, options.slice).run_slice()


def is_finished(address: Address, options: Options) -> bool:
    """Whether the sets are at the address already, made with these options from a source that has not changed.

    False also where that cannot be said, as of a folder of pictures.
    """
    refuse_unwritable(address)
    for size in options.sizes:
        target = address.below(options.folder(size).name).url
        try:
            system = system_of(address)
            attempt(partial(_cat, system, f"{target}/{NAME}"), target)
            plan = parse_plan(attempt(partial(_cat, system, f"{target}/{PLAN}"), target), f"{target}/{PLAN}")
        except FileNotFoundError:
            return False
        if not is_unchanged(plan, options):
            return False
    return True


def _cat(system: Any, url: str, piece: int) -> bytes:
    return bytes(system.cat_file(url))


def scratch_for(address: Address, folder: Path | None) -> Path:
    """Where the sets for an address are made: below `folder`, or below what Slurm gave the job."""
    refuse_unwritable(address)
    parent = folder or slurm_folder()
    if parent is None:
        raise ShardError(
            f"{address}: give --scratch DIR, a folder with room for the whole set, which is made there first"
        )
    return parent / f"facegan-{address.name}-{hashlib.sha256(address.plain.encode()).hexdigest()[:8]}"


class _Upload:
    """One set on its way."""

    def __init__(self, folder: Path, target: Address, progress: Progress, part: Slice = (0, 1)) -> None:
        self.folder, self.target, self.progress, self.part = folder, target, progress, part
        self.system = system_of(target)
        index, count = part
        self.done = folder / (DONE if count == 1 else f"{Path(DONE).stem}-{index}-of-{count}.jsonl")

    @cached_property
    def index(self) -> ShardIndex:
        return load_index(self.folder)

    def run_slice(self) -> None:
        with suppress(FileExistsError):
            self._write(PLAN, (self.folder / PLAN).read_bytes(), mode="create")
        self._refuse_other()
        sent, plan = self._sent([self.done]), read_plan(self.folder)
        span = cut(len(plan), *self.part) if plan else range(0)
        for name, _, _ in plan.shards_between(span.start, span.stop) if plan else ():
            if name not in sent and (self.folder / name).exists():  # one of rejects alone has no file
                self._send(name)

    def run(self) -> ShardIndex:
        theirs = self._read(NAME)
        if theirs is not None and theirs != (self.folder / NAME).read_bytes():
            raise ShardError(f"{self.target}: holds another set: choose another address, or remove that one")
        with self._marked() as renew:
            self._refuse_other()
            sent = self._sent(self.folder.glob(f"{Path(DONE).stem}*.jsonl"))
            there = self._listed()
            for name in self._names():
                if sent.get(name) != there.get(name) or name not in sent:
                    renew()
                    sent[name] = self._send(name)
            there = self._listed()
            other = [name for name in self._names() if there.get(name) != sent[name]]
            if other:
                raise ShardError(f"{self.target}: {other[0]} is not what was sent: somebody else writes there")
            self._send(NAME)
        return self.index

    def _sent(self, records: Iterable[Path]) -> dict[str, tuple[int, str]]:
        """Size and version of what was sent, by name, if the file here is still the one that was."""
        return {
            row["name"]: (row["size"], row["version"])
            for record in records
            for row in json_lines(record)
            if row.get("state") == state_of(self.folder / row["name"])
        }

    def _refuse_other(self) -> None:
        """Raise ShardError where a set was begun there that is not this one."""
        theirs, ours = self._read(PLAN), read_plan(self.folder)
        begun = None if theirs is None else parse_plan(theirs, f"{self.target}/{PLAN}")
        if begun is not None and ours is not None and begun.fixed != ours.fixed:
            raise ShardError(
                f"{self.target}: another set was begun there: choose another address, or remove that one"
            )

    def _names(self) -> Iterator[str]:
        """The set's files but for the index itself."""
        columns = columns_of(read_summary(self.folder / NAME))
        yield from (PLAN, *(file.name for file in self.index.side_files), *([columns.name] if columns else []))
        yield from (shard.name for shard in self.index.shards)

    def _url(self, name: str) -> str:
        return f"{self.target.url}/{name}"

    def _send(self, name: str) -> tuple[int, str]:
        """Send a file; its size and the version that the store gave it, which are kept beside the set."""
        state = state_of(self.folder / name)
        self._do(name, lambda: self.system.put_file(str(self.folder / name), self._url(name)))
        facts = attempt(lambda piece: self.system.info(self._url(name)), self._url(name))
        size = (self.folder / name).stat().st_size
        if facts["size"] != size:
            raise ShardError(f"{self.target}/{name}: {facts['size']:,} bytes there, {size:,} were sent: run again")
        if name != NAME:
            row = {"name": name, "size": size, "version": version_of(facts), "state": state}
            append_json_line(self.done, row)
        self.progress(size)
        return size, version_of(facts)

    def _listed(self) -> dict[str, tuple[int, str]]:
        """Size and version of what is there, by name below the address."""
        return {name: (facts["size"], version_of(facts)) for name, facts in objects_below(self.target)}

    def _write(self, name: str, content: bytes, **how: Any) -> None:
        self._do(name, lambda: self.system.pipe_file(self._url(name), content, **how))

    def _do(self, name: str, act: Callable[[], Any]) -> None:
        """Act until it succeeds; see `attempt`. ShardError where there is no such bucket."""

        def done(piece: int) -> bool:
            act()
            return True

        try:
            attempt(done, self._url(name))
        except FileNotFoundError:
            raise ShardError(f"{self.target}: there is no such bucket: make it first") from None

    def _read(self, name: str) -> bytes | None:
        try:
            return attempt(partial(_cat, self.system, self._url(name)), self._url(name))
        except FileNotFoundError:
            return None

    @contextmanager
    def _marked(self) -> Iterator[Callable[[], None]]:
        """Hold the mark; what is yielded renews it, and raises ShardError where another holds it now."""
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": process_identity(os.getpid())}
        content = json.dumps(mine | {"token": secrets.token_hex(8)}).encode()
        try:
            self._write(MARK, content, mode="create")
        except FileExistsError:
            if self._read(MARK) != content:  # it is not ours, written by an attempt whose answer was lost
                self._refuse_live()
                self._write(MARK, content)

        def renew() -> None:
            if self._read(MARK) != content:
                raise ShardError(f"{self.target}: another writer has taken it over: only one may write there")
            self._write(MARK, content)

        try:
            yield renew
        finally:
            with suppress(ShardError, *failure_types()):  # one that may not be removed becomes stale
                if self._read(MARK) == content:
                    self.system.rm_file(self._url(MARK))

    def _refuse_live(self) -> None:
        """Raise ShardError where the writer whose mark is there may be alive."""
        try:
            facts, raw = attempt(lambda piece: self.system.info(self._url(MARK)), self._url(MARK)), self._read(MARK)
        except FileNotFoundError:
            return  # it has ended meanwhile
        other: dict[str, Any] = {}
        with suppress(ValueError):
            other = dict(json.loads(raw or b"{}"))
        if other.get("host") == socket.gethostname():
            if not isinstance(other.get("pid"), int) or process_identity(other["pid"]) != other.get("started"):
                return
        elif time.time() - _written(facts) > STALE_AFTER:
            return
        raise ShardError(
            f"{self.target}: process {other.get('pid')} on {other.get('host')} writes there. If it is gone, run "
            f"again {STALE_AFTER / 60:.0f} minutes after its last file, or remove {self.target}/{MARK}"
        )


def _written(facts: dict[str, Any]) -> float:
    """When an object was written, in seconds since 1970; now, where the store does not say."""
    when: Any = facts.get("LastModified") or facts.get("mtime")
    return float(when.timestamp()) if hasattr(when, "timestamp") else time.time()
