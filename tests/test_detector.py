"""The share of pictures in which a face is found: on painted faces, on their parts out of place, on real ones."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

pytest.importorskip("cv2")

from facegan.metrics.detector import detect, face_shares
from jobs.synthetic.celeba import draw_face

REAL = Path(os.environ.get("FACEGAN_TEST_DATA", "/nowhere")) / "celeba-10k" / "img_align_celeba.zip"


def cropped(pictures: list[Image.Image], crop: int, size: int) -> Tensor:
    """The central square of each, (n, 3, size, size) uint8."""
    left, top = (pictures[0].width - crop) // 2, (pictures[0].height - crop) // 2
    box = (left, top, left + crop, top + crop)
    return torch.from_numpy(np.stack([np.asarray(p.resize((size, size), box=box)) for p in pictures])).permute(
        0, 3, 1, 2
    )


def out_of_place(images: Tensor) -> Tensor:
    """The quarters of each picture changed crosswise: every patch is there, no face is."""
    return images.roll((images.shape[2] // 2, images.shape[3] // 2), dims=(2, 3))


@pytest.fixture(scope="module")
def painted() -> list[Image.Image]:
    return [Image.fromarray(draw_face(0, index)) for index in range(30)]


@pytest.mark.parametrize("size", [28, 32, 64, 128])
def test_faces_are_found_at_every_size_and_their_parts_out_of_place_are_none(
    painted: list[Image.Image], size: int
) -> None:
    images = cropped(painted, 150, size)
    shares, wrong = face_shares(images), face_shares(out_of_place(images))
    assert shares.face > 0.7 > wrong.face + 0.5
    assert shares.eyes > 0.3 > wrong.eyes + 0.2
    assert shares.eyes <= shares.face


def test_noise_holds_no_face_and_grey_and_oblong_pictures_are_taken(painted: list[Image.Image]) -> None:
    images = cropped(painted, 150, 64)
    noise = torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert face_shares(noise) == (0, 0)
    assert face_shares(images[:, :1]).face > 0.7
    assert face_shares(images[:, :, :, 8:56]).face > 0.6
    assert detect(images[:3]).shape == (3, 2)


@pytest.mark.skipif(not REAL.exists(), reason="no real pictures: FACEGAN_TEST_DATA")
def test_nearly_all_real_faces_are_found_and_few_where_there_is_none() -> None:
    with zipfile.ZipFile(REAL) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:60]
        images = cropped([Image.open(io.BytesIO(archive.read(name))) for name in names], 150, 64)
    assert face_shares(images).face > 0.9
    assert face_shares(images).eyes > 0.6
    assert face_shares(out_of_place(images)).face < 0.1


def test_without_opencv_the_line_to_type_is_said() -> None:
    code = """
import sys; sys.modules["cv2"] = None
import torch
from facegan.metrics.detector import face_shares
face_shares(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'facegan[faces]'" in done.stderr
