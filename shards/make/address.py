"""Where a source may be: a path of this machine or an address, whose passwords and signatures are never told."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from shards.errors import ShardError
from shards.read.remote import attempt, cause_of, file_system, is_remote, shown, status_of

VERSIONS = ("ETag", "generation", "etag", "Last-Modified", "LastModified")  # the first that a server tells
FOLDER = "folder"  # in place of a version
PAGE = 1000  # objects that a store is asked for at once


@dataclass(frozen=True, repr=False)
class Address:
    """An object or a folder of objects at https://, s3:// or gs://.

    state: bytes and version as it was found, so that another object under the same address is never taken for it;
    None where nobody has looked yet.
    """

    url: str
    state: tuple[int, str] | None = None

    def __str__(self) -> str:
        return shown(self.url)

    __repr__ = __str__

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.plain.rstrip("/").rpartition("/")[2]

    @property
    def plain(self) -> str:
        """The address without its query: a signature made anew leaves it the same."""
        return shown(self.url).partition("?")[0]

    @property
    def size(self) -> int:
        """Bytes, as they were found."""
        return self.state[0] if self.state else 0

    @property
    def version(self) -> str:
        """What told the object from others under its address when it was found."""
        return self.state[1] if self.state else ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of a bucket."""
        return self.version == FOLDER

    def below(self, name: str) -> "Address":
        """An object in this folder."""
        return Address(f"{self.url.rstrip('/')}/{name}")


Where = Path | Address


def parse_where(text: str) -> Where:
    """A path or an address; ShardError where it is an address of a kind that is not read, or names no place."""
    if not is_remote(text):
        return Path(text)
    if text.partition("://")[2][:1] in ("", "/"):
        raise ShardError(f"{text}: an address names a host or a bucket, like s3://bucket/folder")
    return Address(text)


def full_name(where: Where) -> str:
    """What a place is called in records, from wherever it is looked at."""
    return str(where.absolute()) if isinstance(where, Path) else where.plain


@cache
def _system(scheme: str) -> Any:
    return file_system(f"{scheme}://")


def system_of(address: Address) -> Any:
    """What reads an address: one a process, as its connections and credentials are."""
    return _system(address.url.partition("://")[0])


def look(address: Address) -> Address:
    """The address with the state that it is in now; ShardError where nothing is there, or it is refused."""
    system = system_of(address)
    try:
        facts = attempt(lambda piece: system.info(address.url), str(address))
    except FileNotFoundError as error:
        raise ShardError(f"{address}: there is nothing at this address{_stated(error)}") from None
    return replace(address, state=_state(facts, address))


def refuse_changed(where: Where, then: Sequence[int | str] | None, now: Sequence[int | str] | None) -> None:
    """Raise ShardError where something else is at a place than was listed, by the states of both."""
    if now != then:
        raise ShardError(
            f"{where}: has changed since it was listed ({then} then, {now} now): "
            "run again with another OUT, or remove what was begun"
        )


def objects_below(folder: Address, after: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Name below a folder of a bucket, and what the store says of it, of every object but markers of folders.

    A page of them is in memory at a time. after: the name behind which to begin; Google's begins at it, and some
    stores begin where they always do.
    """
    system = system_of(folder)
    bucket, key, _ = system.split_path(system._strip_protocol(folder.url).rstrip("/"))
    root, token = f"{key}/" if key else "", ""
    ask = partial(_s3_page if folder.url.startswith("s3:") else _gs_page, system, bucket, root)
    while True:
        objects, token = attempt(partial(ask, root + after if after else "", token), str(folder))
        for name, facts in objects:
            if not name.endswith("/"):
                yield name.removeprefix(root), facts
        if not token:
            return


Page = tuple[
    list[tuple[str, dict[str, Any]]], str
]  # key and facts of each object, and what to ask for the next with


def _s3_page(system: Any, bucket: str, root: str, after: str, token: str, _: int) -> Page:
    more = {"ContinuationToken": token} if token else {"StartAfter": after} if after else {}
    found = system.call_s3("list_objects_v2", Bucket=bucket, Prefix=root, MaxKeys=PAGE, **more)
    objects = [(facts["Key"], facts | {"size": facts["Size"]}) for facts in found.get("Contents", ())]
    return objects, found.get("NextContinuationToken", "")


def _gs_page(system: Any, bucket: str, root: str, after: str, token: str, _: int) -> Page:
    more = ({"pageToken": token} if token else {}) | ({"startOffset": after} if after else {})
    found = system.call("GET", "b/{}/o", bucket, prefix=root, maxResults=PAGE, json_out=True, **more)
    objects = [(facts["name"], facts | {"size": int(facts["size"])}) for facts in found.get("items", ())]
    return objects, found.get("nextPageToken", "")


def _state(facts: dict[str, Any], address: Address) -> tuple[int, str]:
    if facts["type"] == "directory":
        return 0, FOLDER
    if facts.get("size") is None:
        raise ShardError(f"{address}: the server does not say how large it is: download it first")
    return int(facts["size"]), version_of(facts)


def version_of(facts: dict[str, Any]) -> str:
    """What tells one object from the next under the same address, as far as the server says."""
    return next((str(facts[name]) for name in VERSIONS if facts.get(name)), "")


def _stated(error: FileNotFoundError) -> str:
    status = status_of(cause_of(error)) or status_of(error.__cause__ or error)
    return f" (HTTP {status})" if status else ""
