"""The `facegan` command: imports a command only when it is called, prints a user's error without a traceback.

`facegan X`, `python -m jobs X` and `accelerate launch -m jobs X` all come here.
"""

import errno
import importlib
import os
import resource
import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from facegan import __version__
from facegan.errors import FaceganError

# A module of `jobs`, whose `command` it is, and its line in `facegan --help`.
COMMANDS = {
    "demo": "Synthetic faces, shards, a short training, pictures: minutes on a CPU.",
    "download": "Fetch CelebA, LFW or MNIST: resumable, checksummed.",
    "preprocess": "Turn a folder, zip or tar of pictures into shards.",
    "shards": "Index, verify, describe or send a set of shards.",
    "recipes": "Compare the recipes, or show one in full.",
    "train": "Train a recipe on a set; the same command again continues.",
    "sample": "Draw pictures from a trained generator.",
    "figures": "Draw the figures of the reference systems.",
    "evaluate": "Measure a run against held-out pictures.",
    "report": "Write one self-contained HTML page about runs.",
    "export": "Make a web page that draws new faces, ONNX, or a folder for the Hub.",
    "track": "Replay a run folder to W&B, trackio, TensorBoard or MLflow.",
    "sweep": "Search over values and seeds, here or as a Slurm array.",
    "submit": "Hand a job of slurm/, or the whole pipeline, to Slurm.",
    "status": "Say what Slurm and the run folders know of jobs.",
    "logs": "Print or follow a job's log.",
    "cancel": "Cancel a job; a training saves first.",
    "doctor": "Say what is missing on this machine, one fix a line.",
}


class Facegan(click.Group):
    """The group of all commands: none is imported before it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"jobs.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        items = [CompletionItem(name, help=COMMANDS[name]) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        raise_open_files()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except (FaceganError, OSError) as error:
            code = exit_code(error)
            if code is None or ctx.params["debug"]:
                raise
            click.echo(f"Error: {error}", err=True)
            give_up_unwritten()
            ctx.exit(code)


def raise_open_files(most: int = 1 << 16) -> None:
    """Let this process open as many files as it may: the usual soft limit of 1,024 is for programs of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def give_up_unwritten() -> None:
    """Send to nowhere what standard output does not take: Python 3.14 tries again at its end and exits with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def exit_code(error: FaceganError | OSError) -> int | None:
    """The command's exit code for an error a user can mend: 74 for a full disk; None for a fault of the program."""
    if not isinstance(error, OSError):
        return error.exit_code
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 74
    return 1 if error.errno is not None else None


@click.group(
    cls=Facegan,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110},
)
@click.version_option(__version__, prog_name="facegan")
@click.option("--debug", is_flag=True, envvar="FACEGAN_DEBUG", help="Show the traceback of any error.")
def main(debug: bool) -> None:
    """From a folder of face pictures to a trained face GAN on a cluster, and back as pictures.

    \b
    Examples:
      facegan demo
      facegan preprocess img_align_celeba.zip data/shards --size 64 --crop 150
      facegan train dcgan-64 --data data/shards --run-dir runs/dcgan-64
      facegan sample runs/dcgan-64
      facegan train --help
    """
