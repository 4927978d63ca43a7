"""The strict tar reader: what tarfile reads it reads alike, and what tarfile passes over it names."""

import io
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from pictures import jpegs, write_tar

from shards.errors import ShardError
from shards.format.tar import members, read_members
from shards.make.listing import Place
from shards.make.sources import list_source, open_reader

BLOCK = 512


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return jpegs(12)


def names(path: Path) -> list[str]:
    return [member.name for member in members(path)]


def header(name: bytes, size: int, kind: bytes = b"0", stated: int | None = None) -> bytes:
    """A ustar header; `stated`: the size it has in place of the true one."""
    block = bytearray(tarfile.TarInfo(name.decode()).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"%011o\0" % (size if stated is None else stated)
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def entry(name: bytes, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, len(data), kind) + data + bytes(-len(data) % BLOCK)


def pax(key: str, value: str) -> bytes:
    record = f" {key}={value}\n".encode()
    length = len(record) + len(str(len(record)))
    length += len(str(length)) - len(str(len(record)))
    return entry(b"pax", b"%d%b" % (length, record), b"x")


@pytest.mark.parametrize("number", [0, 5, 11])
@pytest.mark.parametrize("damage", ["zeros", "checksum", "noise"])
def test_a_damaged_header_is_named_with_its_byte_wherever_it_is(
    tmp_path: Path, files: dict[str, bytes], number: int, damage: str
) -> None:
    raw = bytearray(write_tar(tmp_path / "x.tar", files).read_bytes())
    start = [member.offset - BLOCK for member in members(tmp_path / "x.tar")][number]
    block = {"zeros": bytes(BLOCK), "checksum": raw[start : start + 148] + b"0" * 364, "noise": b"\xa5" * BLOCK}
    raw[start : start + BLOCK] = block[damage]
    (tmp_path / "x.tar").write_bytes(raw)
    with pytest.raises(ShardError, match=rf"x\.tar.*byte {start:,}"):
        list_source(tmp_path / "x.tar", tmp_path)


def test_tars_joined_by_cat_are_refused_not_cut_after_the_first(tmp_path: Path, files: dict[str, bytes]) -> None:
    one = write_tar(tmp_path / "a.tar", files).read_bytes()
    (tmp_path / "x.tar").write_bytes(one + one)
    with pytest.raises(ShardError, match=r"byte .*several tars joined by cat.*tar -A"):
        list_source(tmp_path / "x.tar", tmp_path)


@pytest.mark.parametrize("zeros", [1, 2, 40])
def test_any_number_of_closing_blocks_will_do_but_none_is_a_cut(
    tmp_path: Path, files: dict[str, bytes], zeros: int
) -> None:
    body = b"".join(entry(name.encode(), data) for name, data in files.items())
    (tmp_path / "x.tar").write_bytes(body + bytes(zeros * BLOCK))
    assert names(tmp_path / "x.tar") == list(files)
    (tmp_path / "x.tar").write_bytes(body)
    with pytest.raises(ShardError, match="cut short"):
        names(tmp_path / "x.tar")


def test_a_hard_link_is_the_picture_it_names(tmp_path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        first = next(iter(files))
        for name, target in {"again.jpg": first, "chain.jpg": "again.jpg", "lost.jpg": "not/there.jpg"}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    listing = list_source(tmp_path / "x.tar", tmp_path)
    reader = open_reader("tar", listing.path)
    places = {name: Place(*place.item()) for name, place in zip(listing.names, listing.places, strict=True)}
    assert reader.read("", places["again.jpg"]) == reader.read("", places["chain.jpg"]) == files[first]
    assert {member.name: member.form for member in members(tmp_path / "x.tar")}["lost.jpg"] == "link"


def test_what_gnu_tar_writes_is_read(tmp_path: Path) -> None:
    """Labels, incremental dumps, sparse files, hard links and long names, by tar itself."""
    folder = tmp_path / "s"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(b"a" * 700)
    (folder / "b.jpg").hardlink_to(folder / "a.jpg")
    (folder / "sub" / ("c" * 200 + ".jpg")).write_bytes(b"c")
    with (folder / "hole.jpg").open("wb") as stream:
        for number in range(40):  # more holes than one block of the map can name
            stream.seek(number << 20)
            stream.write(b"x")
    expected = {"a.jpg", "b.jpg", "c" * 200 + ".jpg", "hole.jpg"}
    for options in (
        ["--label=faces"], [f"--listed-incremental={tmp_path / 'state'}"], ["--sparse", "--format=gnu"],
        ["--sparse", "--format=posix"], ["--format=v7", "--exclude=c*.jpg"], ["--format=posix"],
    ):  # fmt: skip
        subprocess.run(["tar", *options, "-cf", tmp_path / "x.tar", "-C", folder, "."], check=True)
        found = {member.name.rpartition("/")[2]: member for member in members(tmp_path / "x.tar")}
        pictures = {name for name in found if name.endswith(".jpg")}
        assert pictures == expected - ({"c" * 200 + ".jpg"} if "--format=v7" in options else set()), options
        assert found["a.jpg"].size == found["b.jpg"].size == 700
        assert found["hole.jpg"].plain == ("--sparse" not in options), options


def test_a_pax_size_belongs_to_the_entry_not_to_a_header_between(tmp_path: Path) -> None:
    name = b"l" * 150 + b".jpg"
    long = entry(b"././@LongLink", name + b"\0", b"L")
    data = pax("size", "700") + long + header(b"short", 700, stated=0) + b"x" * 700 + bytes(-700 % BLOCK)
    (tmp_path / "x.tar").write_bytes(data + entry(b"next.jpg", b"n") + bytes(2 * BLOCK))
    assert [(m.name, m.size) for m in members(tmp_path / "x.tar")] == [(name.decode(), 700), ("next.jpg", 1)]


@pytest.mark.parametrize("size", ["9" * 5000, "-1", "1e3", "٣", ""])
def test_a_pax_size_that_is_none_is_a_clear_error(size: str) -> None:
    stream = io.BytesIO(pax("size", size) + entry(b"a.jpg", b"x") + bytes(2 * BLOCK))
    with pytest.raises(ShardError, match=r"x\.tar: .*pax header with the size"):
        list(read_members(stream, "x.tar"))


def test_checksums_of_signed_bytes_are_believed() -> None:
    block = bytearray(header("ü.jpg".encode(), 0))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(struct.unpack("512b", block))
    assert [m.name for m in read_members(io.BytesIO(block + bytes(2 * BLOCK)), "")] == ["ü.jpg"]


@pytest.mark.parametrize("form", ["gz", "bz2", "xz"])
def test_packed_tars_are_read_whole_or_refused(tmp_path: Path, files: dict[str, bytes], form: str) -> None:
    path = write_tar(tmp_path / "x.tar", files, f"w:{form}")
    listing = list_source(path, tmp_path / "out")
    assert listing.names == list(files)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ShardError, match="damaged or cut short"):
        list_source(path, tmp_path / "out")
    path.write_bytes(path.read_bytes()[:500] + bytes(500) + path.read_bytes()[1000:])
    with pytest.raises(ShardError, match="damaged or cut short"):
        list_source(path, tmp_path / "out")
    assert len(list((tmp_path / "out").glob(".source*"))) == 1


def test_a_packed_tar_among_shards_says_how_to_unpack_it(tmp_path: Path, files: dict[str, bytes]) -> None:
    for form, tool in {"gz": "gunzip", "bz2": "bunzip2", "xz": "unxz"}.items():
        with pytest.raises(ShardError, match=f"compressed as a whole.*{tool}"):
            names(write_tar(tmp_path / "x.tar", files, f"w:{form}"))
