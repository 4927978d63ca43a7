"""From a picture's bytes to the set's images: decode, crop, resize, in this order."""

import io
import re
import struct
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shards.errors import ShardError

FILTER = "bicubic, antialiased"
MAX_PIXELS = 89_478_485  # Pillow's own limit; a larger picture is taken for a decompression bomb
# Only these: Pillow knows forms that start other programs (EPS), which no face picture needs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")  # of the files that are taken for pictures
JPEG_COLOURS = ("YCbCr", "Gray", "RGB")
ORIENTATION = 0x0112  # of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
DECODER_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, struct.error)
SMALLER = "smaller than the crop"  # the reason of a reject
CROP = re.compile(r"(?P<side>\d+)|(?P<height>\d+)x(?P<width>\d+)|(?P<box>\d+:\d+,\d+:\d+)|none")

MAX_PICTURE_BYTES = 256 << 20  # of a picture's file

Span = int | tuple[int, int] | None


class PictureError(Exception):
    """A picture that cannot be used: `reason` is a kind that can be counted, `detail` says more of this one."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Crop:
    """What is cut out of every picture before the resize.

    rows, columns: a number of pixels around the centre (rounded towards the top left), a fixed range, or None
    for all of them.
    """

    text: str
    rows: Span
    columns: Span

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop of image (H, W, C), without a copy. Raises PictureError where the picture is smaller."""
        rows, columns = _slice(self.rows, image.shape[0]), _slice(self.columns, image.shape[1])
        if rows is None or columns is None:
            size = f"{image.shape[0]}x{image.shape[1]} pixels"
            raise PictureError(SMALLER, f"{size} (height x width), crop {self.text}")
        return image[rows, columns]


def parse_crop(text: str) -> Crop:
    """Read `none`, `150` (centre square), `125x94` (centre, height x width) or `70:195,78:172` (rows, columns)."""
    match = CROP.fullmatch(text)
    if match is None:
        raise ShardError(
            f"crop {text!r}: expected none, 150 (centre square), 125x94 (centre, height x width) "
            "or 70:195,78:172 (rows, columns)"
        )
    if match["box"]:
        spans: list[Span] = [_range(part, text) for part in text.split(",")]
        return Crop(text, spans[0], spans[1])
    if text == "none":
        return Crop(text, None, None)
    height, width = int(match["side"] or match["height"]), int(match["side"] or match["width"])
    if not (height and width):
        raise ShardError(f"crop {text!r}: a side of 0 pixels")
    return Crop(text, height, width)


def _range(text: str, crop: str) -> tuple[int, int]:
    first, last = (int(bound) for bound in text.split(":"))
    if first >= last:
        raise ShardError(f"crop {crop!r}: the range {text} is empty")
    return first, last


def _slice(span: Span, length: int) -> slice | None:
    if span is None:
        return slice(None)
    if isinstance(span, int):
        start = (length - span) // 2
        return slice(start, start + span) if start >= 0 else None
    return slice(*span) if span[1] <= length else None


def decode(data: bytes, channels: int) -> NDArray[np.uint8]:
    """Decode a picture to (H, W, channels) uint8, upright as its EXIF orientation says; alpha is dropped.

    Raises PictureError with the reason. JPEGs take libjpeg-turbo's short way (simplejpeg), whose pixels are
    Pillow's to the bit; Pillow reads, or refuses, all the rest.
    """
    if not data:
        raise PictureError("empty", "zero bytes")
    image = None
    if data[:3] == b"\xff\xd8\xff" and not _may_be_turned(data):
        image = _decode_jpeg(data)
    if image is None:
        image = _decode_any(data)
    if image.shape[2] == channels:
        return image
    return grey(image) if channels == 1 else np.repeat(image, 3, axis=2)


def _may_be_turned(jpeg: bytes) -> bool:
    """Whether a JPEG has EXIF or an orientation in XMP, in any of the segments before its pixels."""
    place = 2
    while jpeg[place : place + 1] == b"\xff" and jpeg[place + 1 : place + 2] != b"\xda":
        length = int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if jpeg[place + 1 : place + 2] == b"\xe1":
            body = jpeg[place + 4 : place + 2 + length]
            if body.startswith(b"Exif\0") or b"Orientation" in body:
                return True
        place += 2 + length if jpeg[place + 1 : place + 2] != b"\xff" else 1  # any number of ff may stand there
    return False


def grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (H, W, 1) of an RGB image (H, W, 3), as ITU-R 601-2 and Pillow's convert("L") have it."""
    red, green, blue = (image[:, :, channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[:, :, None]


def _decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels (H, W, 3), or None where Pillow has to look: CMYK, very large, damaged."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in JPEG_COLOURS or height * width > MAX_PIXELS:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
        return pixels
    except ValueError:
        return None


def _decode_any(data: bytes) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _open_any(data)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError("decompression bomb", str(error)) from None
    except UnidentifiedImageError:
        raise PictureError("not an image", f"none of {', '.join(FORMATS)}") from None
    except DECODER_ERRORS as error:
        detail = str(error) or type(error).__name__
        raise PictureError("truncated" if "truncated" in detail.lower() else "damaged", detail) from None


def _open_any(data: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return _pixels(_upright(picture))
    except ValueError:  # Pillow refuses texts and profiles of over a megabyte: programs write their settings there
        pixels_alone = _without_texts(data)
        if len(pixels_alone) == len(data):
            raise
        return _open_any(pixels_alone)


def _without_texts(data: bytes) -> bytes:
    """A PNG without its texts and colour profile; other bytes as they are."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    kept, place = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] not in PNG_TEXTS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; as it is where that is damaged or says nothing."""
    try:
        orientation = picture.getexif().get(ORIENTATION)
    except DECODER_ERRORS:
        return picture
    transposition = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if transposition is None else picture.transpose(transposition)


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Pixels of an open picture (the first frame of an animated one): (H, W, 1) for grey, else (H, W, 3)."""
    if picture.mode == "F":
        raise PictureError("unsupported", "floating-point pixels")
    if picture.mode.startswith("I"):  # 16 bits: Pillow's convert would clip at 255 instead of scaling
        deep: NDArray[np.uint8] = (np.clip(np.asarray(picture), 0, 65535) >> 8).astype(np.uint8)
        return deep[:, :, None]
    if picture.mode in ("L", "1", "LA", "La"):
        return np.asarray(picture.convert("L"))[:, :, None]
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))


def resize(images: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize images (n, H, W, C) uint8 to (n, height, width, C): bicubic with antialiasing.

    torch's uint8 kernel: within 2 levels of Pillow's BICUBIC, six times as fast on one core in batches.
    """
    if images.shape[1:3] == (height, width):
        return images
    import torch

    batch = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels_last without a copy
    small = torch.nn.functional.interpolate(batch, size=(height, width), mode="bicubic", antialias=True)
    pixels: NDArray[np.uint8] = small.permute(0, 2, 3, 1).numpy()
    return pixels
