"""`facegan recipes`: the comparison table, or one recipe with its layers, parameter counts and sources."""

import json
from typing import Any

import click

from facegan.recipes import Recipe, load, recipe_classes, to_values
from jobs import table


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def command(name: str | None, as_json: bool) -> None:
    """Compare the recipes, or show recipe NAME in full: layers, parameter counts, every value and its source.

    \b
    Examples:
      facegan recipes
      facegan recipes dcgan-64
      facegan recipes dcgan-64 --json
    """
    if name is None:
        content = [_summary(recipe) for recipe in recipe_classes().values()]
        click.echo(json.dumps(content, indent=2) if as_json else compare(content))
    else:
        from facegan.networks import layer_table

        recipe = load(name)
        networks = layer_table(recipe)
        click.echo(json.dumps(as_dict(recipe, networks), indent=2) if as_json else describe(recipe, networks))


def as_dict(recipe: Recipe, networks: dict[str, Any]) -> dict[str, Any]:
    """The recipe as JSON values: every field with its value and source, both networks with their layers."""
    fields = {name: {"value": value, "source": recipe.source(name)} for name, value in to_values(recipe).items()}
    tables = {
        role: {**network, "layers": [dict(zip(("name", "output", "parameters"), row, strict=True)) for row in rows]}
        for role, network in networks.items()
        if (rows := network["layers"])
    }
    return {**_about(type(recipe)), "notes": list(recipe.notes), "values": fields, **tables}


def compare(recipes: list[dict[str, Any]]) -> str:
    """One line a recipe: what tells them apart."""
    header = ("recipe", "size", "crop", "network", "loss", "batch", "lr G", "lr D", "critic", "length", "reference")
    return table.align([header, *(_row(recipe) for recipe in recipes)])


def describe(recipe: Recipe, networks: dict[str, Any]) -> str:
    """The recipe on one or two screens."""
    doc = (type(recipe).__doc__ or "").strip()
    notes = [f"Note: {note}" for note in recipe.notes]
    tables = [_layers(name.capitalize(), network) for name, network in networks.items()]
    rows = [(f, "-" if v == "" else v, recipe.source(f)) for f, v in to_values(recipe).items()]
    values = table.align([("field", "value", "source"), *rows])
    about = f"{recipe.name}: {recipe.summary}\nReference: {recipe.reference}"
    return "\n\n".join([about, doc, *notes, *tables, values])


def _about(recipe: type[Recipe]) -> dict[str, str]:
    return {"name": recipe.name, "reference": recipe.reference, "summary": recipe.summary}


def _summary(recipe: type[Recipe]) -> dict[str, Any]:
    return {**_about(recipe), "values": to_values(recipe())}


def _row(recipe: dict[str, Any]) -> tuple[str, ...]:
    v = recipe["values"]
    length = f"{v['kimg']:g} kimg" if v["kimg"] else f"{v['epochs']:g} epochs"
    return (
        *(recipe["name"], v["resolution"], v["crop"], v["network"], _loss(v), str(v["batch_size"])),
        *(f"{v['g_lr']:g}", f"{v['d_lr']:g}", str(v["n_critic"]), length, recipe["reference"]),
    )


def _loss(v: dict[str, Any]) -> str:
    extras = {"+GP": v["gp_weight"], "+clip": v["clip"], "+R1": v["r1_gamma"], "+R2": v["r2_gamma"]}
    smoothing = f" {v['real_labels']}" if v["real_labels"] != "1" else ""
    return f"{v['loss']}{smoothing}{''.join(name for name, weight in extras.items() if weight)}"


def _layers(title: str, network: dict[str, Any]) -> str:
    rows = [(name, " x ".join(map(str, shape)), f"{count:,}") for name, shape, count in network["layers"]]
    header = (f"{title} layer", "output (C x H x W)", "parameters")
    totals = f"total {network['total']:,}, trainable {network['trainable']:,}"
    return f"{table.align([header, *rows], right=(2,))}\n{totals}"
