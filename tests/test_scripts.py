"""The scripts on machines that lack something; Python and pip are replaced by recorders at the process border."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "cat", "dirname", "sha256sum", "tail", "mkdir", "uname")
INDEX = "https://download.pytorch.org/whl/cpu"


class Machine:
    """A copy of what the scripts read, and a PATH that holds only what this machine is said to have."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin = folder / "project", folder / "bin"
        self.bin.mkdir(parents=True)
        self.root.mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self.bin / tool).symlink_to(found)

    def program(self, path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        path.chmod(0o755)

    def installed(self, body: str) -> None:
        """A .venv whose Python writes down its calls, then does `body`."""
        self.program(self.root / ".venv/bin/python", f'printf "%s\\n" "$*" >>"{self.root}/calls"\n{body}')

    def calls(self) -> str:
        path = self.root / "calls"
        return path.read_text() if path.exists() else ""

    def make(self, extra: str = "") -> subprocess.CompletedProcess[str]:
        script = (
            f'. scripts/environment; has_nvidia_gpu() {{ {self.gpu}; }}; make_environment "{extra}"; echo ready'
        )
        environment = {"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/")}
        return subprocess.run(
            ["bash", "-c", script], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )

    gpu = "false"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_old_python_is_refused_with_what_to_do(machine: Machine) -> None:
    machine.program(machine.bin / "python3", '[ "$1" = --version ] && echo Python 3.9.2; exit 1')
    result = machine.make()
    assert result.returncode == 1
    assert "Python 3.11 to 3.14 is needed; python3 is: Python 3.9.2" in result.stderr
    assert "apt install python3" in result.stderr


def test_no_python_at_all_is_said(machine: Machine) -> None:
    result = machine.make()
    assert result.returncode == 1
    assert "Python 3.11 to 3.14 is needed" in result.stderr


def test_a_python_without_venv_names_the_package(machine: Machine) -> None:
    machine.program(machine.bin / "python3", '[ "$2" != venv ]')
    result = machine.make()
    assert result.returncode == 1
    assert "apt install python3-venv" in result.stderr


def test_without_a_gpu_the_cpu_build_comes_from_pytorch_s_own_index(machine: Machine) -> None:
    machine.installed("exit 0")
    assert machine.make().stdout == "ready\n"
    assert f"--no-deps --index-url {INDEX} torch" in machine.calls()


def test_an_index_that_does_not_answer_leaves_torch_to_pip(machine: Machine) -> None:
    machine.installed('[[ "$*" != *urllib* ]]')
    assert machine.make("dev").stdout == "ready\n"
    assert INDEX + " " not in machine.calls()
    assert "--constraint constraints.txt --editable .[dev]" in machine.calls()


def test_a_machine_with_a_gpu_keeps_pip_s_own_torch(machine: Machine) -> None:
    machine.installed("exit 0")
    machine.gpu = "true"
    machine.make()
    assert INDEX not in machine.calls()


def test_the_second_call_installs_nothing(machine: Machine) -> None:
    machine.installed("exit 0")
    machine.make("dev")
    (machine.root / "calls").unlink()
    for extra in ("dev", ""):  # the tests' environment serves the demo too
        assert machine.make(extra).stdout == "ready\n"
    assert "pip install" not in machine.calls()


def test_changed_declarations_install_again(machine: Machine) -> None:
    machine.installed("exit 0")
    machine.make()
    (machine.root / "calls").unlink()
    with (machine.root / "constraints.txt").open("a") as file:
        file.write("extra==1\n")
    machine.make()
    assert "pip install" in machine.calls()


def test_the_demo_s_environment_is_not_enough_for_the_tests(machine: Machine) -> None:
    machine.installed("exit 0")
    machine.make()
    (machine.root / "calls").unlink()
    machine.make("dev")
    assert "--editable .[dev]" in machine.calls()


def test_a_failed_installation_shows_its_end_and_is_tried_again(machine: Machine) -> None:
    machine.installed('[[ "$*" != *editable* ]] || { echo "no matching distribution"; exit 1; }')
    result = machine.make()
    assert result.returncode == 1
    assert "no matching distribution" in result.stderr
    assert ".venv/install.log" in result.stderr
    (machine.root / "calls").unlink()
    machine.make()
    assert "--editable" in machine.calls()
