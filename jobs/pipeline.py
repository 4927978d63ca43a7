"""`facegan submit pipeline`: preprocess, index, train, evaluate and report as one chain of Slurm jobs."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from facegan import recipes
from facegan.errors import UsageError
from facegan.files import read_object, write_json
from facegan.run.outcome import FILE, is_finished
from jobs.slurm import checks, queue
from jobs.slurm.queue import State
from jobs.slurm.request import Call
from jobs.slurm.submission import batch_file, hand_in, make_call, split


class Stage(NamedTuple):
    """One job of the chain; `is_done` looks at what it leaves behind."""

    name: str
    batch_file: str
    arguments: tuple[str, ...]
    is_done: Callable[[], bool]
    options: tuple[str, ...] = ()


class Pipeline(click.Command):
    """Unknown options are sbatch's, for the training; what stands behind `--` is for `facegan train`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = split(ctx, args)
        if short := [word for word in words if re.match(r"-[A-Za-z]", word) and word != "-h"]:
            raise UsageError(f"{short[0]}: sbatch's options in their long form, please, such as --nodes=2")
        return super().parse_args(ctx, words)


@click.command(
    cls=Pipeline,
    options_metavar="OPTIONS [SBATCH OPTION FOR THE TRAINING]... [-- TRAIN ARGUMENT...]",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="")
@click.option(
    "--source", required=True, help="SRC of facegan preprocess: folder, zip, tar, list of addresses, or an address."
)
@click.option("--recipe", default="dcgan-128", show_default=True, help="What to train.")
@click.option("--sizes", default="64,128", show_default=True, help="Sides of the images, in pixels.")
@click.option("--data", default="data/shards", show_default=True, help="Where the shards go.")
@click.option("--run-dir", help="Where the run goes.  [default: runs/RECIPE]")
@click.option(
    "--slices", default=8, show_default=True, type=click.IntRange(1), help="Elements of the preprocess array."
)
@click.option(
    "--each", multiple=True, metavar="OPTION", help="sbatch option of every stage: --each=--account=faces"
)
@click.option("--dry-run", is_flag=True, help="Print every call, submit nothing.")
def pipeline(
    options: tuple[str, ...],
    source: str,
    recipe: str,
    sizes: str,
    data: str,
    run_dir: str | None,
    slices: int,
    each: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Submit preprocess, index, train, evaluate and report, each waiting for the one before it.

    Run again, it submits only what is neither done nor still in the queue; a failed job takes those behind it
    along. The chain is recorded in RUN_DIR/pipeline.json.

    \b
    Examples:
      facegan submit pipeline --source img_align_celeba.zip --sizes 64,128 --recipe dcgan-128
      facegan submit pipeline --source faces.zip --recipe dcgan-64 --sizes 64 --gpus-per-node=4 -- --kimg 2000
      facegan submit pipeline --source img_align_celeba.zip --dry-run
    """
    run = Path(run_dir or f"runs/{recipe}")
    trained = click.get_current_context().meta["jobs.slurm.arguments"]
    first = pictures(source, data, recipe, sizes, slices)
    last = model(recipe, data, run, options, trained)
    stages = [stage._replace(options=(*each, *stage.options)) for stage in (*first, *last)]
    submit_chain(stages, run, dry_run)


def pictures(source: str, data: str, recipe: str, sizes: str, slices: int) -> list[Stage]:
    """From pictures to sets of shards; raises UsageError where the recipe's size is not among `sizes`."""
    chosen = recipes.load(recipe)
    wanted = [size.strip() for size in sizes.split(",") if size.strip()]
    if str(chosen.resolution) not in wanted:
        raise UsageError(f"{recipe} needs {chosen.resolution} px; add it: --sizes {sizes},{chosen.resolution}")
    flags = [word for size in wanted for word in ("--size", size)] + [
        "--crop",
        chosen.crop,
        "--channels",
        str(chosen.channels),
    ]
    indexes = [Path(data) / size / "index.json" for size in wanted]
    array = (f"--array=0-{slices - 1}",)
    return [
        Stage("preprocess", "preprocess", (source, data, *flags, "--no-index"), lambda: _exist(indexes), array),
        Stage("index", "facegan", ("shards", "index", data), lambda: _exist(indexes)),
    ]


def model(recipe: str, data: str, run: Path, options: tuple[str, ...], trained: tuple[str, ...]) -> list[Stage]:
    """From shards to a trained, measured and described model."""
    file = "train_64" if recipes.load(recipe).resolution.height <= 64 else "train_128"
    train = (recipe, "--data", data, "--run-dir", str(run), *trained)
    return [
        Stage("train", file, train, lambda: is_finished(run), options),
        Stage("evaluate", "evaluate", (str(run), "--data", data), lambda: _newer(run / "metrics.jsonl", run)),
        Stage("report", "facegan", ("report", str(run)), lambda: _newer(run / "report.html", run)),
    ]


def submit_chain(stages: list[Stage], run: Path, dry_run: bool) -> None:
    """Hand in what is neither done nor in the queue; a stage handed in again takes all behind it along."""
    chain = run / "pipeline.json"
    recorded = read_object(chain)
    before, todo = _skip(stages, recorded, {} if dry_run else queue.read())
    if dry_run:
        for stage in todo:
            click.echo(make_stage_call(stage, before).shown())
            before = f"JOB_OF_{stage.name.upper()}"
        return
    check(todo)
    for stage in todo:
        record = hand_in(stage.batch_file, make_stage_call(stage, before), run_dir=str(run))
        click.echo(f"{stage.name:10} job {record.job}, log {record.log}")
        before = record.job
        recorded[stage.name] = {"job": before, "arguments": list(stage.arguments)}
        write_json(chain, recorded)
    if before:
        click.echo(f"Next: facegan status {run} | facegan logs -f {before} | facegan cancel {run}")


def _skip(
    stages: list[Stage], recorded: dict[str, dict[str, Any]], queued: dict[str, State]
) -> tuple[str, list[Stage]]:
    """(The last job that is in the queue or "", the stages from the first that is neither there nor done.)"""
    before = ""
    for i, stage in enumerate(stages):
        entry = recorded.get(stage.name, {"arguments": list(stage.arguments)})
        same = entry["arguments"] == list(stage.arguments)
        if same and _is_live(queued, entry.get("job", "")):
            before = entry["job"]
            click.echo(f"{stage.name:10} job {before} is in the queue")
        elif same and not before and stage.is_done():
            click.echo(f"{stage.name:10} done")
        else:
            return before, stages[i:]
    return before, []


def check(stages: list[Stage]) -> None:
    """Everything that can be known before the first of them is handed in."""
    for stage in stages:
        call = make_stage_call(stage, "")
        checks.check(stage.batch_file, call, makes_data=True)


def make_stage_call(stage: Stage, before: str) -> Call:
    """The sbatch call of a stage that waits for the job `before`, if any."""
    waits = [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"] if before else []
    options = (f"--job-name={stage.name}", *waits, *stage.options)
    return make_call(batch_file(stage.batch_file), options, stage.arguments, stage.name)


def _exist(paths: list[Path]) -> bool:
    return all(path.exists() for path in paths)


def _newer(path: Path, run: Path) -> bool:
    """Whether what a stage leaves behind is there and younger than the end of the training."""
    ended = run / FILE
    return path.exists() and ended.exists() and path.stat().st_mtime >= ended.stat().st_mtime


def _is_live(queued: dict[str, State], job: str) -> bool:
    return any(state.is_live for element, state in queued.items() if job and element.partition("_")[0] == job)
