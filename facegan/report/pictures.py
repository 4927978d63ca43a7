"""The pictures of the page, re-encoded into it: sample grids, an interpolation, the nearest training images."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from facegan import sampling
from facegan.errors import FaceganError
from facegan.report.run import Row, Run
from facegan.run.snapshot import load_snapshot, snapshot_folders

PICTURE_BYTES = 6_500_000  # of all pictures of a page; a third more as text, and the page stays below 10 MB
MOST_FRAMES = 24  # sample grids behind one slider
WIDEST = 1100  # pixels of a picture in the page
QUALITIES = (88, 75, 60, 45, 30)
INTERPOLATION_ROWS, INTERPOLATION_STEPS = 4, 8

Grid = tuple[int, Path]  # nimg, picture file


@dataclass(frozen=True)
class Frame:
    """One picture of a slider."""

    kimg: float
    uri: str


class Pictures:
    """Re-encodes pictures for the page, sharing its budget of bytes among them."""

    def __init__(self, count: int) -> None:
        self.share = PICTURE_BYTES // max(count, 1)
        self.notes: list[str] = []

    def embed(self, path: Path) -> str:
        """The picture file as a data URI, or "" with a note where it cannot be read."""
        try:
            with Image.open(path) as picture:
                return self.encode(picture.convert("RGB"))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            self.notes.append(f"{path.name} could not be read: {error}")
            return ""

    def encode(self, picture: Image.Image) -> str:
        """A picture as a WebP data URI, of the best quality that fits its share of the page."""
        picture.thumbnail((WIDEST, WIDEST))
        for quality in QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, format="WEBP", quality=quality, method=4)
            if len(buffer.getvalue()) <= self.share:
                break
        else:
            return self.encode(picture.resize((max(picture.width // 2, 1), max(picture.height // 2, 1))))
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def card(run: Run, grids: Sequence[Grid], pictures: Pictures, home: Path) -> Row:
    """What the page, lying in the folder `home`, shows of a run."""
    frames = [Frame(nimg / 1000, uri) for nimg, path in grids if (uri := pictures.embed(path))]
    real, nearest = run.path / "samples" / "real.png", sorted(run.path.glob("samples/nearest-nimg-*.png"))
    return {
        "run": run,
        "frames": frames,
        "real": pictures.embed(real) if real.exists() else "",
        "interpolation": _interpolation(run, pictures),
        "nearest": pictures.embed(nearest[-1]) if nearest else "",
        "export": _link(run.path / "export" / "faces.html", home),
    }


def _link(page: Path, home: Path) -> str:
    """The way from a page in `home` to the page of `facegan export`, or "" where there is none."""
    return quote(os.path.relpath(page, home)) if page.exists() else ""


def _interpolation(run: Run, pictures: Pictures) -> str:
    if not snapshot_folders(run.path):
        return ""
    try:
        snapshot = load_snapshot(run.path)
    except FaceganError as error:
        pictures.notes.append(str(error))
        return ""
    z = sampling.interpolation_rows(
        snapshot.seed, INTERPOLATION_ROWS, INTERPOLATION_STEPS, snapshot.recipe.latent_dim
    )
    images = sampling.generate(snapshot.generator, z, snapshot.recipe.value_range)
    return pictures.encode(sampling.grid(images, INTERPOLATION_STEPS).convert("RGB"))


def spread(items: Sequence[Grid], most: int) -> list[Grid]:
    """At most `most` of the items, evenly spread, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]
