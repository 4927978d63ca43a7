"""Bad pictures: each is converted as Pillow would, or rejected with its reason; never dropped, never fatal."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import draw, encode, write_folder, write_zip
from PIL import Image, ImageOps

from jobs.cli import main
from shards.format.index import ShardIndex, load_index
from shards.format.transform import PictureError, decode, parse_crop, resize
from shards.make.writer import Options, preprocess

GOOD = draw(0, 160, 170)
JPEG = encode(GOOD, quality=90)


def bomb() -> bytes:
    """A PNG of a few bytes that says it is 60000 x 60000."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(GOOD).transpose(Image.Transpose.ROTATE_90), quality=90, exif=exif)


def animated(form: str) -> bytes:
    frames = [Image.fromarray(draw(i, 160, 170)) for i in range(3)]
    return encode(
        frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {})
    )


def rgba() -> bytes:
    alpha = np.full((160, 170, 1), 255, np.uint8)
    alpha[:80] = 0
    return encode(np.concatenate([GOOD, alpha], axis=2), "PNG")


PALETTE = Image.fromarray(GOOD).quantize(64)
REJECTED = {
    "zero.jpg": (b"", "empty"),
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "cut-end.jpg": (JPEG[:-2], "truncated"),
    "cut.png": (encode(GOOD, "PNG")[:3000], "truncated"),
    "text.jpg": (b"this is no picture", "not an image"),
    "page.png": (b"<html><body>quota exceeded</body></html>", "not an image"),
    "small.jpg": (encode(draw(1, 149, 200)), "smaller than the crop"),
    "bomb.png": (bomb(), "decompression bomb"),
    "floats.ppm": (b"Pf 160 160 -1.0\n" + bytes(4 * 160 * 160), "unsupported"),
    "vector.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 200\nshowpage\n", "not an image"),
}
CONVERTED = {
    "plain.jpg": JPEG,
    "wrong-extension.jpg": encode(GOOD, "PNG"),
    "also-wrong.png": JPEG,
    "a-gif-really.jpg": encode(PALETTE, "GIF"),
    "grayscale.jpg": encode(Image.fromarray(GOOD).convert("L"), quality=90),
    "grey-alpha.png": encode(Image.fromarray(GOOD).convert("LA"), "PNG"),
    "palette.png": encode(PALETTE, "PNG"),
    "palette-transparent.png": encode(PALETTE, "PNG", transparency=bytes(range(64))),
    "one-bit.png": encode(Image.fromarray(GOOD).convert("1"), "PNG"),
    "cmyk.jpg": encode(Image.fromarray(GOOD).convert("CMYK"), quality=90),
    "rgba.png": rgba(),
    "exif.jpg": rotated(),
    "animated.webp": animated("WEBP"),
    "animated.png": animated("PNG"),
    "lossless.webp": encode(GOOD, "WEBP", lossless=True),
    "bitmap.BMP": encode(GOOD, "BMP"),
    "portable.ppm": encode(GOOD, "PPM"),
    "progressive.jpeg": encode(GOOD, quality=90, progressive=True),
    "trailing-junk.jpg": JPEG + b"junk",
}


