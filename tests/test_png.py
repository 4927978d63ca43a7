"""Stored-PNG records: every outside reader sees the same pixels, and the formula knows where they are."""

import hashlib
import io
import subprocess
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from shards.errors import ShardError
from shards.format import png
from shards.format.png import END, Geometry, blank_records, encode_records

GEOMETRIES = [
    Geometry(64, 64, 3),
    Geometry(128, 128, 3),
    Geometry(62, 47, 3),
    Geometry(28, 28, 1),
    Geometry(1, 1, 1),
]


def noise(geometry: Geometry, count: int = 3) -> NDArray[np.uint8]:
    shape = (count, geometry.height, geometry.width, geometry.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def shard(
    geometry: Geometry, images: NDArray[np.uint8], keys: list[str], texts: list[bytes] | None = None
) -> bytes:
    return encode_records(geometry, images, keys, texts).tobytes() + END


def test_strides_are_those_of_the_format() -> None:
    assert (Geometry(64, 64, 3).stride, Geometry(128, 128, 3).stride) == (13_312, 50_688)
    assert Geometry(64, 64, 3).pixels == 512 + 8 + 25 + 8 + 2 + 5 + 1 == 561
    assert (Geometry(64, 64, 3).row, Geometry(28, 28, 1).row) == (6 + 3 * 64, 6 + 28)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_pillow_reads_the_pixels_from_the_tar_that_the_view_shows(geometry: Geometry) -> None:
    images, keys = noise(geometry), ["a", "b-1", "c_2"]
    data = shard(geometry, images, keys)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["a.png", "b-1.png", "c_2.png"]
        for member, image in zip(archive.getmembers(), images, strict=True):
            assert (member.mtime, member.uid, member.gid, member.mode, member.pax_headers) == (0, 0, 0, 0o644, {})
            with Image.open(archive.extractfile(member)) as picture:
                picture.load()
                assert np.array_equal(np.asarray(picture).reshape(image.shape), image)
    records = np.frombuffer(data, np.uint8)[: -len(END)]
    assert np.array_equal(geometry.view(records), images)
    assert len(data) == geometry.shard_bytes(3)


def test_the_checksums_are_those_that_zlib_computes() -> None:
    geometry = Geometry(5, 7, 3)
    record = encode_records(geometry, noise(geometry, 1), ["k"])[0].tobytes()
    file = record[512 : 512 + geometry.png]
    idat = file[33:-12]
    assert idat[4:8] == b"IDAT"
    assert int.from_bytes(idat[-4:], "big") == zlib.crc32(idat[4:-4])
    rows = zlib.decompress(idat[8:-4])  # checks the Adler-32
    assert len(rows) == 5 * (1 + 3 * 7)


def test_gnu_tar_lists_and_extracts_a_shard(tmp_path: Path) -> None:
    geometry = Geometry(16, 16, 3, json=20)
    (tmp_path / "x.tar").write_bytes(shard(geometry, noise(geometry, 2), ["a", "b"], [b'{"x":1}', b'{"x":-1}']))
    listed = subprocess.run(["tar", "tf", "x.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["a.png", "a.json", "b.png", "b.json"]
    assert not listed.stderr
    subprocess.run(["tar", "xf", "x.tar"], cwd=tmp_path, check=True)
    assert (tmp_path / "b.json").read_text() == '{"x":-1}' + " " * 12
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), noise(geometry, 2)[1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_webdataset_reads_images_and_attributes(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    geometry = Geometry(16, 16, 3, json=20)
    images = noise(geometry, 2)
    path = tmp_path / "train-00000.tar"
    path.write_bytes(shard(geometry, images, ["a", "b"], [b'{"x":1}', b'{"x":-1}']))
    samples = list(wds.WebDataset(str(path), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == ["a", "b"]
    assert [sample["json"] for sample in samples] == [{"x": 1}, {"x": -1}]
    assert all(np.array_equal(sample["png"], image) for sample, image in zip(samples, images, strict=True))


def test_isal_and_zlib_write_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(31, 17, 3)
    fast = shard(geometry, noise(geometry), ["a", "b", "c"])
    monkeypatch.setattr(png, "adler32", zlib.adler32)
    monkeypatch.setattr(png, "crc32", zlib.crc32)
    assert shard(geometry, noise(geometry), ["a", "b", "c"]) == fast


def test_records_used_again_hold_nothing_of_what_was_in_them() -> None:
    geometry = Geometry(9, 5, 3, json=30)
    buffer = blank_records(geometry, 3)
    encode_records(geometry, 255 - noise(geometry), ["a-long-key", "b", "c"], [b"x" * 30] * 3, buffer)
    again = encode_records(geometry, noise(geometry), ["k", "l", "m"], [b"{}"] * 3, buffer)
    assert np.array_equal(again, encode_records(geometry, noise(geometry), ["k", "l", "m"], [b"{}"] * 3))


def test_the_bytes_of_a_record_never_change() -> None:
    geometry = Geometry(3, 2, 3, json=16)
    record = encode_records(geometry, np.arange(18, dtype=np.uint8).reshape(1, 3, 2, 3), ["000001"], [b"{}"])
    digest = "31354448d96456b170a9e96ef02114f89af9716241372ad02a20b345fdb428d9"
    assert hashlib.sha256(record.tobytes()).hexdigest() == digest


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 5), st.integers(0, 700))
def test_any_geometry_is_a_readable_tar(height: int, width: int, channels: int, count: int, json: int) -> None:
    geometry = Geometry(height, width, channels, json)
    images = noise(geometry, count)
    keys = [str(i) for i in range(count)]
    data = shard(geometry, images, keys, [b"{}"[:json]] * count if json else None)
    assert len(data) == geometry.shard_bytes(count)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert len(archive.getmembers()) == count * (2 if json else 1)
    assert np.array_equal(geometry.view(np.frombuffer(data, np.uint8)[: -len(END)]), images)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShardError, match="each side must be"):
        Geometry(64, 30_000, 3)
    with pytest.raises(ShardError, match="2 channels"):
        Geometry(64, 64, 2)
    with pytest.raises(ShardError, match="ustar"):
        encode_records(Geometry(1, 1, 1), noise(Geometry(1, 1, 1), 1), ["k" * 97])
    with pytest.raises(ShardError, match="room for 4"):
        encode_records(Geometry(1, 1, 1, 4), noise(Geometry(1, 1, 1), 1), ["k"], [b"12345"])
