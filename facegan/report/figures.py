"""The figures that the reference systems show, as pictures; nothing here trains or writes but `training_gif`."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn

from facegan import sampling
from facegan.errors import FaceganError
from facegan.files import json_lines
from facegan.networks import build_generator
from facegan.randomness import keep_mask
from facegan.recipes import Recipe, load
from facegan.recipes.checks import FAMILIES
from facegan.report import charts
from facegan.run.history import sample_grids
from facegan.sampling import Picture

GAP = 12
INK = (40, 40, 40)
Row = Mapping[str, Any]

# Panels of the loss figure: title, then (key of stats.jsonl, label) of each curve.
PANELS = (
    ("Losses", (("loss/generator", "generator"), ("loss/discriminator", "discriminator"))),
    ("Discriminator's loss", (("loss/real", "on real"), ("loss/fake", "on fake"))),
    ("Discriminator's scores", (("scores/real", "on real"), ("scores/fake", "on fake"))),
)


def beside(pictures: Sequence[Picture], captions: Sequence[str]) -> Picture:
    """Pictures from left to right, tops aligned, each under its caption."""
    titled = [caption(picture, text) for picture, text in zip(pictures, captions, strict=True)]
    return _stack(titled, horizontal=True)


def above(pictures: Sequence[Picture], captions: Sequence[str]) -> Picture:
    """Pictures from top to bottom, left edges aligned, each under its caption."""
    titled = [caption(picture, text) for picture, text in zip(pictures, captions, strict=True)]
    return _stack(titled, horizontal=False)


def caption(picture: Picture, text: str) -> Picture:
    """The picture under a strip with `text`, widened where the text needs it."""
    font = ImageFont.load_default(14)
    width = max(picture.width, round(font.getlength(text)) + 8)
    sheet = Image.new("RGB", (width, picture.height + 22), "white")
    ImageDraw.Draw(sheet).text((4, 2), text, INK, font)
    sheet.paste(picture.convert("RGB"), (0, 22))
    return sheet


def enlarge(picture: Picture, factor: int) -> Picture:
    """Each pixel as a square of `factor` pixels (nearest neighbour), so that nothing is smoothed over."""
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def real_and_fake(real: Tensor, fake: Tensor, columns: int = 0) -> Picture:
    """Grids of real and generated uint8 images (n, C, H, W), side by side."""
    return beside([sampling.grid(real, columns), sampling.grid(fake, columns)], ["real", "generated"])


def eval_and_train(generator: nn.Module, z: Tensor, value_range: str, seed: int = 0) -> Picture:
    """The same z twice: above in eval mode, below in train mode (batch statistics, dropout on).

    The generator itself, its running statistics included, is left as it is.
    """
    return above(
        [
            sampling.grid(sampling.generate(generator, z, value_range), len(z)),
            sampling.grid(generate_in_training(generator, z, value_range, seed), len(z)),
        ],
        ["eval mode: running statistics, no dropout", "train mode: " + _training_only(generator)],
    )


def _training_only(generator: nn.Module) -> str:
    """What a generator does in train mode only."""
    by_batch = any(getattr(module, "running_mean", None) is not None for module in generator.modules())
    does = ["batch statistics"] * by_batch + ["dropout"] * bool(getattr(generator, "dropout", 0.0))
    return ", ".join(does) or "the same, as this generator has neither batch statistics nor dropout"


@torch.no_grad()
def generate_in_training(generator: nn.Module, z: Tensor, value_range: str, seed: int = 0) -> Tensor:
    """G(z) as training sees it, all z in one batch: uint8 (n, C, H, W) on the CPU."""
    twin = copy.deepcopy(generator).train()
    device = next(twin.parameters()).device
    dropout: float = getattr(twin, "dropout", 0.0)
    shapes: list[tuple[int, ...]] = getattr(twin, "mask_shapes", []) if dropout else []
    masks = [keep_mask(seed, f"figure/{k}", 0, len(z), shape, dropout).to(device) for k, shape in enumerate(shapes)]
    return sampling.to_uint8(twin(z.to(device), masks or None), value_range).cpu()


def checkerboard(recipe: Recipe, seed: int = 0, n: int = 4) -> Picture:
    """Untrained generators on the same z: deconvolution against upsampling with convolution.

    What patterns there are come from the architecture alone (Odena et al. 2016, "Deconvolution and checkerboard
    artifacts"). Contrast is stretched to the full range. Raises UsageError where the family has only one of them.
    """
    rows = [_untrained(dataclasses.replace(recipe, upsample=kind), seed, n) for kind in ("deconv", "nearest")]
    kinds = ("deconvolution", "nearest upsampling + convolution")
    return above(rows, [f"{recipe.name}, untrained, {kind}" for kind in kinds])


def _untrained(recipe: Recipe, seed: int, n: int) -> Picture:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = build_generator(recipe)
    # Batch statistics: an untrained network's running ones fit nothing.
    images = generate_in_training(generator, sampling.latents(seed, 16, recipe.latent_dim), "tanh", seed)[:n]
    stretched = [ImageOps.autocontrast(enlarge(sampling.to_picture(image), 2)) for image in images]
    return _stack(stretched, horizontal=True, gap=4)


def checkerboard_of(recipe: Recipe, seed: int = 0) -> Picture:
    """`checkerboard` of this recipe, or of `dcgan-64` where its family cannot upsample in both ways."""
    family = FAMILIES[recipe.network]
    has_both = {"deconv", "nearest"} <= set(family.upsampling) and family.kernels
    return checkerboard(recipe if has_both else load("dcgan-64"), seed)


def before_and_after(run_dir: Path) -> Picture:
    """The first and the last sample grid of a training; raises FaceganError where there are fewer than two."""
    grids = sample_grids(run_dir)
    if len(grids) < 2:
        raise FaceganError(f"{run_dir}/samples: {len(grids)} sample grids, expected at least 2 (before and after)")
    pictures = [_open(path) for _, path in (grids[0], grids[-1])]
    return beside(pictures, [f"before: {_images_seen(grids[0][0])}", f"after: {_images_seen(grids[-1][0])}"])


def training_gif(run_dir: Path, out: Path) -> Path:
    """Write the sample grids of a training as a GIF, each under the images seen; return its path."""
    grids = sample_grids(run_dir)
    if not grids:
        raise FaceganError(
            f"{run_dir}/samples: no sample grids (fake-nimg-*.png): is this a run folder of facegan train?"
        )
    return sampling.save_gif([caption(_open(path), _images_seen(nimg)) for nimg, path in grids], out)


def read_stats(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of `stats.jsonl`, without a last line cut short by a crash; FaceganError where there are none."""
    path = run_dir / "stats.jsonl"
    rows = list(json_lines(path))
    if not rows:
        raise FaceganError(f"{path}: no statistics: is this a run folder of facegan train?")
    return rows


def loss_curves(rows: Sequence[Row]) -> Picture:
    """Curves over thousands of images: both losses, the discriminator's on real and on fake, and its scores.

    A panel without a value in `rows` is left out. Raises FaceganError where that is all of them.
    """
    drawn = [charts.picture(title, _curves(rows, curves), "thousands of images") for title, curves in PANELS]
    panels = [panel for panel in drawn if panel is not None]
    if not panels:
        raise FaceganError("no losses in stats.jsonl: expected loss/generator, loss/discriminator, ...")
    return _stack(panels, horizontal=True)


def _curves(rows: Sequence[Row], keys: Sequence[tuple[str, str]]) -> list[charts.Series]:
    """One series a key: (kimg, value) of the rows that have it."""
    return [
        charts.Series(label, [(row["progress/kimg"], row[key]) for row in rows if row.get(key) is not None], k)
        for k, (key, label) in enumerate(keys)
    ]


def _stack(pictures: Sequence[Picture], *, horizontal: bool, gap: int = GAP) -> Picture:
    widths, heights = [p.width for p in pictures], [p.height for p in pictures]
    space = gap * (len(pictures) - 1)
    size = (sum(widths) + space, max(heights)) if horizontal else (max(widths), sum(heights) + space)
    sheet = Image.new("RGB", size, "white")
    x = y = 0
    for picture in pictures:
        sheet.paste(picture, (x, y))
        x, y = (x + picture.width + gap, y) if horizontal else (x, y + picture.height + gap)
    return sheet


def _open(path: Path) -> Picture:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _images_seen(nimg: int) -> str:
    return f"{nimg:,} images seen"
