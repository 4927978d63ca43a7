"""`facegan sweep`: a list of runs over values and seeds, run here or as a Slurm array, one table at the end."""

import collections
import csv
import io
import itertools
import json
import re
import shlex
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from facegan.errors import FaceganError, UsageError
from facegan.files import json_lines, write_json, write_text
from facegan.recipes import Range, recipe_classes
from facegan.run.outcome import is_finished, read_outcome
from facegan.run.settings import RunSettings
from jobs import table, values
from jobs.train import RecipeCommand, resolve

# A run that was asked to stop and saved: the sweep stops too, and the same command continues it.
STOPPED = (85, 130, 143)


class Run(NamedTuple):
    """One element: its name (also its folder's), the values it tries, its seed."""

    name: str
    values: dict[str, str]
    seed: int


class Sweep(NamedTuple):
    """What lies in OUT/sweep.json; `arguments` are the `facegan train` options that all runs share."""

    recipe: str
    arguments: list[str]
    runs: list[Run]


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("recipe")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[TRAIN OPTIONS]...")
@click.option(
    "--set", "grid", multiple=True, metavar="FIELD=V1,V2", help="Values to try; given again: all combinations."
)
@click.option("--seeds", type=click.IntRange(1), default=1, help="Runs a combination, with seeds 0, 1, ...")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the sweep.  [default: runs/sweep-RECIPE]",
)
@click.option("--slurm", is_flag=True, help="Hand the runs to Slurm as one array instead of running them here.")
@click.option(
    "--element", type=int, hidden=True, help="Print run K's train arguments, NUL-separated, for slurm/sweep.sh."
)
@click.option("--table", "only_table", is_flag=True, help="Print the table of what is there and end.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the list of runs and end.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    recipe: str,
    arguments: tuple[str, ...],
    grid: tuple[str, ...],
    seeds: int,
    out: Path | None,
    **options: Any,
) -> None:
    """Train RECIPE with every combination of values and seeds; ends with one table and OUT/sweep.csv.

    The same command again continues. Options that are not listed here go to every `facegan train`.

    \b
    Examples:
      facegan sweep dcgan-64 --set lr=1e-4,2e-4 --seeds 3 --data data/shards --kimg 200
      facegan sweep wgan-gp-64 --set gp_weight=5,10 --set n_critic=1,5 --data data/shards --eval-kimg 100
      facegan sweep dcgan-64 --set lr=1e-4,2e-4 --data data/shards --slurm
    """
    folder = out or Path("runs") / f"sweep-{recipe}"
    sweep = Sweep(recipe, list(arguments), plan(recipe, grid, seeds))
    context = RecipeCommand(recipe_classes()[recipe]).make_context(f"train {recipe}", list(arguments))
    resolve(recipe_classes()[recipe], context)  # refuses what train would
    _act(ctx, sweep, folder, [recipe, *arguments, *_options(grid, seeds, folder)], options)


def _act(ctx: click.Context, sweep: Sweep, folder: Path, arguments: list[str], options: dict[str, Any]) -> None:
    """What is asked of a sweep: to be shown, to run here or to go to Slurm with `arguments`."""
    if options["dry_run"]:
        click.echo(
            "\n".join(shlex.join(["facegan", "train", *train_arguments(sweep, folder, r)]) for r in sweep.runs)
        )
    elif options["element"] is not None:
        words = train_arguments(sweep, folder, _element(sweep, options["element"]))
        click.echo("".join(f"{word}\0" for word in words), nl=False)
    elif options["only_table"]:
        click.echo(summarise(sweep, folder))
        track(sweep, folder)
    elif options["slurm"]:
        record(sweep, folder)
        _submit(ctx, sweep, arguments)
    else:
        record(sweep, folder)
        codes = run_here(sweep, folder)
        click.echo(summarise(sweep, folder))
        track(sweep, folder)
        ctx.exit(codes[-1] if codes and codes[-1] in STOPPED else int(any(codes)))


