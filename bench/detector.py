"""How many real faces the detector of `facegan evaluate` finds, by crop and size: the table of docs/metrics.md.

python bench/detector.py data/celeba/img_align_celeba.zip
"""

import io
import sys
import zipfile

import numpy as np
import torch
from PIL import Image

from facegan.metrics.detector import face_shares

N = 500


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[-N:]
        pictures = [Image.open(io.BytesIO(archive.read(name))) for name in names]
    for crop in (108, 150):
        for size in (28, 32, 64, 128):
            left, top = (pictures[0].width - crop) // 2, (pictures[0].height - crop) // 2
            box = (left, top, left + crop, top + crop)
            pixels = np.stack([np.asarray(picture.resize((size, size), box=box)) for picture in pictures])
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            right, wrong = face_shares(images), face_shares(images.roll((size // 2, size // 2), dims=(2, 3)))
            print(f"| {crop} | {size} | {100 * right.face:.1f} | {100 * right.eyes:.1f} | {100 * wrong.face:.1f} |")


if __name__ == "__main__":
    main()
