"""`facegan export`: a trained generator for people who do not have this software."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facegan.errors import UsageError

if TYPE_CHECKING:
    from facegan.run.snapshot import Snapshot

NAMES = {"html": "faces.html", "onnx": "generator.onnx", "hub": "hub"}


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--to", "target", type=click.Choice(list(NAMES)), required=True, help="What to make.")
@click.option("--out", type=click.Path(path_type=Path), help="The file or folder.  [default: in RUN/export]")
@click.option("--max-mb", default=6.0, type=click.FloatRange(0.5), help="Largest page; a smaller one rounds more.")
@click.option("--confirm-terms", is_flag=True, help="You know the terms of the training pictures and keep to them.")
def command(run: Path, target: str, out: Path | None, max_mb: float, confirm_terms: bool) -> None:
    """Make of RUN, a run folder (its newest snapshot) or one snapshot folder, something to pass on.

    html is one file that draws new faces in any browser, without a network or a server. onnx is the generator for
    other programs, compared with PyTorch's pictures. hub is a folder for a Hugging Face repository: weights, code
    that needs PyTorch alone, a model card, and the page as a static Space; nothing is uploaded. None of them holds
    a picture of the training set. Sets whose terms forbid passing on, such as CelebA, need --confirm-terms.

    \b
    Examples:
      facegan export runs/dcgan-64 --to html
      facegan export runs/dcgan-64/snapshots/nimg-000500000 --to html --out faces.html
      facegan export runs/dcgan-64 --to onnx
      facegan export runs/dcgan-64 --to hub --out dcgan-64-faces
    """
    from facegan.export import terms
    from facegan.run.snapshot import load_snapshot, run_folder

    snapshot = load_snapshot(run)
    terms.require(snapshot, confirm_terms)
    home = run_folder(snapshot.path)
    out = out or home / "export" / NAMES[target]
    makers: dict[str, Callable[[], str]] = {
        "html": lambda: page(snapshot, out, home, max_mb),
        "onnx": lambda: model(snapshot, out),
        "hub": lambda: folder(snapshot, out, home),
    }
    click.echo(makers[target]())


def page(snapshot: "Snapshot", out: Path, home: Path, max_mb: float) -> str:
    """Write the page; what to say of it."""
    from facegan.export.html import write_page
    from facegan.export.rounding import MOST_LEVELS

    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {out}: the page is one file: expected a name ending in .html")
    page = write_page(snapshot, out, home.resolve().name, round(max_mb * 1e6))
    coarse = "" if page.levels == MOST_LEVELS else f", {2 * page.levels + 1} values a weight"
    cost = f"rounding its weights moves a pixel by {page.error:.2f} of 255 on average"
    return f"{page.path} ({page.bytes / 1e6:.1f} MB{coarse}; {cost})"


def model(snapshot: "Snapshot", out: Path) -> str:
    """Write the ONNX file; what to say of it."""
    from facegan.export.onnx import OPSET, write_onnx

    if out.suffix.lower() != ".onnx":
        raise UsageError(f"--out {out}: expected a name ending in .onnx")
    written = write_onnx(snapshot, out)
    check = f"onnxruntime's images are at most {written.apart:.1g} from PyTorch's"
    return f"{written.path} ({written.bytes / 1e6:.1f} MB, opset {OPSET}, any batch; {check})"


def folder(snapshot: "Snapshot", out: Path, home: Path) -> str:
    """Write the folder for the Hub; what to do with it."""
    from facegan.export.hub import write_hub

    made = write_hub(snapshot, out, home.resolve().name)
    return f"{made}\nRead its README.md, then: hf upload NAME {made}   (and {made}/space as a static Space)"
