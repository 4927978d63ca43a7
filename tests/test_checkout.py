"""The commit that a run notes: of this project's own checkout, or none."""

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_recipe

from facegan.errors import FaceganError
from facegan.run import checkout
from facegan.run.folder import check_resume, make_config
from facegan.run.settings import RunSettings


def git(folder: Path, *arguments: str) -> str:
    me = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    call = ["git", *me, "-C", str(folder), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with one committed module."""
    (tmp_path / "facegan").mkdir()
    (tmp_path / "facegan/step.py").write_text("x = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "Begin")
    checkout.describe.cache_clear()
    return tmp_path


def test_a_checkout_says_its_commit(project: Path) -> None:
    assert checkout.describe(project) == {"commit": git(project, "rev-parse", "HEAD"), "changed": []}


def test_changed_and_new_modules_are_named_and_nothing_else(project: Path) -> None:
    (project / "facegan/step.py").write_text("x = 2\n")
    (project / "facegan/new.py").write_text("")
    (project / "my-pictures").mkdir()
    (project / "my-pictures/face.txt").write_text("")
    assert checkout.describe(project)["changed"] == [" M facegan/step.py", "?? facegan/new.py"]


def test_a_package_installed_inside_another_checkout_has_no_commit(project: Path) -> None:
    site = project / ".venv/site-packages"
    site.mkdir(parents=True)
    assert checkout.describe(site) == {}


def test_without_git_or_with_a_broken_checkout_there_is_none(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".git/HEAD").write_text("nonsense\n")
    assert checkout.describe(project) == {}
    monkeypatch.setenv("PATH", str(project))
    checkout.describe.cache_clear()
    assert checkout.describe(project) == {}


@pytest.mark.parametrize("found", [{}, {"commit": "c" * 40, "changed": [" M facegan/step.py"]}])
def test_a_run_notes_the_commit_and_goes_on_with_another(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, settings = tiny_recipe("dcgan-64"), RunSettings()
    monkeypatch.setattr(checkout, "describe", lambda: found)
    config = make_config(recipe, settings, {}, {})
    noted = {name: value for name, value in config["software"].items() if name in ("commit", "dirty")}
    assert noted == ({"commit": "c" * 40, "dirty": True} if found else {})
    stored = config | {"software": {"facegan": "0", "commit": "d" * 40, "dirty": False}}
    check_resume(stored, recipe, settings, {})


def test_a_run_from_before_a_technique_goes_on_without_it_and_not_with_it() -> None:
    recipe, settings = tiny_recipe("dcgan-64"), RunSettings(run_dir="old")
    config = make_config(recipe, settings, {}, {})
    unknown = ("self_modulation", "real_labels")  # of these the second is stored in words
    stored = config | {"values": {k: v for k, v in config["values"].items() if k not in unknown}}
    check_resume(stored, recipe, settings, {})
    with pytest.raises(FaceganError, match=r"self_modulation: stored False, given True\n.*--config old/"):
        check_resume(stored, dataclasses.replace(recipe, self_modulation=True), settings, {})
