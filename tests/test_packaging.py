"""The wheel holds everything a run needs, and what is declared is what was tested."""

import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_architecture import COMPUTED, imports

from facegan import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools leaves its build folder where it builds
    for package in ("facegan", "jobs", "shards", "slurm"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "site.sh"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True)
    (found,) = folder.glob("*.whl")
    return found


def tracked(folder: str, pattern: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern)} - {"slurm/site.sh"}


def test_the_wheel_holds_every_module_batch_file_and_template(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("facegan", "shards", "jobs", "slurm"):
        assert tracked(folder, "*.py") <= held
    assert tracked("slurm", "*.sh") <= held
    assert all(tracked("facegan", pattern) <= held for pattern in ("*.html*", "*.js", "*.css", "*.md"))
    assert not [name for name in held if name.startswith(("tests/", "bench/"))]


def test_the_wheel_carries_the_one_version(wheel: Path) -> None:
    assert wheel.name.startswith(f"facegan-{__version__}-")


def test_an_installed_wheel_runs_away_from_the_project(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run([*install, "--quiet"], check=True)
    code = (
        "import pathlib, slurm, facegan; from jobs.cli import main;"
        "print(*slurm.__path__, facegan.__file__, (pathlib.Path(slurm.__path__[0]) / 'train_128.sh').exists());"
        "main(['recipes'])"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    slurm, facegan, exists = result.stdout.splitlines()[0].split()
    assert Path(slurm) == site / "slurm"
    assert Path(facegan) == site / "facegan/__init__.py"
    assert exists == "True"
    assert "dcgan-128" in result.stdout


def declared(*parts: str) -> list[Requirement]:
    """What setup.cfg asks for: `install_requires`, extras by name, or all of it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    sections = {"install_requires": config["options"]["install_requires"], **config["options.extras_require"]}
    lines = "\n".join(text for name, text in sections.items() if name in parts or not parts).splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(*folders: str) -> set[str]:
    """The outside distributions that the files of these folders import."""
    distributions = importlib.metadata.packages_distributions()
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    modules = {name.split(".")[0] for path in files for name in imports(path)} - set(sys.stdlib_module_names)
    modules.discard(COMPUTED)
    own = {path.stem for room in ("tests", "bench") for path in (ROOT / room).glob("*.py")} | {"facegan"}
    return {normal(name) for module in modules - own for name in distributions.get(module, [module])} - {"facegan"}


def test_what_is_imported_is_what_is_declared() -> None:
    """A package that only comes along with another one may be gone with its next version."""
    packages = {normal(requirement.name) for requirement in declared("install_requires")}
    extras = declared("faces", "onnx", "parquet", "remote", "tensorboard")
    optional = {normal(requirement.name) for requirement in extras}  # and said where it is missing
    optional.remove("s3fs")  # fsspec imports it
    assert imported("facegan", "jobs", "shards", "slurm") == packages | optional
    assert imported("tests") <= packages | {normal(requirement.name) for requirement in declared("dev")}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [re.fullmatch(r"([a-z0-9.-]+)==([^ ;]+)", line) for line in lines if not line.startswith("#")]
    assert all(found)
    return {match[1]: match[2] for match in found if match}


def test_everything_declared_is_pinned_within_its_bounds() -> None:
    pinned = pins()
    for requirement in declared():
        name = normal(requirement.name)
        assert name in pinned
        assert requirement.specifier.contains(pinned[name]), requirement


def test_the_tests_run_with_the_pinned_versions() -> None:
    """Where they do not, constraints.txt claims what nobody tested."""
    installed = {normal(d.metadata["Name"]): d for d in importlib.metadata.distributions()}
    other = {
        name: (version, installed[name].version)
        for name, version in pins().items()
        if name in installed and installed[name].version.split("+")[0] != version
    }
    assert not other


def test_the_console_script_is_the_module() -> None:
    script = Path(sys.executable).with_name("facegan")
    by_script = subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout
    by_module = subprocess.run(
        [sys.executable, "-m", "jobs", "--version"], capture_output=True, text=True, check=True
    )
    assert by_script == by_module.stdout


def test_a_folder_named_like_a_package_does_not_hide_it(tmp_path: Path) -> None:
    for package in ("facegan", "jobs", "shards", "slurm"):
        (tmp_path / package).mkdir()
    command = [sys.executable, "-m", "jobs", "train", "dcgan-64", "--data", "shards"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert "facegan preprocess SRC shards --recipe dcgan-64" in result.stderr
