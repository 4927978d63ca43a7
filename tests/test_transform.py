"""Decode, crop, resize: against hand-computed pixels and against Pillow."""

import io

import numpy as np
import pytest
from pictures import draw, encode, reference
from PIL import Image

from shards.errors import ShardError
from shards.format.transform import PictureError, decode, grey, parse_crop, resize


def coordinates(height: int, width: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """A picture whose pixels say where they are: (row, column, 0)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("crop", "size", "first", "last"),
    [
        ("150", (218, 178), (34, 14), (183, 163)),  # rows 34..184, columns 14..164, the ends excluded
        ("128", (218, 178), (45, 25), (172, 152)),
        ("160", (218, 178), (29, 9), (188, 168)),
        ("108", (218, 178), (55, 35), (162, 142)),
        ("178", (218, 178), (20, 0), (197, 177)),
        ("none", (218, 178), (0, 0), (217, 177)),
        ("70:195,78:172", (250, 250), (70, 78), (194, 171)),
        ("125x94", (250, 250), (62, 78), (186, 171)),
        ("4", (7, 9), (1, 2), (4, 5)),  # odd remainders: rounded towards the top left
    ],
)
def test_a_crop_takes_exactly_these_pixels(
    crop: str, size: tuple[int, int], first: tuple[int, int], last: tuple[int, int]
) -> None:
    cut = parse_crop(crop).cut(coordinates(*size))
    assert tuple(cut[0, 0, :2]) == first
    assert tuple(cut[-1, -1, :2]) == last


@pytest.mark.parametrize("crop", ["150", "70:195,78:172", "125x94"])
def test_a_picture_smaller_than_the_crop_is_refused(crop: str) -> None:
    with pytest.raises(PictureError) as caught:
        parse_crop(crop).cut(coordinates(149, 93))
    assert caught.value.reason == "smaller than the crop"
    assert "149x93" in caught.value.detail


@pytest.mark.parametrize("crop", ["", "0", "-3", "1.5", "150x", "9:9,0:1", "5:2,0:1", "1:2", "all", "0x4", "150\n"])
def test_nonsense_is_no_crop(crop: str) -> None:
    with pytest.raises(ShardError, match="crop"):
        parse_crop(crop)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [(64, 64), (128, 128), (62, 47), (28, 28), (200, 180)])
def test_resized_pixels_are_within_two_levels_of_pillows(channels: int, size: tuple[int, int]) -> None:
    data = [encode(draw(seed), quality=92) for seed in range(4)]
    data.append(encode(np.random.default_rng(5).integers(0, 256, (218, 178, 3), dtype=np.uint8), quality=95))
    crop = parse_crop("150")
    crops = np.stack([crop.cut(decode(picture, channels)) for picture in data])
    expected = [reference(picture, (14, 34, 164, 184), size, {1: "L", 3: "RGB"}[channels]) for picture in data]
    difference = resize(crops, *size).astype(int) - np.stack(expected).reshape(len(data), *size, channels)
    assert np.abs(difference).max() <= 2


def test_a_picture_comes_out_the_same_alone_and_in_any_batch() -> None:
    pictures = np.stack([draw(seed, 150, 150) for seed in range(9)])
    alone = [resize(pictures[i : i + 1], 64, 64) for i in range(9)]
    assert np.array_equal(resize(pictures, 64, 64), np.concatenate(alone))


def test_jpegs_decode_to_pillows_pixels_bit_by_bit() -> None:
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            data = encode(draw(1, 77, 61), quality=85, subsampling=subsampling, progressive=progressive)
            assert np.array_equal(decode(data, 3), np.asarray(Image.open(io.BytesIO(data))))


def test_grey_is_pillows_luma() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert np.array_equal(grey(picture)[:, :, 0], np.asarray(Image.fromarray(picture).convert("L")))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = (np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)
    assert np.array_equal(decode(encode(deep, "PNG"), 1)[:, :, 0], (deep >> 8).astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(orientation: int) -> None:
    upright = np.zeros((40, 20, 3), np.uint8)
    upright[:20, :10] = 255  # white in the top left
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # what undoes the orientation
    stored = Image.fromarray(upright)
    stored = stored if back is None else stored.transpose(Image.Transpose(back))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(encode(stored, quality=95, exif=exif), 3)
    assert pixels.shape == (40, 20, 3)
    assert np.abs(pixels.astype(int) - upright).mean() < 8


def test_a_jpegs_exif_without_orientation_changes_nothing() -> None:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    plain, tagged = (encode(draw(1), quality=90, **more) for more in ({}, {"exif": exif}))
    assert np.array_equal(decode(plain, 3), decode(tagged, 3))
