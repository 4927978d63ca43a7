"""Fixtures shared by all tests: where real pictures are, if anywhere; what takes minutes begins first."""

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_pictures() -> Path:
    """The folder of real pictures (celeba-mini, celeba-10k, lfw-mini, mnist), where one is set."""
    folder = os.environ.get("FACEGAN_TEST_DATA")
    if not folder:
        pytest.skip("FACEGAN_TEST_DATA is not set: no real pictures to test on")
    return Path(folder)


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
