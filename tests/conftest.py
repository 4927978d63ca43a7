"""Fixtures shared by all tests: where real pictures are, if anywhere."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_pictures() -> Path:
    """The folder of real pictures (celeba-mini, celeba-10k, lfw-mini, mnist), where one is set."""
    folder = os.environ.get("FACEGAN_TEST_DATA")
    if not folder:
        pytest.skip("FACEGAN_TEST_DATA is not set: no real pictures to test on")
    return Path(folder)
