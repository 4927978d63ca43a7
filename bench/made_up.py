"""Sources of N pictures that take little room and time to make: enough of each for a listing."""

import io
import os
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np

ENTRY = struct.Struct("<4s2B5H3L5H2L")  # of a zip's directory
KEYS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1"}
SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
OBJECT = (
    "<Contents><Key>faces/{0:012d}.jpg</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{0:032x}&quot;</ETag><Size>12345</Size></Contents>"
)


def make_folder(path: Path, names: int, in_folder: int) -> Path:
    """Empty files, `in_folder` in each folder, or all in `path` where they are no more."""
    for number in range(names):
        folder = path / f"{number // in_folder:05d}" if names > in_folder else path
        if number % in_folder == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:09d}.jpg").touch()
    return path


def make_tree(path: Path, names: int) -> Path:
    """A picture in a folder of its own, a hundred of which lie in one."""
    for number in range(names):
        folder = path / f"{number % max(1, names // 100):04d}/person_{number:07d}"
        folder.mkdir(parents=True)
        (folder / "a.jpg").touch()
    return path


def make_zip(path: Path, names: int) -> Path:
    """The directory of a zip alone, in no order of names."""
    with path.open("wb") as stream:
        stream.write(b"PK\3\4" + bytes(60))
        start = stream.tell()
        for number in range(names):
            name = f"{number % 1000:05d}/{number:09d}.jpg".encode()
            stream.write(ENTRY.pack(b"PK\1\2", 20, 3, 20, 0, 0, 0, 0, number, 0, 0, len(name), *[0] * 6) + name)
        end = stream.tell()
        stream.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, names, names, end - start, start))
        stream.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0))
    return path


def make_list(path: Path, names: int, columns: int) -> Path:
    """A csv of addresses with names in no order, and so many attributes of 0 and 1."""
    rng = np.random.default_rng(0)
    tails = [",".join(["", *row]) for row in rng.choice(["0", "1"], (1000, columns))]
    with path.open("w") as stream:
        stream.write(",".join(["url", "name", *(f"a{number}" for number in range(columns))]) + "\n")
        for number, key in enumerate(rng.permutation(names).tolist()):
            stream.write(f"https://host/{number}.jpg,{key:012x}.jpg{tails[key % 1000]}\n")
    return path


def make_annotations(folder: Path, names: int, columns: int) -> Path:
    """CelebA's files of attributes, identities and parts of the pictures that `make_zip` names."""
    rng = np.random.default_rng(0)
    tails = [" ".join(row) for row in rng.choice(["-1", "1"], (1000, columns))]
    folder.mkdir()
    with (
        (folder / "list_attr_celeba.txt").open("w") as attributes,
        (folder / "identity_CelebA.txt").open("w") as identities,
        (folder / "list_eval_partition.txt").open("w") as parts,
    ):
        attributes.write(f"{names}\n{' '.join(f'A{number}' for number in range(columns))}\n")
        for number, identity in enumerate(rng.integers(1, 10_178, names).tolist()):
            name = f"{number:09d}.jpg"
            attributes.write(f"{name} {tails[number % 1000]}\n")
            identities.write(f"{name} {identity}\n")
            parts.write(f"{name} {number * 10 // names // 8}\n")
    return folder


def make_tars(folder: Path, pictures: list[bytes], names: int, in_tar: int) -> Path:
    """WebDataset tars of these pictures again and again."""
    folder.mkdir()
    for first in range(0, names, in_tar):
        with tarfile.open(folder / f"{first // in_tar:05d}.tar", "w") as tar:
            for number in range(first, min(first + in_tar, names)):
                picture = pictures[number % len(pictures)]
                member = tarfile.TarInfo(f"{number:09d}.jpg")
                member.size = len(picture)
                tar.addfile(member, io.BytesIO(picture))
    return folder


@contextmanager
def made_up_bucket(names: int) -> Iterator[str]:
    """The address of a folder of a bucket that a server on loopback tells of, to all processes begun inside."""
    context = get_context("spawn")
    here, there = context.Pipe()
    store = context.Process(target=serve, args=(names, there), daemon=True)
    store.start()
    try:
        os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{here.recv()}")
        yield "s3://b/faces"
    finally:
        store.kill()
        store.join()


def serve(names: int, port: Connection) -> None:
    """Answer as S3 does, until killed."""
    _Bucket.names = names
    with HTTPServer(("127.0.0.1", 0), _Bucket) as server:
        port.send(server.server_port)
        server.serve_forever()


class _Bucket(BaseHTTPRequestHandler):
    """Pages of the names of a bucket (`ListObjectsV2`)."""

    protocol_version, names = "HTTP/1.1", 0

    def do_HEAD(self) -> None:
        self._answer(404, "")

    def do_GET(self) -> None:
        asked = parse_qs(urlparse(self.path).query)
        after = asked.get("start-after", ["faces/-1.jpg"])[0]
        start = int(asked.get("continuation-token", [int(after[6:-4]) + 1])[0])
        stop = min(self.names, start + int(asked.get("max-keys", ["1000"])[0]))
        rows = "".join(OBJECT.format(number) for number in range(start, stop))
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{stop}</NextContinuationToken>"
        end = more if stop < self.names else "<IsTruncated>false</IsTruncated>"
        head = f"<Name>b</Name><KeyCount>{stop - start}</KeyCount>{end}"
        self._answer(200, f'<ListBucketResult xmlns="{SPACE}">{head}{rows}</ListBucketResult>')

    def _answer(self, status: int, content: str) -> None:
        data = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
