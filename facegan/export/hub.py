"""A folder ready to become a Hugging Face repository: weights, code without this package, card, samples, a Space.

Nothing is uploaded. The folder holds generated pictures only.
"""

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors.torch import save_file

from facegan import __version__, recipes, sampling
from facegan.errors import UsageError
from facegan.export import terms
from facegan.export.html import Page, write_page
from facegan.export.lower import Program, lower
from facegan.files import sync_folder, write_json, write_text
from facegan.metrics import protocol
from facegan.run.snapshot import Snapshot, run_folder

FORMAT = "facegan-hub"
SAMPLES, COLUMNS = 32, 8
CODE = Path(__file__).with_name("generator.py")


def write_hub(snapshot: Snapshot, out: Path, title: str) -> Path:
    """Write the folder `out`, whole or not at all; an earlier export there is replaced.

    Raises UsageError where `out` is something else.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or _is_ours(out))):
        raise UsageError(f"--out {out}: exists and is no folder of facegan export --to hub; choose another")
    part = out.with_name(f".{out.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        _fill(part, snapshot, title)
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _is_ours(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "config.json").read_text())["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _fill(folder: Path, snapshot: Snapshot, title: str) -> None:
    recipe = snapshot.recipe
    program = lower(snapshot.generator.to("cpu"), recipe.latent_dim)
    save_file(program.tensors, folder / "generator.safetensors")
    write_json(folder / "config.json", _config(program, snapshot))
    shutil.copyfile(CODE, folder / CODE.name)
    z = sampling.latents(0, SAMPLES, recipe.latent_dim)
    images = sampling.generate(snapshot.generator, z, recipe.value_range)
    sampling.save_png(sampling.grid(images, COLUMNS), folder / "samples.png")
    page = write_page(snapshot, folder / "space" / "index.html", title)
    environment = Environment(
        loader=PackageLoader("facegan.export", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    values = _card(snapshot, title, page)
    write_text(folder / "README.md", environment.get_template("card.md").render(values))
    write_text(folder / "space" / "README.md", environment.get_template("space.md").render(values))


def _config(program: Program, snapshot: Snapshot) -> dict[str, Any]:
    """What `generator.py` reads (`layers`), and what the numbers mean."""
    recipe = snapshot.recipe
    return {
        "format": FORMAT,
        "latent_dim": recipe.latent_dim,
        "image": dict(zip(("channels", "height", "width"), program.shape, strict=True)),
        "value_range": [-1, 1] if recipe.value_range == "tanh" else [0, 1],
        "recipe": recipe.name,
        "values": recipes.to_values(recipe),
        "nimg": snapshot.nimg,
        "seed": snapshot.seed,
        "software": {"facegan": __version__} | dict(snapshot.meta.get("software") or {}),
        "layers": program.layers,
    }


def _card(snapshot: Snapshot, title: str, page: Page) -> dict[str, Any]:
    """What the model card says."""
    recipe = snapshot.recipe
    values, usual = recipes.to_values(recipe), recipes.to_values(recipes.load(recipe.name))
    sources = {name: recipe.source(name) if values[name] == usual[name] else "this run" for name in _SHOWN}
    return {
        "title": title,
        "quoted_title": json.dumps(title),
        "recipe": recipe,
        "rows": [(name, values[name], sources[name]) for name in _SHOWN],
        "kimg": f"{snapshot.nimg / 1000:g}",
        "data": terms.data_of(snapshot) or "pictures whose source the run does not name",
        "samples": terms.samples_of(snapshot),
        "terms": terms.sentence(snapshot),
        "restricted": bool(terms.restriction(snapshot)),
        "metrics": _metrics(snapshot),
        "page": page,
        "version": __version__,
    }


_SHOWN = ("resolution", "crop", "loss", "gp_weight", "r1_gamma", "g_lr", "d_lr", "batch_size", "ema_kimg", "flip")


def _metrics(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What was measured on this snapshot, with its protocol."""
    run = run_folder(snapshot.path)
    measured = protocol.read(run) if run != snapshot.path else []
    return [
        {
            "values": {key.removeprefix("metrics/"): f"{value:.4g}" for key, value in m.values.items()},
            "protocol": ", ".join(f"{k} {json.dumps(v)}" for k, v in m.protocol.items() if k != "versions"),
        }
        for m in measured
        if m.nimg == snapshot.nimg
    ]
