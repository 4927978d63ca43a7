"""`facegan sample`: pictures from a trained generator, as a grid, a folder, an interpolation or a GIF."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from facegan.errors import FaceganError, UsageError

if TYPE_CHECKING:
    from facegan.run.snapshot import Snapshot

CHUNK = 256


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--n", default=64, type=click.IntRange(1), help="How many pictures.")
@click.option("--seed", default=0, help="Seed of the latents; the same seed gives the same pictures.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="FILE.png for one grid, else a folder of PNGs.  [default: RUN/samples]",
)
@click.option("--columns", type=click.IntRange(0), default=0, help="Columns of the grid; 0 makes it about square.")
@click.option(
    "--interpolate", type=click.Choice(["slerp", "linear"]), help="Rows that walk from one face to another."
)
@click.option("--gif", is_flag=True, help="A GIF of the training's own sample grids instead.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to generate.")
def command(
    run: Path,
    n: int,
    seed: int,
    out: Path | None,
    columns: int,
    interpolate: str | None,
    gif: bool,
    device: str,
) -> None:
    """Draw pictures from RUN, a run folder (its newest snapshot) or one snapshot folder.

    \b
    Examples:
      facegan sample runs/dcgan-64
      facegan sample runs/dcgan-64 --n 100 --columns 10 --seed 7 --out faces.png
      facegan sample runs/dcgan-64/snapshots/nimg-000500000 --n 5000 --out faces/
      facegan sample runs/dcgan-64 --interpolate slerp --n 80 --columns 10
      facegan sample runs/dcgan-64 --gif
    """
    if gif:
        click.echo(training_gif(run, out))
        return
    from facegan.run.snapshot import load_snapshot

    snapshot = load_snapshot(run)
    snapshot.generator.to(_device(device))
    if out is not None and out.suffix.lower() != ".png" and not interpolate:
        click.echo(folder(snapshot, out, n, seed))
    else:
        click.echo(picture(snapshot, out or _default(snapshot, seed, interpolate), n, seed, columns, interpolate))


def picture(
    snapshot: "Snapshot", out: Path, n: int, seed: int, columns: int = 0, interpolate: str | None = None
) -> Path:
    """Save `n` samples as one grid; interpolated, each row of `columns` (8) is a way between two latents."""
    from facegan import sampling

    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: a grid is one picture: expected a name ending in .png")
    latent_dim = snapshot.recipe.latent_dim
    if interpolate:
        columns = columns or 8
        z = sampling.interpolation_rows(seed, max(n // columns, 1), columns, latent_dim, interpolate)
    else:
        z = sampling.latents(seed, n, latent_dim)
    images = sampling.generate(snapshot.generator, z, snapshot.recipe.value_range)
    return sampling.save_png(sampling.grid(images, columns), out)


def folder(snapshot: "Snapshot", out: Path, n: int, seed: int) -> Path:
    """Save `n` samples as PNGs of their own; never more than a few hundred in memory."""
    from facegan import sampling
    from jobs.progress import Progress

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: expected FILE.png, or a folder for single pictures")
    with Progress(n, "pictures", label="sample") as progress:
        for first in range(0, n, CHUNK):
            z = sampling.latents(seed, min(CHUNK, n - first), snapshot.recipe.latent_dim, first)
            images = sampling.generate(snapshot.generator, z, snapshot.recipe.value_range)
            progress.update(len(sampling.save_pngs(images, out, first)))
    return out


def training_gif(run: Path, out: Path | None) -> Path:
    """Save the sample grids of a run's training as a GIF."""
    from facegan.report import figures

    out = out or run / "samples" / "training.gif"
    if out.suffix.lower() != ".gif":
        raise UsageError(f"--out {out}: expected a name ending in .gif with --gif")
    return figures.training_gif(run, out)


def _default(snapshot: "Snapshot", seed: int, interpolate: str | None) -> Path:
    """RUN/samples, or beside the weights where the snapshot lies outside a run."""
    from facegan.run.snapshot import run_folder

    home = run_folder(snapshot.path)
    folder = home if home == snapshot.path else home / "samples"
    return folder / f"{interpolate or 'grid'}-nimg-{snapshot.nimg:012d}-seed-{seed}.png"


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise FaceganError("--device cuda: PyTorch finds no CUDA GPU here; facegan doctor says why")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
