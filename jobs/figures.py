"""`facegan figures`: what the reference systems show, made from a run folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facegan.errors import FaceganError

if TYPE_CHECKING:
    from torch import Tensor

    from facegan.run.snapshot import Snapshot
    from facegan.sampling import Picture

SIDE_BY_SIDE = 25  # images on each side of the real-and-fake figure
SPLITS = ("val", "test", "train")  # the first that a set has is shown
MODES = 8  # columns of the figure of eval mode against train mode


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Set of shards to show real images of.")
@click.option("--split", help="Split of the set.  [default: val; without one test, then train]")
@click.option("--seed", default=0, help="Seed of the latents.")
def command(run: Path, data: Path | None, split: str | None, seed: int) -> None:
    """Draw the figures that apply to RUN into RUN/figures, and print their paths.

    Samples, interpolation, enlargement, eval mode against train mode, checkerboard, loss curves, before and
    after, the GIF of the training; with --data real and generated images side by side.

    \b
    Examples:
      facegan figures runs/dcgan-64
      facegan figures runs/wgan-gp-lfw --data data/lfw/62x47
    """
    for path in make_figures(run, data, split, seed):
        click.echo(path)


def make_figures(run: Path, data: Path | None = None, split: str | None = None, seed: int = 0) -> Iterator[Path]:
    """Write each figure as soon as it is drawn and yield its path; say which the run has no material for."""
    from facegan import sampling
    from facegan.report import figures
    from facegan.run.history import sample_grids
    from facegan.run.snapshot import load_snapshot

    folder = run / "figures"
    for name, draw in _drawings(load_snapshot(run), run, data, split, seed).items():
        try:
            yield sampling.save_png(draw(), folder / f"{name}.png")
        except FaceganError as error:
            click.echo(f"{name}: left out: {error}", err=True)
    if sample_grids(run):
        yield figures.training_gif(run, folder / "training.gif")


def _drawings(
    snapshot: "Snapshot", run: Path, data: Path | None, split: str | None, seed: int
) -> "dict[str, Callable[[], Picture]]":
    from facegan import sampling
    from facegan.report import figures

    generator, recipe = snapshot.generator, snapshot.recipe
    value_range = recipe.value_range

    def grid(z: "Tensor", columns: int) -> "Picture":
        return sampling.grid(sampling.generate(generator, z, value_range), columns)

    z = sampling.latents(seed, 80, recipe.latent_dim)
    drawings: dict[str, Callable[[], Picture]] = {
        "samples-80": lambda: grid(z, 10),
        "interpolation": lambda: grid(sampling.interpolation_rows(seed, 6, 10, recipe.latent_dim), 10),
        "enlarged": lambda: figures.enlarge(grid(z[:4], 4), 4),
        "eval-train": lambda: figures.eval_and_train(generator, z[: 2 * MODES], value_range, seed),
        "checkerboard": lambda: figures.checkerboard_of(recipe, seed),
        "losses": lambda: figures.loss_curves(figures.read_stats(run)),
        "before-after": lambda: figures.before_and_after(run),
    }
    if data is not None:
        drawings["real-fake"] = lambda: figures.real_and_fake(
            _real_images(data, split, recipe.resolution.height, SIDE_BY_SIDE),
            sampling.generate(generator, z[:SIDE_BY_SIDE], value_range),
            5,
        )
    return drawings


def _real_images(data: Path, split: str | None, height: int, n: int) -> "Tensor":
    """`n` images from all over a split, held out where there is one: uint8 (n, C, H, W).

    Neighbours often show one person.
    """
    import numpy as np
    import torch

    from shards import open_set

    opened = open_set(data, height)
    held_out = next((name for name in SPLITS if name in opened.index.splits), SPLITS[0])
    images = opened.split(split or held_out)
    pixels = images.gather(np.linspace(0, len(images) - 1, min(n, len(images))).astype(np.int64))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
