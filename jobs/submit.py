"""`facegan submit JOB`: one checked sbatch call of a file in slurm/, recorded for status, logs and cancel."""

import re
from functools import partial
from pathlib import Path

import click

from jobs.pipeline import pipeline
from jobs.slurm import checks, request
from jobs.slurm.records import Record
from jobs.slurm.submission import STAGES, hand_in, make_call, split


class Submit(click.Group):
    """Every batch file of slurm/ is a command; so is the pipeline of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["pipeline", *request.batch_files()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "pipeline":
            return pipeline
        file = request.batch_files().get(cmd_name)
        return SubmitJob(cmd_name, file) if file else None


class SubmitJob(click.Command):
    """What stands before `--` is sbatch's, what stands behind it is the job's; neither is interpreted here."""

    def __init__(self, name: str, batch_file: Path) -> None:
        super().__init__(
            name,
            callback=partial(submit, name, batch_file),
            params=[
                click.Argument(["options"], nargs=-1, type=click.UNPROCESSED, metavar="[SBATCH OPTION]..."),
                click.Option(["--dry-run"], is_flag=True, help="Check, print the exact call, submit nothing."),
            ],
            help=_help(name, batch_file),
            short_help=request.summary(batch_file),
            options_metavar="[--dry-run]",
            epilog="What follows -- goes to the job.",
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take out what is ours by itself: click would find -h in sbatch's -Aphysics."""
        words = split(ctx, args)
        ours = [word for word in words if word in ("--dry-run", "--help", "-h")]
        return super().parse_args(ctx, [*ours, "--", *(word for word in words if word not in ours)])


@click.group(cls=Submit, subcommand_metavar="JOB [SBATCH OPTION]... [-- ARGUMENT...]")
def command() -> None:
    """Check a job, hand it to Slurm and say how to watch it.

    JOB is a file of slurm/. What stands before `--` goes to sbatch, what stands behind it to the job.

    \b
    Examples:
      facegan submit check --nodes=2 --gpus-per-node=4
      facegan submit preprocess --array=0-31 -- img_align_celeba.zip data/shards --recipe dcgan-128
      facegan submit train_128 --nodes=4 --gpus-per-node=8 --time=12:00:00 -- --kimg 10000
      facegan submit train_64 --dry-run -- wgan-gp-64 --data data/shards --run-dir runs/wgan
      facegan submit pipeline --source img_align_celeba.zip --sizes 64,128 --recipe dcgan-128
    """


def submit(name: str, batch_file: Path, options: tuple[str, ...], dry_run: bool) -> None:
    arguments: tuple[str, ...] = click.get_current_context().meta["jobs.slurm.arguments"]
    call = make_call(batch_file, options, arguments, STAGES.get(name, name))
    for note in checks.check(name, call):
        click.echo(f"Note: {note}", err=True)
    if dry_run:
        click.echo(call.shown())
        return
    record = hand_in(name, call)
    click.echo(f"Submitted {name} as job {record.job}.\n  log  {record.log}\n  next {following(record)}")


def following(record: Record) -> str:
    return f"facegan status {record.job} | facegan logs -f {record.job} | facegan cancel {record.job}"


def _help(name: str, file: Path) -> str:
    """The file's own first comment, and its sbatch examples turned into ours."""
    calls = re.findall(rf"^# +(.*)sbatch(.*) slurm/{file.name}(.*)$", file.read_text(), flags=re.MULTILINE)
    examples = [f"{before}facegan submit {name}{options}{rest and ' --' + rest}" for before, options, rest in calls]
    shown = "\n  ".join([*examples, f"facegan submit {name} --dry-run"])
    return f"{request.summary(file)}\n\nThe file itself: {file}\n\n\b\nExamples:\n  {shown}"
