"""A contact sheet of random samples, to look at a set."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from facegan.files import whole_file
from shards.read.images import Images
from shards.read.order import Permutation

GAP = 2  # pixels of white between two pictures


def draw_sheet(images: Images, count: int, seed: int, path: Path) -> None:
    """Draw `count` different random samples (or all there are) in a grid, as a PNG."""
    chosen = Permutation(len(images), seed)(np.arange(min(count, len(images))))
    pictures = images.gather(chosen)
    columns = math.ceil(math.sqrt(len(pictures)))
    height, width = images.height + GAP, images.width + GAP
    sheet = Image.new("RGB", (columns * width + GAP, -(-len(pictures) // columns) * height + GAP), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        pixels = np.broadcast_to(picture, (*picture.shape[:2], 3))
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)), (GAP + column * width, GAP + row * height))
    with whole_file(path) as part:
        sheet.save(part, "PNG")