def plan(recipe: str, grid: tuple[str, ...], seeds: int) -> list[Run]:
    """Every combination of the values, each with every seed. Raises UsageError for an impossible value.

    A range is written `low,high`, so each `--set` of such a field is one value.
    """
    if recipe not in recipe_classes():
        raise UsageError(f"recipe {recipe!r} does not exist; expected one of: {', '.join(recipe_classes())}")
    axes: dict[str, list[str]] = {}
    for text in grid:
        name, given = next(iter(values.parse_set((text,)).items()))
        axes.setdefault(name, []).extend(_values(recipe, name, given.value))
    combinations = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    for point in combinations:
        values.resolve(recipe_classes()[recipe], {k: values.Value(v, f"--set {k}={v}") for k, v in point.items()})
    runs = [Run(_name(point, seed), point, seed) for point in combinations for seed in range(seeds)]
    for name, times in collections.Counter(run.name for run in runs).items():
        if times > 1:
            raise UsageError(f"the sweep has {times} runs named {name}: give each value once")
    return runs


def train_arguments(sweep: Sweep, folder: Path, run: Run) -> list[str]:
    """What follows `facegan train` for this run."""
    chosen = [word for name, value in run.values.items() for word in ("--set", f"{name}={value}")]
    own = ["--seed", str(run.seed), "--run-dir", str(folder / run.name), "--wandb-group", folder.name]
    return [sweep.recipe, *sweep.arguments, *chosen, *own]


def record(sweep: Sweep, folder: Path) -> None:
    """Write OUT/sweep.json; more values or seeds may be added later, other options are refused."""
    path = folder / "sweep.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        for field, given in (("recipe", sweep.recipe), ("arguments", sweep.arguments)):
            if stored.get(field) != given:
                raise FaceganError(
                    f"{path} is of a sweep with {field} {stored.get(field)}, given {given}:"
                    " give the stored ones to continue it, or another --out"
                )
    runs = [run._asdict() for run in sweep.runs]
    write_json(path, {"recipe": sweep.recipe, "arguments": sweep.arguments, "runs": runs})


def run_here(sweep: Sweep, folder: Path) -> list[int]:
    """Train what is not finished, one run after another; the exit codes. A run asked to stop stops the sweep."""
    codes: list[int] = []
    for number, run in enumerate(sweep.runs, start=1):
        if is_finished(folder / run.name):
            continue
        click.echo(f"[{number}/{len(sweep.runs)}] {run.name}", err=True)
        codes.append(_train(train_arguments(sweep, folder, run)))
        if codes[-1] in STOPPED:
            break
    return codes


def summarise(sweep: Sweep, folder: Path) -> str:
    """The table of all runs, best first where a metric was measured; also written as OUT/sweep.csv."""
    rows = [_row(run, folder) for run in sweep.runs]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "sweep.csv", text.getvalue())
    lines = [columns, *([_shown(row.get(name, "")) for name in columns] for row in rows)]
    return f"{table.align(lines)}\n\n{_by_values(sweep, rows)}{folder / 'sweep.csv'}"


def track(sweep: Sweep, folder: Path) -> None:
    """Log the table as a W&B run beside those of the trainings, once every run has ended; `--wandb` as theirs."""
    rows = [_row(run, folder) for run in sweep.runs]
    states = [row["state"] for row in rows]
    if not {"finished", "failed"}.issuperset(states):
        return
    from facegan.run.tracking import Tracker

    tried = {name: list(dict.fromkeys(run.values[name] for run in sweep.runs)) for name in sweep.runs[0].values}
    config = {"recipe": sweep.recipe, "tried": tried, "seeds": sorted({run.seed for run in sweep.runs})}
    settings, name = _settings(sweep, folder), folder.name
    tracker = Tracker(folder, settings.wandb, config, name, name, "sweep", settings.wandb_project)
    tracker.log_table("sweep/table", rows)
    tracker.log({"sweep/runs": len(rows), "sweep/finished": states.count("finished")})
    tracker.finish()


