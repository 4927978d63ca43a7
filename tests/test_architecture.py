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
SIZED = sorted(
    path
    for folder in (*PACKAGES, "bench", "scripts", "slurm")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in ("", ".py", ".sh", ".js", ".html", ".css") and path.is_file()
)

# Outside package: the only files, or folders, that may import it.
OWNERS = {
    "click": ("jobs",),
    "cv2": ("facegan/metrics/detector.py",),
    "wandb": ("facegan/run/wandb_run.py", "facegan/track"),
    "tensorboard": ("facegan/track",),
    "accelerate": ("facegan/run/machine.py", "jobs/slurm/launcher.py"),
    "webdataset": ("shards",),
    "fsspec": ("shards",),
    "simplejpeg": ("shards", "jobs/synthetic"),
    "jinja2": ("facegan/report", "facegan/export"),
    "onnx": ("facegan/export",),
    "onnxruntime": ("facegan/export",),
    "torchmetrics": ("facegan/metrics",),
}
# Room: what a file in it may import of this project, its own room aside. The longest name that fits decides.
BASE = (
    "facegan.allocator",
    "facegan.cores",
    "facegan.errors",
    "facegan.files",
    "facegan.owner",
    "facegan.philox",
    "facegan.randomness",
)
ROOMS = {
    "facegan": BASE,
    "facegan.recipes": ("facegan.errors",),
    "facegan.networks": (*BASE, "facegan.recipes"),
    "facegan.metrics": (*BASE, "facegan.recipes", "facegan.networks"),
    "facegan.run": (*BASE, "facegan.recipes", "facegan.networks"),
    "facegan.train": ("facegan",),
    "facegan.export": ("facegan",),
    "facegan.report": ("facegan",),
    "facegan.track": ("facegan",),
    "shards": BASE,
    "shards.format": (*BASE, "shards.errors"),
    "shards.read": (*BASE, "shards.format", "shards.errors"),
    "shards.make": (*BASE, "shards.format", "shards.read", "shards.errors"),
    "jobs": ("facegan", "shards", "jobs"),
}
# The science: functions of tensors, which know nothing of runs, files or machines.
SCIENCE = ("losses", "penalties", "schedules", "augment")
SCIENCE_MAY_IMPORT = (*BASE, "facegan.recipes", "facegan.networks", *(f"facegan.train.{name}" for name in SCIENCE))


# The only files that import modules whose names they compute, each of one folder, when they are first used.
COMPUTED = "a computed name"
BY_NAME = (
    "facegan/networks/__init__.py",
    "facegan/recipes/__init__.py",
    "facegan/track/trackers.py",
    "jobs/cli.py",
    "shards/__init__.py",
)


def import_nodes(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Every module that a file imports, inside functions too, and the names that it takes from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            yield ".".join((*package, *filter(None, [node.module]))), [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield node.args[0].value if isinstance(node.args[0], ast.Constant) else COMPUTED, []


def imports(path: Path) -> Iterator[str]:
    """The modules alone."""
    yield from (module for module, _ in import_nodes(path))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def own_imports(path: Path) -> set[str]:
    """The modules of this project that a file imports, inside functions too."""
    modules = set()
    for module, names in import_nodes(path):
        named = {f"{module}.{each}" for each in names}
        modules |= named if named and named <= MODULES.keys() else {module, *named}
    return modules & MODULES.keys()


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    module = module_of(path)
    room = max((room for room in ROOMS if is_within(module, room)), key=len)
    is_face = path.name == "__init__.py" and "." not in module  # it hands on names of its package's rooms
    allowed = (room, *ROOMS[room]) if "." in room or is_face else ROOMS[room]
    foreign = [f for f in own_imports(path) if f != "facegan" and not any(is_within(f, name) for name in allowed)]
    assert not foreign, f"{room} may import {allowed}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: own_imports(path) - {module} for module, path in MODULES.items()}
    graph["shards"] = set()  # its names are imported when first used
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for following in sorted(graph[module]):
                visit(following, (*way, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


@pytest.mark.parametrize("path", SIZED, ids=name)
def test_no_file_is_longer_than_300_lines_and_no_function_than_40(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 300
    if path.suffix != ".py":
        return
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {
        f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno and f.end_lineno - f.lineno >= 40
    }
    assert not long


@pytest.mark.parametrize("path", FILES, ids=name)
def test_few_import_by_a_computed_name(path: Path) -> None:
    assert name(path) in BY_NAME or COMPUTED not in imports(path)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_each_outside_package_has_one_owner(path: Path) -> None:
    for module in imports(path):
        owners = OWNERS.get(module.split(".")[0], ("",))
        assert any(name(path).startswith(owner) for owner in owners), f"{module} belongs to {owners}"


@pytest.mark.parametrize("module", SCIENCE)
def test_the_science_knows_nothing_of_runs(module: str) -> None:
    own = own_imports(ROOT / "facegan" / "train" / f"{module}.py")
    assert all(any(is_within(each, name) for name in SCIENCE_MAY_IMPORT) for each in own), own


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_from_outside_is_executed(path: Path) -> None:
    modules = {module.split(".")[0] for module in imports(path)}
    assert not modules & {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
    source = path.read_text(encoding="utf-8")
    for forbidden in ("torch.load(", "allow_pickle=True", "shell=True", "os.system(", "eval(", "exec("):
        lines = [line for line in source.splitlines() if forbidden in line and f".{forbidden}" not in line]
        assert not lines, f"{forbidden} in {lines}"


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
