"""Damaged sources: bytes flipped, cut, repeated, wrapped; every picture is accounted for, or one error is clear."""

import gzip
import io
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import write_folder, write_tar, write_zip
from PIL import Image

from shards.errors import ShardError
from shards.format.tar import read_members
from shards.format.transform import PictureError, decode
from shards.make.annotations import annotate
from shards.make.listing import Listing, Place
from shards.make.sources import list_source, open_reader


def png(side: int) -> bytes:
    """A picture that holds a checksum of its bytes, as every PNG does."""
    noise = np.random.default_rng(side).integers(0, 255, (side, side), dtype=np.uint8)
    Image.fromarray(noise).save(file := io.BytesIO(), "png")
    return file.getvalue()


PICTURES = {f"img/{i:06d}.jpg": png(5 + 11 * i) for i in range(6)}
ATTRIBUTES = "6\nMale Smiling\n" + "".join(f"{i:06d}.jpg -1  1\n" for i in range(6))
PARTITION = "".join(f"{i:06d}.jpg {i % 3}\n" for i in range(6))
CSV = "image_id,partition\n" + PARTITION.replace(" ", ",")

# What is done to a span of bytes; places are shares of its length.
places = st.floats(0, 1, exclude_max=True)
changes = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "repeat", "wrap"]), places, st.integers(0, 255), st.integers(1, 600)),
    min_size=1,
    max_size=3,
)
Change = tuple[str, float, int, int]


@cache
def whole(kind: str) -> bytes:
    """The pictures in a zip, a tar or a packed tar."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        if kind == "zip":
            return write_zip(path, PICTURES).read_bytes()
        return write_tar(path, PICTURES, "w" if kind == "tar" else f"w:{kind}").read_bytes()


def change(data: bytes, what: Change) -> bytes:
    """The bytes with one value flipped, cut at the end, with a span twice, or with a 16-bit number wrapped to 0."""
    kind, share, value, length = what
    place = int(share * len(data))
    if kind == "flip":
        return data[:place] + bytes([value]) + data[place + 1 :]
    if kind == "cut":
        return data[: len(data) - length]
    if kind == "repeat":
        return data[: place + length] + data[place:]
    return data[:place] + bytes(2) + data[place + 2 :]


def changed(data: bytes, start: int, end: int, what: list[Change]) -> bytes:
    """All changes one after the other, in data[start:end] only."""
    middle = data[start:end]
    for each in what:
        middle = change(middle, each) or b"\0"
    return data[:start] + middle + data[end:]


def accounted(path: Path, out: Path) -> Listing | None:
    """The listing, where each picture is read, rejected with a reason or counted; None after a clear error."""
    try:
        listing = list_source(path, out)
        assert len(listing) + sum(listing.left_out.values()) >= len(PICTURES)
        reader = open_reader(listing.kind, listing.path)
        for name, place in zip(listing.names, listing.places, strict=True):
            try:
                data = reader.read(name, Place(*place.item()))
                if data not in PICTURES.values():
                    decode(data, 3)  # which rejects it
                    raise AssertionError(f"{name}: other bytes that make a picture")
            except PictureError as error:
                assert error.reason and error.detail
    except ShardError as error:
        assert str(path) in str(error)
        return None
    return listing


@given(changes)
@settings(max_examples=120, deadline=None)
def test_a_damaged_directory_of_a_zip_hides_no_picture(what: list[Change]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "x.zip", whole("zip")
        path.write_bytes(changed(data, data.index(b"PK\1\2"), len(data), what))
        accounted(path, Path(folder))


@given(changes, st.integers(0, 5))
@settings(max_examples=120, deadline=None)
def test_a_damaged_header_of_a_tar_hides_no_picture(what: list[Change], number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / "x.tar", whole("tar")
        start = [member.offset for member in read_members(io.BytesIO(data), "")][number] - 512
        path.write_bytes(changed(data, start, start + 512, what))
        accounted(path, Path(folder))


@pytest.mark.parametrize("kind", ["zip", "tar"])
@given(share=places)
@settings(max_examples=40, deadline=None)
def test_an_archive_cut_anywhere_hides_no_picture(kind: str, share: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / f"x.{kind}", whole(kind)
        path.write_bytes(data[: int(share * len(data))])
        accounted(path, Path(folder))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
@given(what=changes)
@settings(max_examples=15, deadline=None)
def test_a_damaged_packed_tar_hides_no_picture(kind: str, what: list[Change]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, data = Path(folder) / f"x.tar.{kind}", whole(kind)
        path.write_bytes(changed(data, 10, len(data), what))
        accounted(path, Path(folder) / "out")


FORMS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("list_attr_celeba.txt", lambda data: data),
    ("list_eval_partition.txt", lambda data: data),
    ("list_eval_partition.csv", lambda data: data),
    ("identity_CelebA.txt", lambda data: data.decode().encode("utf-16")),
    ("list_attr_celeba.txt.gz", gzip.compress),
]
TEXTS = {"list_attr_celeba.txt": ATTRIBUTES, "list_eval_partition.csv": CSV, "list_attr_celeba.txt.gz": ATTRIBUTES}


@pytest.mark.parametrize(("name", "pack"), FORMS)
@given(what=changes)
@settings(max_examples=30, deadline=None)
def test_damaged_annotations_keep_every_picture_or_are_named(
    name: str, pack: Callable[[bytes], bytes], what: list[Change]
) -> None:
    data = pack(TEXTS.get(name, PARTITION).encode())
    with tempfile.TemporaryDirectory() as folder:
        source = write_folder(Path(folder) / "s", PICTURES)
        (source / name).write_bytes(changed(data, 0, len(data), what))
        listing = list_source(source, source)
        try:
            found = annotate(listing, source, None, None)
        except ShardError as error:
            assert name in str(error)
        else:
            assert len(found.splits) == len(PICTURES)
            assert all(0 <= split <= 2 for split in found.splits)
            assert all(len(found.member(i)) <= found.member_bytes for i in range(len(PICTURES)))