def make(files: dict[str, bytes], folder: Path, **options: Any) -> tuple[Path, ShardIndex]:
    source = write_folder(folder / "source", files)
    made = preprocess(Options(source, folder / "out", ((64, 64),), **options))
    return next(iter(made.indices.items()))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ShardIndex]:
    """A set made of all of them."""
    return make({name: data for name, (data, _) in REJECTED.items()} | CONVERTED, tmp_path_factory.mktemp("mixed"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_bad_picture_is_rejected_with_its_reason(mixed: tuple[Path, ShardIndex]) -> None:
    rejects = {row["source"]: row for row in lines(mixed[0] / "rejects.jsonl")}
    assert {name: row["reason"] for name, row in rejects.items()} == {
        name: why for name, (_, why) in REJECTED.items()
    }
    assert all(row["detail"] for row in rejects.values())


def test_the_index_counts_the_rejects(mixed: tuple[Path, ShardIndex]) -> None:
    rejects = mixed[1].rejects
    assert rejects is not None
    assert rejects.count == len(REJECTED)
    assert rejects.by_reason["not an image"] == 3
    assert mixed[1].source.samples == len(REJECTED) + len(CONVERTED)


def test_no_picture_is_dropped(mixed: tuple[Path, ShardIndex]) -> None:
    folder, index = mixed
    kept = [row["source"] for row in lines(folder / "samples.jsonl")]
    assert sorted(kept) == sorted(CONVERTED)
    assert index.splits["train"].samples == len(CONVERTED)


def test_each_other_picture_is_what_pillow_makes_of_it(mixed: tuple[Path, ShardIndex]) -> None:
    folder, index = mixed
    data = np.fromfile(folder / index.shards[0].name, np.uint8)[: index.shards[0].samples * index.geometry.stride]
    for row, image in zip(lines(folder / "samples.jsonl"), index.geometry.view(data), strict=True):
        picture = Image.open(io.BytesIO(CONVERTED[row["source"]]))
        if row["source"] == "exif.jpg":
            picture = picture.transpose(Image.Transpose.ROTATE_270)
        picture = picture.convert("RGBA").convert("RGB") if "transp" in row["source"] else picture.convert("RGB")
        left, top = (picture.width - 150) // 2, (picture.height - 150) // 2
        expected = picture.crop((left, top, left + 150, top + 150)).resize((64, 64), Image.Resampling.BICUBIC)
        difference = np.abs(image.astype(int) - np.asarray(expected))
        assert difference.max() <= 2, row["source"]


def test_sixteen_bit_pictures_keep_their_shades(tmp_path: Path) -> None:
    deep = np.asarray(Image.fromarray(GOOD).convert("L")).astype(np.uint16) * 257
    folder, index = make({"deep.png": encode(deep, "PNG")}, tmp_path)
    data = np.fromfile(folder / index.shards[0].name, np.uint8)[: index.geometry.stride]
    expected = resize(parse_crop("150").cut((deep >> 8).astype(np.uint8)[:, :, None])[None], 64, 64)
    assert np.array_equal(index.geometry.view(data)[..., :1], expected)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_png_with_megabytes_of_text_or_profile_is_a_good_picture(kind: bytes, where: str) -> None:
    """As programs that generate pictures write their settings."""
    middle = b"\0\0" if kind != b"iTXt" else b"\0\1\0\0\0"
    extra = chunk(kind, b"workflow" + middle + zlib.compress(bytes(3_000_000)))
    plain = encode(GOOD, "PNG")
    place = 33 if where == "before" else len(plain) - 12
    assert np.array_equal(decode(plain[:place] + extra + plain[place:], 3), GOOD)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"garbage!", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\1"]
)
def test_a_picture_with_broken_exif_is_taken_as_upright(form: str, exif: bytes) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    assert decode(encode(GOOD, form, exif=exif, **options), 3).shape == GOOD.shape


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_applied_as_pillow_does(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(GOOD, form, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode(data, 3), np.asarray(expected))


def test_an_orientation_behind_other_segments_is_found_in_exif_and_in_xmp() -> None:
    turned = rotated()
    other = b"\xff\xed" + struct.pack(">H", 65_000) + bytes(64_998)
    far = turned[:2] + 3 * other + turned[2:]
    assert decode(far, 3).shape == decode(turned, 3).shape == GOOD.shape
    packet = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    xmp = b"\xff\xff\xe1" + struct.pack(">H", len(packet) + 2) + packet
    assert decode(JPEG[:2] + xmp + JPEG[2:], 3).shape == (170, 160, 3)


HOSTILE = ["../../up.jpg", "/abs.jpg", "with space.jpg", "line\nbreak.jpg", "dots.in.it.jpg", "grüß.jpg"]


def test_names_that_cannot_be_keys_give_positions_for_the_whole_set(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "x.zip", dict.fromkeys([*HOSTILE, "plain.jpg"], JPEG))
    (folder, _), *_ = preprocess(Options(source, tmp_path / "out")).indices.items()
    rows = lines(folder / "samples.jsonl")
    assert [row["key"] for row in rows] == [f"{i:09d}" for i in range(7)]
    assert sorted(row["source"] for row in rows) == sorted([*HOSTILE, "plain.jpg"])
    assert {path.name for path in tmp_path.iterdir()} == {"x.zip", "out"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_two_samples(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.jpg", JPEG)
        archive.writestr("a.jpg", encode(draw(5, 160, 170)))
        archive.writestr("b/a.png", encode(draw(6, 160, 170), "PNG"))
    (folder, index), *_ = preprocess(Options(tmp_path / "x.zip", tmp_path / "out")).indices.items()
    assert [row["key"] for row in lines(folder / "samples.jsonl")] == ["000000000", "000000001", "000000002"]
    data = np.fromfile(folder / index.shards[0].name, np.uint8)[: 3 * index.geometry.stride]
    assert len({image.tobytes() for image in index.geometry.view(data)}) == 3


def test_rejects_leave_their_shard_short_and_move_no_other_sample(tmp_path: Path) -> None:
    files = {f"{i:03d}.jpg": JPEG for i in range(9)} | {
        "001.jpg": b"",
        "004.jpg": b"",
        "005.jpg": b"",
        "003.jpg": b"",
    }
    _, index = make(files, tmp_path, shard_size=3)
    assert [(shard.name, shard.samples) for shard in index.shards] == [
        ("train-00000.tar", 2),
        ("train-00002.tar", 3),
    ]
    assert not (tmp_path / "out" / "64" / "train-00001.tar").exists()


def run(source: Path, out: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["preprocess", str(source), str(out), "--size", "64", *options])
    return done.exit_code, done.output


@pytest.mark.parametrize(("limit", "code"), [("1", 1), ("2", 0), ("19%", 1), ("20%", 0)])
def test_more_rejects_than_allowed_fail_when_the_set_is_closed(tmp_path: Path, limit: str, code: int) -> None:
    files = {f"{i:03d}.jpg": JPEG for i in range(8)} | {"8.jpg": b"", "9.jpg": b"x"}
    source, out = write_folder(tmp_path / "s", files), tmp_path / "out"
    found, output = run(source, out, "--max-rejects", limit)
    assert found == code
    assert (out / "64" / "index.json").exists() is (code == 0)
    assert len(lines(out / "64" / "rejects.jsonl")) == 2
    if code:
        assert "2 of 10 pictures were rejected (empty 1, not an image 1)" in output
        assert run(source, out, "--max-rejects", "2")[0] == 0
        assert load_index(out / "64").splits["train"].samples == 8


def test_a_source_without_one_good_picture_fails_whatever_is_allowed(tmp_path: Path) -> None:
    code, output = run(write_folder(tmp_path / "s", {"a.jpg": b""}), tmp_path / "out", "--max-rejects", "100%")
    assert code == 1
    assert "1 of 1 pictures were rejected" in output


def test_the_end_of_the_command_says_what_was_rejected_and_left_out(tmp_path: Path) -> None:
    files = {"a.jpg": JPEG, "b.jpg": JPEG, "c.jpg": b"", "notes.txt": b""}
    code, output = run(write_folder(tmp_path / "s", files), tmp_path / "out")
    assert code == 0
    assert "rejected 1 of 3: 1 empty" in output
    assert "no pictures: 1 .txt" in output


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CONVERTED)), st.integers(0, 1 << 30), st.integers(0, 255), st.booleans())
def test_any_damage_to_a_picture_is_a_picture_or_a_reason(name: str, position: int, value: int, cut: bool) -> None:
    data = bytearray(CONVERTED[name])
    position %= min(len(data), 2000)
    data[position] = value
    try:
        image = decode(bytes(data[: position + 1] if cut else data), 3)
    except PictureError as error:
        assert error.reason
        assert error.detail
    else:
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
