"""The public data sets: fetched file by file, continuing what was cut, and kept only where the checksum fits."""

import hashlib
import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from facegan.files import disk_full_said, sync
from shards.errors import ShardError

DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
LFW = "https://vis-www.cs.umass.edu/lfw/"  # has not answered for many since 2025
FIGSHARE = "https://ndownloader.figshare.com/files/"  # where scikit-learn has LFW from
LFW_BY_HAND = "https://www.kaggle.com/datasets/jessicali9530/lfw-dataset"  # where torchvision sends people
PIECE = 1 << 18
ATTEMPTS = 6  # in a row without a byte gained
ATTEMPTS_BEFORE_A_MIRROR = 2
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds
TIMEOUT = 60.0
PASSING = {408, 425, 429}  # states below 500 that are worth another attempt
PAGE = re.compile(rb"\s*<(!doctype\s+)?html", re.IGNORECASE)
TITLE = re.compile(rb"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)

log = logging.getLogger("shards.download")
Progress = Callable[[int, int | None], None]  # bytes gained since the last call; bytes of the file, if known


@dataclass(frozen=True)
class RemoteFile:
    """A file and how to know it: MD5 as its data set's own loaders state it (torchvision).

    mirrors: tried in turn where `url` does not give the file; by_hand: a page from which a person can have it.
    """

    name: str
    url: str
    md5: str
    mirrors: tuple[str, ...] = ()
    by_hand: str = ""


def _drive(name: str, identifier: str, md5: str) -> RemoteFile:
    return RemoteFile(name, DRIVE + identifier, md5)


DATASETS = {
    "celeba": (
        _drive("list_eval_partition.txt", "0B7EVK8r0v71pY0NSMzRuSXJEVkk", "d32c9cbf5e040fd4025c592c306e6668"),
        _drive("identity_CelebA.txt", "1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS", "32bd1bd63d3c78cd57e08160ec5ed1e2"),
        _drive("list_attr_celeba.txt", "0B7EVK8r0v71pblRyaVFSWGxPY0U", "75e246fa4810816ffd6ee81facbd244c"),
        _drive("img_align_celeba.zip", "0B7EVK8r0v71pZjFTYXZWM3FlRnM", "00d2c5bc6d35e252742224ab0c1e8fcb"),
    ),
    "lfw": (
        RemoteFile(
            "lfw-deepfunneled.tgz",
            f"{LFW}lfw-deepfunneled.tgz",
            "68331da3eb755a505a502b5aacb3c201",
            (f"{LFW}lfw-deepfunneled.tgz".replace("https", "http"),),
            LFW_BY_HAND,
        ),
    ),
    "lfw-funneled": (
        RemoteFile(
            "lfw-funneled.tgz",
            f"{FIGSHARE}5976015",
            "1b42dfed7d15c9b2dd63d5e5840c86ad",
            (f"{LFW}lfw-funneled.tgz",),
        ),
    ),
    "mnist": tuple(
        RemoteFile(f"{name}.gz", f"{MNIST}{name}.gz", md5)
        for name, md5 in (
            ("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
        )
    ),
}


def download(file: RemoteFile, folder: Path, progress: Progress = lambda came, total: None) -> bool:
    """Fetch a file into `folder`; False where it was there already. Cut off at any moment, it continues.

    Raises ShardError where the server refuses, sends a page instead of the file or bytes with another
    checksum, or where nothing comes after several attempts.
    """
    target, part = folder / file.name, folder / f".{file.name}.part"
    if target.exists():
        _check(file, target, "Remove it and run the same command again")
        return False
    with disk_full_said(target):
        folder.mkdir(parents=True, exist_ok=True)
        _fetch_somewhere(file, part, target, progress)
        sync(part)
        try:
            _check(file, part, "Run the same command again; if it stays so, the file has changed at its source")
        except ShardError:
            part.unlink()
            raise
        part.replace(target)
        sync(folder)
    return True


def _check(file: RemoteFile, path: Path, advice: str) -> None:
    with path.open("rb") as stream:
        md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != file.md5:
        raise ShardError(f"{path}: wrong checksum: MD5 {md5}, expected {file.md5}. {advice}")


def _fetch_somewhere(file: RemoteFile, part: Path, target: Path, progress: Progress) -> None:
    """Fetch from the first of the addresses that gives the file: what came from one is continued from the next."""
    urls = file.url, *file.mirrors
    for url, following in pairwise(urls):
        try:
            return _fetch(replace(file, url=url), part, target, progress, ATTEMPTS_BEFORE_A_MIRROR)
        except ShardError:
            log.warning("%s does not give the file, trying %s", url, following)
    return _fetch(replace(file, url=urls[-1]), part, target, progress, ATTEMPTS)


class _CutError(Exception):
    """The line broke or the server stumbled: another attempt may get further."""


def _fetch(file: RemoteFile, part: Path, target: Path, progress: Progress, attempts: int) -> None:
    """Append to `part` until the server says that this is all of it."""
    failures = 0
    while True:
        size = _size(part)
        try:
            return _append(file, part, target, progress)
        except _CutError as error:
            failures = 1 if _size(part) > size else failures + 1
            if failures >= attempts:
                raise ShardError(
                    f"{file.url}: {attempts} attempts in a row failed, the last with: {error}. What came is "
                    "kept: run the same command again, on a machine with internet (a login node). "
                    f"{_by_hand(file, target)}"
                ) from None
        time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1)))


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _append(file: RemoteFile, part: Path, target: Path, progress: Progress) -> None:
    size = _size(part)
    response = _open(file, size, target)
    if response is None:
        return
    with response, part.open("ab") as out:
        if response.status != http.client.PARTIAL_CONTENT:  # ranges are not understood here: everything comes
            out.truncate(0)
            size = 0
        total = size + response.length if response.length is not None else None
        progress(size, total)
        for piece in _pieces(response, file, target):
            out.write(piece)
            progress(len(piece), total)


