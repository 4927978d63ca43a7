"""Fixtures shared by all tests: where real pictures are, if anywhere; what takes minutes begins first."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def real_pictures() -> Path:
    """The folder of real pictures (celeba-mini, celeba-10k, lfw-mini, mnist), where one is set."""
    folder = os.environ.get("FACEGAN_TEST_DATA")
    if not folder:
        pytest.skip("FACEGAN_TEST_DATA is not set: no real pictures to test on")
    return Path(folder)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A file system of s3://faces, held by a real object store; it starts once for all tests that ask for it."""
    import fsspec
    from object_server import object_store

    with pytest.MonkeyPatch.context() as patch, object_store(patch, tmp_path_factory.mktemp("store") / "log"):
        system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
        system.mkdir("s3://faces")
        yield system


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What stands before the store of `gs`, and fails as told."""
    from object_server import google_store

    with pytest.MonkeyPatch.context() as patch, google_store(patch, tmp_path_factory.mktemp("store") / "log") as it:
        yield it


@pytest.fixture(scope="session")
def gs(troubled: Any) -> Any:
    """A file system of gs://faces, as `s3` is one of s3://faces."""
    from shards.read.remote import file_system

    system = file_system("gs://faces")
    system.mkdir("faces")
    return system


@pytest.fixture(scope="session", params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> Any:
    """Each kind of object store that sets are read from and written to."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def faces(store: Any) -> str:
    """The address of its bucket."""
    return f"{store.protocol[0]}://faces"


@pytest.fixture(autouse=True)
def no_process_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training left behind by a test that failed would compute beside all that follow."""
    started: list[subprocess.Popen[Any]] = []
    start = subprocess.Popen.__init__

    def recorded(self: subprocess.Popen[Any], *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **options)
        is_ours = isinstance(self.args, list | tuple) and self.args[0] == sys.executable
        if is_ours and threading.current_thread() is threading.main_thread():
            started.append(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", recorded)
    yield
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--faults all` lets every file operation fail in tests/test_faults.py (hours), instead of a fixed sample."""
    parser.addoption("--faults", choices=("sample", "all"), default="sample")


def pytest_configure() -> None:
    """Hear signals that nohup or a shell's background ignores: tests send them, children inherit this."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: begun last, they would keep one worker busy and the others idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
