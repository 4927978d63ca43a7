"""`facegan submit JOB`: one checked sbatch call of a file in slurm/, recorded for status, logs and cancel."""

import re
from datetime import UTC, datetime
from pathlib import Path

import click

from facegan.errors import UsageError
from jobs import slurm, slurm_checks, slurm_records
from jobs.slurm import Call
from jobs.slurm_records import Record

UNSAFE_IN_FILE = re.compile(r"[/\x00-\x1f\x7f%\\]")


class Submit(click.Group):
    """Every batch file of slurm/ is a command; so is the pipeline of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["pipeline", *slurm.batch_files()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "pipeline":
            from jobs.pipeline import pipeline

            return pipeline
        file = slurm.batch_files().get(cmd_name)
        return SubmitJob(cmd_name, file) if file else None


class SubmitJob(click.Command):
    """What stands before `--` is sbatch's, what stands behind it is the job's; neither is interpreted here."""

    def __init__(self, name: str, batch_file: Path) -> None:
        super().__init__(
            name,
            callback=lambda **given: submit(name, batch_file, **given),
            params=[
                click.Argument(["options"], nargs=-1, type=click.UNPROCESSED, metavar="[SBATCH OPTION]..."),
                click.Option(["--dry-run"], is_flag=True, help="Check, print the exact call, submit nothing."),
            ],
            help=_help(name, batch_file),
            short_help=slurm.summary(batch_file),
            options_metavar="[--dry-run]",
            epilog="What follows -- goes to the job.",
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take out what is ours by itself: click would find -h in sbatch's -Aphysics."""
        given = split(ctx, args)
        ours = [word for word in given if word in ("--dry-run", "--help", "-h")]
        return super().parse_args(ctx, [*ours, "--", *(word for word in given if word not in ours)])


def split(ctx: click.Context, args: list[str]) -> list[str]:
    """What stands before the first `--`; what stands behind it is kept aside for the job."""
    cut = args.index("--") if "--" in args else len(args)
    ctx.meta["jobs.submit.arguments"] = tuple(args[cut + 1 :])
    return args[:cut]


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
    arguments: tuple[str, ...] = click.get_current_context().meta["jobs.submit.arguments"]
    call = make_call(batch_file, options, arguments)
    for warning in slurm_checks.check(name, call):
        click.echo(f"Warning: {warning}", err=True)
    if dry_run:
        click.echo(call.shown())
        return
    record = hand_in(name, call)
    click.echo(f"Submitted {name} as job {record.job}.\n  log  {record.log}\n  next {following(record)}")


def make_call(batch_file: Path, options: tuple[str, ...], arguments: tuple[str, ...], **extra: str) -> Call:
    """The sbatch call; a job name that is no file name gets a log that is not named after it."""
    call = Call(batch_file, options, arguments, {**slurm.site_settings(), **extra})
    if UNSAFE_IN_FILE.search(call.value("name")) and "%x" in call.value("output"):
        output = call.value("output").replace("%x", batch_file.stem)
        call = Call(batch_file, (*options, f"--output={output}"), arguments, call.environment)
    return call


def hand_in(name: str, call: Call, run_dir: str = "") -> Record:
    """Submit and record."""
    job = slurm.sbatch(call)
    run_dir = run_dir or slurm_checks.run_dir(name, call)
    submitted = datetime.now(UTC).isoformat(timespec="seconds")
    record = Record(job, name, run_dir, log_path(call, job), call.arguments, call.options, submitted)
    slurm_records.save(record)
    return record


def log_path(call: Call, job: str) -> str:
    """Where the job's log will be; an array's keeps Slurm's %a for the element."""
    pattern = call.value("output") or ("slurm-%A_%a.out" if call.value("array") else "slurm-%j.out")
    for sign, value in {"%x": call.value("name") or call.batch_file.name, "%j": job, "%A": job}.items():
        pattern = pattern.replace(sign, value)
    return str(Path.cwd() / call.value("chdir") / pattern)


def following(record: Record) -> str:
    return f"facegan status {record.job} | facegan logs -f {record.job} | facegan cancel {record.job}"


def batch_file(name: str) -> Path:
    """The batch file called `name`; raises UsageError with the list of them."""
    files = slurm.batch_files()
    if name not in files:
        raise UsageError(f"there is no job {name!r}; expected one of: {', '.join(files)}")
    return files[name]


def _help(name: str, file: Path) -> str:
    """The file's own first comment, and its sbatch examples turned into ours."""
    found = re.findall(rf"^# +(.*)sbatch(.*) slurm/{file.name}(.*)$", file.read_text(), flags=re.MULTILINE)
    examples = [f"{before}facegan submit {name}{options}{rest and ' --' + rest}" for before, options, rest in found]
    shown = "\n  ".join([*examples, f"facegan submit {name} --dry-run"])
    return f"{slurm.summary(file)}\n\nThe file itself: {file}\n\n\b\nExamples:\n  {shown}"
