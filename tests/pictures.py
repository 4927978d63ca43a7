"""Pictures for tests: made from nothing, small, and different from each other."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def draw(seed: int, height: int = 218, width: int = 178) -> NDArray[np.uint8]:
    """A smooth colour picture (height, width, 3) with some grain."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (7, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + random.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def encode(image: NDArray[np.uint8] | Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def jpegs(count: int, first: int = 1) -> dict[str, bytes]:
    """CelebA's layout: 178x218 JPEGs called img_align_celeba/000001.jpg and on."""
    return {f"img_align_celeba/{i:06d}.jpg": encode(draw(i), quality=90) for i in range(first, first + count)}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """The files as a tree; returns the folder."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """The files as a zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """The files as a tar; mode "w:gz" compresses it."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def reference(data: bytes, box: tuple[int, int, int, int] | None, size: tuple[int, int], mode: str = "RGB") -> Any:
    """What Pillow makes of a picture: cut to box (left, top, right, bottom), then resized to (height, width)."""
    picture = Image.open(io.BytesIO(data)).convert(mode)
    cropped = picture.crop(box) if box else picture
    return np.asarray(cropped.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