def _open(file: RemoteFile, start: int, target: Path) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `start` on; None where there are no more."""
    headers = {"User-Agent": "facegan", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(file.url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                return None
            if error.code < 500 and error.code not in PASSING:
                raise ShardError(f"{file.url}: refused: {error}. {_by_hand(file, target)}") from None
            raise _CutError(str(error)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(str(error) or type(error).__name__) from None
    return response


def _pieces(response: http.client.HTTPResponse, file: RemoteFile, target: Path) -> Iterator[bytes]:
    """What the server sends; _CutError where it ends before the length that was announced."""
    first = True
    while True:
        try:
            piece = response.read(PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(str(error) or type(error).__name__) from None
        if first and (response.headers.get_content_type() == "text/html" or PAGE.match(piece)):
            raise _page(piece, file, target)
        if not piece:
            break
        first = False
        yield piece
    if response.length:
        raise _CutError(f"the connection was cut {response.length:,} bytes before the end")


def _page(text: bytes, file: RemoteFile, target: Path) -> ShardError:
    """What to say where a web page came instead of the file."""
    title = TITLE.search(text)
    named = f" ({title[1].decode('utf-8', 'replace').strip()[:80]})" if title else ""
    if b"quota" in text.lower():
        why = "too many people fetched it lately and its quota is used up: try again in a day"
    else:
        why = "it wants a confirmation or a login, or the file has moved"
    return ShardError(
        f"{file.url}: the server sent a web page{named} instead of {file.name}: {why}. {_by_hand(file, target)}"
    )


def _by_hand(file: RemoteFile, target: Path) -> str:
    elsewhere = f". Or take the pictures from {file.by_hand}: preprocess reads its zip" if file.by_hand else ""
    return f"Or fetch it with a browser and put it at {target}: the same command then checks it{elsewhere}"