def _settings(sweep: Sweep, folder: Path) -> RunSettings:
    """The run settings of the first training: those that are the sweep's own are the same in all."""
    recipe = recipe_classes()[sweep.recipe]
    name, *arguments = train_arguments(sweep, folder, sweep.runs[0])
    ctx = RecipeCommand(recipe).make_context(f"train {name}", arguments)
    return values.build(recipe, resolve(recipe, ctx))[1]


def _values(recipe: str, name: str, text: str) -> list[str]:
    default = getattr(recipe_classes()[recipe], name, None)
    return [text] if isinstance(default, Range) else text.split(",")


def _name(point: dict[str, str], seed: int) -> str:
    parts = [f"{name}-{re.sub('[^A-Za-z0-9.+]+', '-', value)}" for name, value in point.items()]
    return "_".join([*parts, f"seed-{seed}"])


def _element(sweep: Sweep, number: int) -> Run:
    if not 0 <= number < len(sweep.runs):
        raise UsageError(f"--element {number}: the sweep has runs 0 to {len(sweep.runs) - 1}")
    return sweep.runs[number]


def _options(grid: tuple[str, ...], seeds: int, folder: Path) -> list[str]:
    """This command's own options again, for the elements of an array."""
    axes = [word for text in grid for word in ("--set", text)]
    return [*axes, "--seeds", str(seeds), "--out", str(folder)]


def _submit(ctx: click.Context, sweep: Sweep, arguments: list[str]) -> None:
    """`facegan submit sweep --array=0-N -- ARGUMENTS`, with all its checks."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    submit = group.get_command(ctx, "submit")
    assert submit is not None
    call = ["sweep", f"--array=0-{len(sweep.runs) - 1}", "--", *arguments]
    submit.invoke(submit.make_context("submit", call, parent=ctx.parent))
    click.echo("When it has ended, the table: the same command with --table in place of --slurm")


def _train(arguments: list[str]) -> int:
    """One `facegan train` in a process group of its own, so that each signal reaches it exactly once: from here."""
    command = [sys.executable, "-m", "jobs", "train", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    before = {
        number: signal.signal(number, lambda received, _: process.send_signal(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _row(run: Run, folder: Path) -> dict[str, Any]:
    outcome = read_outcome(folder / run.name)
    row = {"run": run.name, **run.values, "seed": run.seed, "state": outcome.get("state", "not ended")}
    return row | {"kimg": outcome.get("nimg", 0) / 1000} | _numbers(folder / run.name / "stats.jsonl")


def _numbers(stats: Path) -> dict[str, float]:
    """The last losses and speed, and of each metric the last and the best value of a run."""
    from facegan.metrics.protocol import higher_is_better

    numbers: dict[str, float] = {}
    for line in json_lines(stats):
        for key, value in line.items():
            group, _, name = key.partition("/")
            if group == "metrics":
                numbers[name] = value
                better = max if higher_is_better(name) else min
                numbers[f"{name} best"] = better(value, numbers.get(f"{name} best", value))
            elif group == "loss" and name in ("discriminator", "generator"):
                numbers[f"loss {name[0].upper()}"] = value
    return numbers


def _by_values(sweep: Sweep, rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds of each metric's best value, a line a combination."""
    metrics = list(dict.fromkeys(name for row in rows for name in row if name.endswith(" best")))
    lines = []
    for point in dict.fromkeys(tuple(run.values.items()) for run in sweep.runs):
        own = [row for run, row in zip(sweep.runs, rows, strict=True) if tuple(run.values.items()) == point]
        cells = [_spread([row[metric] for row in own if metric in row]) for metric in metrics]
        lines.append([" ".join(f"{name}={value}" for name, value in point) or sweep.recipe, *cells])
    return table.align([["values", *metrics], *lines]) + "\n\n" if metrics else ""


def _spread(numbers: list[float]) -> str:
    if not numbers:
        return "-"
    return f"{statistics.fmean(numbers):.4g}" + (f" ± {statistics.stdev(numbers):.2g}" if len(numbers) > 1 else "")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
