"""An object store on loopback, in a process of its own: moto's server speaks S3."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

import pytest

from shards.make.address import _system

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-to-be-told"}


@contextmanager
def object_store(patch: pytest.MonkeyPatch, log: Path) -> Iterator[str]:
    """The address of a store that this process, and all that it starts, asks for s3://."""
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as stream, subprocess.Popen(command, stderr=stream, stdout=subprocess.DEVNULL) as process:
        try:
            address = _said(log)
            for name, value in {
                "AWS_ENDPOINT_URL": address,
                "AWS_DEFAULT_REGION": "us-east-1",
                **CREDENTIALS,
            }.items():
                patch.setenv(name, value)
            _system.cache_clear()  # it asks where the last store of this process was
            with new_server():
                yield address
        finally:
            process.terminate()


def _said(log: Path) -> str:
    for _ in range(3000):
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


@contextmanager
def new_server() -> Iterator[None]:
    """Have the server that workers are forked from begin anew: it keeps the environment it began with."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
