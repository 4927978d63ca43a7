"""In how many pictures does a detector find a face? OpenCV's cascades, whose models come with the package.

The frontal-face cascade `alt2` and, inside its largest find, the eye cascade (Viola and Jones 2001; Lienhart et al.
2003). They know the parts of a face and where these belong, so the share falls where eyes, nose and mouth do not
make up a face, which no distance between sets says. A few real faces are missed, too: read it beside the share of
real pictures of the same size.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.errors import UsageError
from facegan.metrics.features import Extractor

SIDE = 160  # pixels of the shorter side when looked at, whatever the picture's size
BORDER = 40  # the outermost pixels repeated: a face that fills the picture lies inside the cascade's window
SMALLEST = 64  # a face is at least so wide, an eye an eighth of its face
FACE, EYE = "haarcascade_frontalface_alt2.xml", "haarcascade_eye.xml"


class FaceShares(NamedTuple):
    """Shares in [0, 1] of the pictures: with a face, and with a face that has both eyes."""

    face: float
    eyes: float


def face_shares(images: Tensor) -> FaceShares:
    """The shares of the uint8 images (n, C, H, W), C 1 or 3. Raises UsageError where OpenCV is not installed."""
    return FaceShares(*detect(images).double().mean(dim=0).tolist())


def detect(images: Tensor) -> Tensor:
    """For each of the uint8 images (n, C, H, W): is there a face, and one with both eyes? (n, 2) float32, 0 or 1.

    About 15 ms a picture on one core.
    """
    cv2 = _opencv()
    face, eye = (cv2.CascadeClassifier(cv2.data.haarcascades + name) for name in (FACE, EYE))
    answers = [_look(cv2, face, eye, image) for image in images.permute(0, 2, 3, 1).numpy()]
    return torch.tensor(answers, dtype=torch.float32).view(-1, 2)


def detector() -> Extractor:
    """`detect` as the two features of a picture, by the hash of its models and of how it looks."""
    folder = Path(_opencv().data.haarcascades)
    looked = f"{SIDE} {BORDER} {SMALLEST}".encode()
    models = b"".join((folder / name).read_bytes() for name in (FACE, EYE))
    return Extractor("OpenCV, frontalface_alt2 and eye", hashlib.sha256(models + looked).hexdigest(), detect)


def _look(cv2: Any, face: Any, eye: Any, image: NDArray[np.uint8]) -> tuple[bool, bool]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[:, :, 0]
    scale = SIDE / min(grey.shape)
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=kind)
    grey = cv2.copyMakeBorder(grey, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)
    faces = face.detectMultiScale(grey, minSize=(SMALLEST, SMALLEST))
    if not len(faces):
        return False, False
    x, y, width, height = max(faces, key=lambda box: int(box[2]))
    upper = grey[y : y + round(0.6 * height), x : x + width]  # below are nostrils and corners of the mouth
    return True, len(eye.detectMultiScale(upper, minSize=(width // 8, width // 8))) >= 2


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise UsageError("the metric faces needs OpenCV: pip install 'facegan[faces]'") from None
    return cv2
