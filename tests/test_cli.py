"""The `facegan` command: fast, errors for people, exit codes, help with examples, shell completion."""

import errno
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from facegan import __version__
from facegan.errors import DiskFullError, FaceganError, UsageError
from jobs import cli
from shards.errors import ShardError

FACEGAN = Path(sys.executable).with_name("facegan")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def all_commands(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from all_commands(below, (*path, name))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A command `failing` that raises what is put into the list."""
    raised: list[BaseException] = []

    @click.command()
    def failing_command() -> None:
        raise raised[0]

    module = types.ModuleType("jobs.failing")
    module.command = failing_command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobs.failing", module)
    monkeypatch.setitem(cli.COMMANDS, "failing", "Fails.")
    yield raised


def test_help_names_every_command_and_imports_none_of_them() -> None:
    code = "import sys; from jobs.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    text, modules = output.rsplit("\n", 2)[0], output.splitlines()[-1].split()
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    assert not {"torch", "numpy", "PIL", "wandb", "jobs.train"} & set(modules)


def test_recipes_and_train_help_import_no_torch() -> None:
    for arguments in (["recipes"], ["train", "--help"], ["train", "dcgan-64", "--help"]):
        code = (
            f"import sys; from jobs.cli import main; main({arguments}, standalone_mode=False); print(*sys.modules)"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "torch" not in output.splitlines()[-1].split(), arguments


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    command = cli.main.get_command(click.Context(cli.main), name)
    assert command is not None
    for path in all_commands(command, (name,)):
        result = CliRunner().invoke(cli.main, [*path, "--help"])
        assert result.exit_code == 0, result.output
        assert "Example" in result.output, path
        assert f"facegan {' '.join(path)}" in result.output, path


def test_the_pipeline_says_what_its_source_may_be() -> None:
    said = " ".join(CliRunner().invoke(cli.main, ["submit", "pipeline", "--help"]).output.split())
    assert "folder, zip, tar, list of addresses, or an address" in said


def test_the_short_help_of_the_table_belongs_to_each_command() -> None:
    lines = list(cli.COMMANDS.values())
    assert len(set(lines)) == len(lines)
    assert all(line.endswith(".") and len(line) < 80 for line in lines)


def test_version_is_the_package_s_version() -> None:
    assert __version__ in run("--version").stdout


def test_unknown_command_is_a_usage_error() -> None:
    result = run("trian")
    assert result.returncode == 2
    assert "trian" in result.stderr


def test_a_user_s_error_is_shown_without_traceback_and_debug_shows_it() -> None:
    result = run("recipes", "nothing-like-it")
    assert result.returncode == 2
    assert result.stderr.startswith("Error: recipe 'nothing-like-it' does not exist; expected one of: ")
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("--debug", "recipes", "nothing-like-it").stderr
    assert "Traceback" in run("recipes", "nothing-like-it", FACEGAN_DEBUG="1").stderr


def test_a_full_disk_ends_with_74() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "jobs", "recipes"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 74
    assert "No space left" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ShardError("damaged"), 1),
        (FaceganError("impossible"), 1),
        (UsageError("wrong option"), 2),
        (DiskFullError("full"), 74),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 74),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.zip"), 1),
        (OSError(errno.EIO, "no file in it"), 1),
    ],
)
def test_errors_a_user_can_mend_carry_their_exit_code(
    failing: list[BaseException], error: BaseException, code: int
) -> None:
    failing.append(error)
    result = CliRunner().invoke(cli.main, ["failing"])
    assert result.exit_code == code
    assert str(error) in result.stderr


def test_ctrl_c_ends_with_130(failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    assert CliRunner().invoke(cli.main, ["failing"]).exit_code == 130


def test_faults_of_the_program_keep_their_traceback(failing: list[BaseException]) -> None:
    error = ValueError("a fault of ours")
    failing.append(error)
    assert CliRunner().invoke(cli.main, ["failing"]).exception is error


def test_one_command_that_cannot_be_imported_does_not_break_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "gone", "Gone.")
    assert CliRunner().invoke(cli.main, ["--help"]).exit_code == 0
    assert CliRunner().invoke(cli.main, ["recipes"]).exit_code == 0


def complete(words: str) -> list[str]:
    """What bash offers at the end of `words`."""
    environment = {"_FACEGAN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = subprocess.run([FACEGAN], env=os.environ | environment, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in result.stdout.splitlines()]


def test_shell_completion_offers_commands_recipes_and_options() -> None:
    assert complete("facegan pre") == ["preprocess"]
    assert complete("facegan train dcgan-6") == ["dcgan-64"]
    assert complete("facegan train dcgan-64 --batch-s") == ["--batch-size"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_has_a_script_for_each_shell(shell: str) -> None:
    environment = os.environ | {"_FACEGAN_COMPLETE": f"{shell}_source"}
    script = subprocess.run([FACEGAN], env=environment, capture_output=True, text=True, check=True).stdout
    assert "_FACEGAN_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
