"""`facegan train RECIPE`: one click command per recipe, made from its dataclass."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from facegan.recipes import Range, Recipe, Size, recipe_classes
from facegan.recipes.checks import check
from jobs import table, values
from jobs.values import Value

# Flags of every recipe, whether its reference fixes them or not.
LENGTHS = ("kimg", "epochs")
ALWAYS = ("batch_size", *LENGTHS)
PATHS = ("data", "run_dir", "stage", "init_from")  # completed by the shell; a set may also be an address


class Train(click.Group):
    """The recipes as commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(recipe_classes())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        recipe = recipe_classes().get(cmd_name)
        return RecipeCommand(recipe) if recipe else None


@click.group(cls=Train, subcommand_metavar="RECIPE [OPTIONS]")
def command() -> None:
    """Train RECIPE on a set of shards. The same command again continues where the run stopped.

    \b
    Examples:
      facegan train dcgan-64 --data data/shards --run-dir runs/dcgan-64
      facegan train dcgan-64 --data data/shards --kimg 2000 --seed 1 --run-dir runs/seed-1
      facegan train face-64 --data data/own --init-from runs/face-64 --run-dir runs/own
      facegan train wgan-gp-64 --critic-norm layer --set gp_weight=5 --dry-run
      accelerate launch -m jobs train dcgan-128 --data data/shards --run-dir runs/dcgan-128
      torchrun --nproc-per-node 8 -m jobs train dcgan-128 --data data/shards

    A value comes from its flag, else from FACEGAN_<OPTION> in the environment (FACEGAN_DATA, FACEGAN_BATCH_SIZE),
    else from --config FILE, else from the recipe. Stop with Ctrl-C: the run is saved first.
    """


class RecipeCommand(click.Command):
    """The training command of one recipe: its own fields and the run's settings as flags, `--set` for the rest."""

    def __init__(self, recipe: type[Recipe]) -> None:
        shown = [f for f in dataclasses.fields(recipe) if f.name in {*recipe.options(), *ALWAYS}]
        self.recipe_options: list[click.Parameter] = [
            *(_option(f.name, f.default, recipe.help(f.name)) for f in shown),
            click.Option(["--lr"], type=float, envvar="FACEGAN_LR", help="both learning rates, --g-lr and --d-lr"),
        ]
        self.run_options: list[click.Parameter] = [
            _option(field.name, field.default, field.metadata["help"]) for field in values.SETTINGS.values()
        ]
        super().__init__(
            recipe.name,
            callback=lambda **given: _run(recipe, **given),
            params=[*self.recipe_options, *self.run_options, *_other_options()],
            help=_help(recipe),
            short_help=recipe.summary,
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = {"Recipe (default: the published value)": self.recipe_options, "Run": self.run_options}
        other = [p for p in self.get_params(ctx) if p not in [*self.recipe_options, *self.run_options]]
        for title, parameters in {**sections, "Other": other}.items():
            with formatter.section(title):
                formatter.write_dl([record for p in parameters if (record := p.get_help_record(ctx))])


def _option(name: str, default: Any, help: str) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    return click.Option(
        [f"{flag}/--no-{flag[2:]}" if isinstance(default, bool) else flag, name],
        type=click.Path() if name in PATHS else values.param_type(default),
        default=str(default) if isinstance(default, Size | Range) else default,
        show_default=default != "" and not (name in LENGTHS and default == 0),
        help=help,
        envvar=f"FACEGAN_{name.upper()}",
    )


def _other_options() -> list[click.Parameter]:
    return [
        click.Option(["--set", "overrides"], multiple=True, metavar="FIELD=VALUE", help="any other field"),
        click.Option(
            ["--config"],
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            envvar="FACEGAN_CONFIG",
            help="JSON file of values, the form of a run's config.json",
        ),
        click.Option(["-n", "--dry-run"], is_flag=True, help="print every value and where it came from, and end"),
    ]


def _help(recipe: type[Recipe]) -> str:
    lines = [
        f"{recipe.summary}. Reference: {recipe.reference}.",
        *recipe.notes,
        f"\b\nExamples:\n  facegan train {recipe.name} --data data/shards --run-dir runs/{recipe.name}\n"
        f"  facegan train {recipe.name} --data data/shards --kimg 100 --lr 1e-4 --dry-run",
    ]
    return "\n\n".join(lines)


def _run(recipe_class: type[Recipe], dry_run: bool, **_: Any) -> None:
    ctx = click.get_current_context()
    resolved = resolve(recipe_class, ctx)
    resolved["run_dir"] = _named_run_dir(recipe_class, resolved["run_dir"])
    recipe, settings = values.build(recipe_class, resolved)
    for warning in check(recipe):
        if os.environ.get("RANK", "0") == "0":
            click.echo(f"Warning: {warning}", err=True)
    if dry_run:
        click.echo(describe(recipe, resolved))
    else:
        from jobs.training import run

        ctx.exit(run(recipe, settings, {name: value.origin for name, value in resolved.items()}))


def resolve(recipe_class: type[Recipe], ctx: click.Context) -> dict[str, Value]:
    """Every value of a run and where it came from, by what click has read for this recipe's command."""
    config, overrides = ctx.params["config"], ctx.params["overrides"]
    layers = [
        values.read_config(config, recipe_class) if config else {},
        _given(ctx, ParameterSource.ENVIRONMENT),
        values.parse_set(overrides),
        _given(ctx, ParameterSource.COMMANDLINE),
    ]
    return values.resolve(recipe_class, *layers)


def _given(ctx: click.Context, source: ParameterSource) -> dict[str, Value]:
    """The fields that the command line or the environment sets, with the flag's or the variable's name."""
    fields = [*values.SETTINGS, *Recipe.__dataclass_fields__, "lr"]
    options = {p.name: p for p in ctx.command.params if isinstance(p, click.Option) and p.name in fields}
    is_flag = source is ParameterSource.COMMANDLINE
    return {
        name: Value(ctx.params[name], option.opts[0] if is_flag else str(option.envvar))
        for name, option in options.items()
        if ctx.get_parameter_source(name) is source
    }


def _named_run_dir(recipe: type[Recipe], run_dir: Value) -> Value:
    return run_dir if run_dir.value else Value(f"runs/{recipe.name}", "runs/RECIPE")


def describe(recipe: Recipe, resolved: dict[str, Value]) -> str:
    """Every value and its origin, for `--dry-run`."""
    rows = [(name, "-" if value.value == "" else value.value, value.origin) for name, value in resolved.items()]
    return f"{recipe.name}: {recipe.summary}\n\n" + table.align([("field", "value", "from"), *rows])
