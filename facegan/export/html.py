"""A run's generator as one HTML file that draws new faces in the visitor's browser: no network, no server.

The layers are lowered to a few plain ones (`lower`), their weights rounded to bytes (`rounding`), and run by the
page's own JavaScript and WebAssembly (`engine.js`, `latents.js`, `kernel`). Everything else is forbidden to the
page by its Content-Security-Policy. None of the set's pictures go into it.
"""

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from facegan import __version__, sampling
from facegan.errors import FaceganError
from facegan.export import kernel, terms
from facegan.export.generator import Generator
from facegan.export.lower import Program, lower
from facegan.export.rounding import MOST_LEVELS, Blob, Rounded, round_weights
from facegan.files import write_text
from facegan.run.snapshot import Snapshot

MOST_BYTES = 6_000_000
LEAST_LEVELS = 3
CHECKED, CHECK_SEED = 8, 0  # pictures the page compares itself with
COMPARED = 64  # pictures that the cost of rounding is measured on
DIRECTIONS = 6
FOLDER = Path(__file__).parent
PARTS = {"engine": ("engine.js", "latents.js"), "script": ("page.js",), "style": ("page.css",)}


@dataclass(frozen=True)
class Page:
    """The page as written, and what the rounding of its weights costs."""

    path: Path
    bytes: int
    levels: int  # steps on either side of zero
    error: float  # of 255, mean over the pixels of pictures drawn with and without rounding


def write_page(snapshot: Snapshot, out: Path, title: str, most_bytes: int = MOST_BYTES) -> Page:
    """Write the page, whole or not at all.

    Weights are rounded to 127 steps on either side of zero, fewer where the page would be larger than `most_bytes`.
    Raises FaceganError where the generator cannot be lowered, or no rounding makes it small enough.
    """
    program = lower(snapshot.generator.to("cpu"), snapshot.recipe.latent_dim)
    levels = MOST_LEVELS
    while True:
        rounded = round_weights(program, levels)
        error = _error(snapshot, rounded.program)
        text = render(snapshot, rounded, title, error)
        size = len(text.encode())
        if size <= most_bytes:
            break
        levels = _fewer(levels, size, most_bytes, rounded)
        if levels < LEAST_LEVELS:
            raise FaceganError(f"{out}: no page of {most_bytes / 1e6:g} MB holds this generator: give --max-mb")
    write_text(out, text)
    return Page(out, size, levels, error)


def render(snapshot: Snapshot, rounded: Rounded, title: str, error: float) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("facegan.export", "."), autoescape=True, undefined=StrictUndefined
    )
    parts = {
        part: "".join((FOLDER / n).read_text(encoding="utf-8") for n in names) for part, names in PARTS.items()
    }
    model, weights = _model(snapshot, rounded)
    numbers = sum(tensor.numel() for tensor in rounded.program.tensors.values())
    return environment.get_template("page.html").render(
        title=title,
        parameters=f"{numbers / 1e6:.1f} million",
        width=snapshot.recipe.resolution.width,
        height=snapshot.recipe.resolution.height,
        facts=_facts(snapshot, error),
        terms=terms.sentence(snapshot),
        model=Markup(json.dumps(model, separators=(",", ":")).replace("<", "\\u003c")),
        weights=Markup(weights),
        hashes={name: _hash(text) for name, text in parts.items()},
        version=__version__,
        **{name: Markup(text) for name, text in parts.items()},
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _model(snapshot: Snapshot, rounded: Rounded) -> tuple[dict[str, Any], str]:
    """What the engine reads: layers, where everything lies in the blob; and the blob as text."""
    recipe, blob = snapshot.recipe, Blob()
    tensors = blob.add_rounded(rounded)
    z = sampling.latents(CHECK_SEED, CHECKED, recipe.latent_dim)
    pictures = _draw(rounded.program, z, recipe.value_range).permute(0, 2, 3, 1)
    model = {
        "latent": recipe.latent_dim,
        "size": list(rounded.program.shape),
        "range": recipe.value_range,
        "layers": rounded.program.layers,
        "tensors": tensors,
        "check": {
            "seed": CHECK_SEED,
            "count": CHECKED,
            "latents": blob.add(z),
            "pictures": blob.add(pictures),
        },
        "directions": {"count": DIRECTIONS, "at": blob.add(directions(rounded.program))},
        "kernel": base64.b64encode(kernel.module()).decode(),
    }
    packed, text = blob.text()
    return model | {"packed": packed}, text


def directions(program: Program, count: int = DIRECTIONS) -> Tensor:
    """Unit directions of z that change the first layer's output most: (count, latent_dim).

    Eigenvectors of its weights' A^T A, largest first (Shen and Zhou 2021, arXiv:2007.06600): the principal
    components of what the layer makes of a Gaussian z.
    """
    first = next(layer for layer in program.layers if "weight" in layer)
    rows = program.tensors[first["weight"]].flatten(1).double()
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    largest: Tensor = vectors.flip(1).T[:count].float().contiguous()
    return largest


def _fewer(levels: int, size: int, most: int, rounded: Rounded) -> int:
    """The number of levels whose entropy is less by what is too much; at least one fewer."""
    weights = sum(tensor.numel() for tensor in rounded.whole.values())
    bits = (size - most) * 8 / 1.25 / weights  # base 85 makes 5 characters of 4 bytes
    return min(levels - 1, int(levels / 2**bits))


def _error(snapshot: Snapshot, program: Program) -> float:
    z = sampling.latents(CHECK_SEED, COMPARED, snapshot.recipe.latent_dim)
    exact = sampling.generate(snapshot.generator, z, snapshot.recipe.value_range)
    rounded = _draw(program, z, snapshot.recipe.value_range)
    return float((exact.float() - rounded.float()).abs().mean())


@torch.no_grad()
def _draw(program: Program, z: Tensor, value_range: str) -> Tensor:
    images: Tensor = Generator(program.layers, program.tensors)(z)
    return sampling.to_uint8(images, value_range)


def _facts(snapshot: Snapshot, error: float) -> list[tuple[str, str]]:
    recipe = snapshot.recipe
    data = terms.data_of(snapshot)
    return [
        ("recipe", f"{recipe.name}: {recipe.summary}"),
        ("after", recipe.reference),
        ("size of a face", f"{recipe.resolution.height} x {recipe.resolution.width} pixels"),
        ("trained on", f"{f'{data}, ' if data else ''}{snapshot.nimg / 1000:,.0f} thousand images seen"),
        ("weights", f"rounded to bytes; {error:.2f} of 255 a pixel from the unrounded network"),
        ("seeds", "the same as those of facegan sample"),
    ]
