"""The arrows of the house, the one owner of each outside package, and what no file may do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("facegan", "shards", "jobs")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Outside package: the only files, or folders, that may import it.
OWNERS = {
    "click": ("jobs",),
    "wandb": ("facegan/tracking.py",),
    "accelerate": ("facegan/machine.py", "facegan/trainer.py", "facegan/checkpoint.py"),
    "webdataset": ("shards",),
    "fsspec": ("shards",),
    "simplejpeg": ("shards",),
    "jinja2": ("facegan/report.py", "facegan/report"),
    "torchmetrics": ("facegan/metrics",),
}
# The science: functions of tensors, which know nothing of runs, files or machines.
SCIENCE = ("recipes", "networks", "losses.py", "penalties.py", "schedules.py", "augment.py", "metrics")
SCIENCE_MAY_IMPORT = (
    *("facegan.recipes", "facegan.networks", "facegan.losses", "facegan.penalties", "facegan.schedules"),
    *("facegan.augment", "facegan.metrics", "facegan.errors", "facegan.randomness", "facegan.files"),
)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_arrows_point_from_jobs_to_facegan_and_shards_only(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = {"facegan": {"facegan"}, "shards": {"shards"}, "jobs": set(PACKAGES)}[package]
    found = {module.split(".")[0] for module in imports(path)} & set(PACKAGES)
    assert found <= allowed


@pytest.mark.parametrize("path", FILES, ids=name)
def test_each_outside_package_has_one_owner(path: Path) -> None:
    for module in imports(path):
        owners = OWNERS.get(module.split(".")[0], ("",))
        assert any(name(path).startswith(owner) for owner in owners), f"{module} belongs to {owners}"


@pytest.mark.parametrize("path", [p for p in FILES if name(p).startswith("facegan/")], ids=name)
def test_the_science_knows_nothing_of_runs(path: Path) -> None:
    if path.relative_to(ROOT / "facegan").parts[0] in SCIENCE:
        own = [module for module in imports(path) if module.startswith("facegan.")]
        assert all(module.startswith(SCIENCE_MAY_IMPORT) for module in own), own


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_from_outside_is_executed(path: Path) -> None:
    modules = {module.split(".")[0] for module in imports(path)}
    assert not modules & {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
    source = path.read_text(encoding="utf-8")
    for forbidden in ("torch.load(", "allow_pickle=True", "shell=True", "os.system(", "eval(", "exec("):
        found = [line for line in source.splitlines() if forbidden in line and f".{forbidden}" not in line]
        assert not found, f"{forbidden} in {found}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler) and _catches_everything(node):
            assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)) or _hands_over(node), node.lineno


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or (
        isinstance(handler.type, ast.Name) and handler.type.id in ("Exception", "BaseException")
    )


def _hands_over(handler: ast.ExceptHandler) -> bool:
    """Whether the caught error is passed on, as a thread or a worker does for the one that waits for it."""
    names = {inner.id for inner in ast.walk(handler) if isinstance(inner, ast.Name)}
    return handler.name in names or "format_exc" in {
        inner.attr for inner in ast.walk(handler) if isinstance(inner, ast.Attribute)
    }


def test_no_module_is_a_drawer() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


def test_recipes_import_no_torch() -> None:
    code = "import sys, facegan.recipes as r; r.recipe_classes(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
