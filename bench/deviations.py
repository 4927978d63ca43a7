"""Where a generator's images are too strong or too weak beside photographs: by size, frequency, place, direction.

    python bench/deviations.py --data data/celeba RUN [RUN ...]        runs that differ in their seed: two rows

Every number is generated over real, of standard deviations: 1 is right, and the first row is how far other real
pictures are from 1. Of several runs it is the mean, and in brackets the lowest and the highest. 64, 32, 16 px:
the levels of the Laplacian pyramid that swd1k is of. finest: of the first level above 0.4 cycles a pixel.
border: of the first level within 2 px of the edge. directions: of 7x7 patches of the last level along the
reals' first principal ones. One row is of the averaged weights and one of those that train, both with BatchNorm
statistics measured for them (`facegan.networks.standing`); the same latents for all, and images as they come,
before `moments_side` and `spectrum_kernel` match them.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from facegan import sampling  # noqa: E402
from facegan.metrics.comparison import chunks, draw  # noqa: E402
from facegan.metrics.swd import descriptors, laplacian, level_heights  # noqa: E402
from facegan.networks.standing import set_standing_statistics  # noqa: E402
from facegan.run.checkpoint import below, newest_checkpoint  # noqa: E402
from facegan.run.snapshot import Snapshot, load_snapshot  # noqa: E402
from shards import ShardSet, open_set  # noqa: E402

MOST = 1024  # images on each side
FINEST = 0.4  # cycles a pixel
BORDER = 2  # pixels
DIRECTIONS = 3


def main() -> None:
    """Read the command line, print the table a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True, help="set of shards")
    parser.add_argument("--split", default="val", choices=("val", "test"))
    options = parser.parse_args()
    snapshots = [load_snapshot(run) for run in options.runs]
    opened = open_set(options.data, snapshots[0].recipe.resolution.height)
    real = pictures(opened, options.split, MOST)
    measure = Deviations(real)
    levels = " | ".join(f"{height} px" for height in level_heights(*real.shape[2:]))
    numbers = " | ".join(f"direction {i + 1}" for i in range(DIRECTIONS))
    print(f"| | kimg | {levels} | finest | border | {numbers} |\n|---|--:|{'--:|' * measure.count}")
    print(row("other real pictures", "", [measure(pictures(opened, "train", len(real)))]))
    kimg = "/".join(sorted({f"{snapshot.nimg / 1000:.1f}" for snapshot in snapshots}))
    drawings = [drawn(run, snapshot, len(real)) for run, snapshot in zip(options.runs, snapshots, strict=True)]
    for sets in zip(*drawings, strict=True):
        print(row(sets[0][0], kimg, [measure(images) for _, images in sets]), flush=True)


def pictures(opened: ShardSet, split: str, most: int) -> Tensor:
    """Up to so many pictures of a split, drawn as an evaluation of seed 0 draws them: (n, C, H, W) uint8."""
    found = opened.split(split)
    return torch.cat(list(chunks(found, draw(len(found), most, 0)))).contiguous()


def drawn(run: Path, snapshot: Snapshot, n: int) -> Iterator[tuple[str, Tensor]]:
    """Images of the averaged weights and of those that train, from the newest checkpoint: (n, C, H, W) uint8."""
    recipe, generator = snapshot.recipe, snapshot.generator
    checkpoint = newest_checkpoint(run / "checkpoints", lambda text: print(text, file=sys.stderr))
    if checkpoint is None:
        sys.exit(f"{run}/checkpoints: no checkpoint here; expected one, as a run that was not cleaned up has it")
    z = sampling.latents(1, n, recipe.latent_dim)
    for name in ("average", "generator"):
        weights = below(checkpoint.tensors, name)
        if weights:
            generator.load_state_dict(weights)
            set_standing_statistics(generator, recipe.latent_dim)
            yield name, sampling.generate(generator, z, recipe.value_range)


class Deviations:
    """Ratios of standard deviations of images to those of the real ones it is made with."""

    def __init__(self, real: Tensor) -> None:
        """real: (n, C, H, W) uint8."""
        self.levels = range(len(level_heights(*real.shape[2:])))
        self.directions = torch.linalg.eigh(torch.cov(self._patches(real).T)).eigenvectors.flip(1)[:, :DIRECTIONS]
        self.real = self._deviations(real)
        self.count = len(self.real)

    def __call__(self, images: Tensor) -> Tensor:
        """images: (n, C, H, W) uint8 -> one ratio a column."""
        return self._deviations(images) / self.real

    def _patches(self, images: Tensor) -> Tensor:
        return torch.from_numpy(descriptors(images, self.levels[-1], 0, "fake"))

    def _deviations(self, images: Tensor) -> Tensor:
        bands = [laplacian(images.float(), level) for level in self.levels]
        along = (self._patches(images) @ self.directions).std(0)
        return torch.stack([*(band.std() for band in bands), finest(bands[0]), border(bands[0]), *along])


def finest(band: Tensor) -> Tensor:
    """Root of the mean power of (n, C, H, W) above FINEST cycles a pixel, under a Hann window."""
    height, width = band.shape[2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    power = torch.fft.rfft2(band * window).abs().square().mean((0, 1))
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    return power[radius > FINEST].mean().sqrt()


def border(band: Tensor) -> Tensor:
    """Standard deviation of (n, C, H, W) within BORDER pixels of the edge."""
    inside = torch.zeros(band.shape[2:], dtype=torch.bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    return band[..., ~inside].std()


def row(subject: str, kimg: str, ratios: list[Tensor]) -> str:
    """One line of the table: the mean of each column and, of several, their range."""
    columns = torch.stack(ratios).T
    return f"| {subject} | {kimg} | " + " | ".join(map(cell, columns)) + " |"


def cell(values: Tensor) -> str:
    spread = f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread}"


if __name__ == "__main__":
    main()
