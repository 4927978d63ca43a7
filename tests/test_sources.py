"""Sources: whatever holds the pictures, the same listing, the same bytes, and nothing left out in silence."""

import contextlib
import errno
import gzip
import os
import random
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import draw, encode, jpegs, write_folder, write_tar, write_zip

from shards.errors import ShardError
from shards.format.transform import PictureError, decode
from shards.make.listing import FileReader, Listing, Place, patiently
from shards.make.sources import list_source, open_reader


def read_all(listing: Listing) -> dict[str, bytes]:
    reader = open_reader(listing.kind, listing.path)
    places = [Place(*place.item()) for place in listing.places]
    return {name: reader.read(name, place) for name, place in zip(listing.names, places, strict=True)}


def refusal(listing: Listing, name: str) -> PictureError:
    i = listing.names.index(name)
    with pytest.raises(PictureError) as caught:
        open_reader(listing.kind, listing.path).read(name, Place(*listing.places[i].item()))
    return caught.value


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return jpegs(5)


def shuffled(files: dict[str, bytes]) -> dict[str, bytes]:
    names = list(files)
    random.Random(0).shuffle(names)
    return {name: files[name] for name in names}


def test_folder_zip_and_tar_hold_the_same_pictures_in_the_same_order(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    sources = [
        write_folder(tmp_path / "folder", files),
        write_zip(tmp_path / "stored.zip", shuffled(files)),
        write_zip(tmp_path / "deflated.zip", shuffled(files), zipfile.ZIP_DEFLATED),
        write_tar(tmp_path / "plain.tar", shuffled(files)),
        write_tar(tmp_path / "packed.tar.gz", shuffled(files), "w:gz"),
    ]
    for source in sources:
        listing = list_source(source, tmp_path / "out")
        assert listing.names == sorted(files), source
        assert read_all(listing) == files, source
        assert listing.has_plain_stems


def test_a_compressed_tar_becomes_one_file_and_only_once(tmp_path: Path, files: dict[str, bytes]) -> None:
    source, out = write_tar(tmp_path / "a.tgz", files, "w:gz"), tmp_path / "out"
    first = list_source(source, out)
    made = [(file.name, file.stat().st_mtime_ns) for file in out.glob(".source*")]
    assert len(made) == 1
    assert list_source(source, out).path == first.path
    assert [(file.name, file.stat().st_mtime_ns) for file in out.glob(".source*")] == made


def test_extensions_count_in_any_case_and_everything_else_is_counted(tmp_path: Path) -> None:
    names = ["a.JPG", "b.Jpeg", "c.png", "d.WEBP", "e.bmp", "f.ppm", "g.txt", "h", ".hidden.jpg", "sub/i.gif"]
    listing = list_source(write_folder(tmp_path / "s", dict.fromkeys(names, b"x")), tmp_path)
    assert listing.names == ["a.JPG", "b.Jpeg", "c.png", "d.WEBP", "e.bmp", "f.ppm"]
    assert dict(listing.left_out) == {".txt": 1, "without extension": 1, "hidden": 1, ".gif": 1}


def test_copies_that_programs_keep_are_left_out_and_counted_wherever_they_stand(tmp_path: Path) -> None:
    copies = [
        ".ipynb_checkpoints/a-checkpoint.jpg", "x/@eaDir/a.jpg/SYNO_M.jpg", ".Trash-1000/files/b.jpg",
        "__MACOSX/x/._a.jpg", "x/$RECYCLE.BIN/c.jpg", "x/.b.jpg", "#recycle/d.jpg",
    ]  # fmt: skip
    pictures = ["./x/a.jpg", "x/b.c.jpg", "x/.../d.jpg", "eaDir/e.jpg", "x/f@eaDir.jpg"]
    files = dict.fromkeys([*copies, *pictures], b"x")
    for source in (write_zip(tmp_path / "x.zip", files), write_tar(tmp_path / "x.tar", files)):
        listing = list_source(source, tmp_path)
        assert sorted(listing.names) == sorted(pictures)
        assert listing.left_out == {"hidden": 7}
    folder = list_source(write_folder(tmp_path / "s", files), tmp_path)
    assert len(folder) == len(pictures)
    assert folder.left_out == {"hidden": 7}


def test_the_source_itself_may_lie_in_a_hidden_folder(tmp_path: Path) -> None:
    assert len(list_source(write_folder(tmp_path / ".cache" / "s", {"a.jpg": b"x"}), tmp_path)) == 1


def test_backslashes_of_a_zip_from_windows_stand_between_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for system, name in ((0, r"img\sub\a.jpg"), (11, r"img\b.jpg"), (0, r"__MACOSX\._a.jpg"), (3, r"c\d.jpg")):
            entry = zipfile.ZipInfo(name)
            entry.create_system = system
            archive.writestr(entry, name)
    listing = list_source(tmp_path / "x.zip", tmp_path)
    assert listing.names == [r"c\d.jpg", "img/b.jpg", "img/sub/a.jpg"]
    assert listing.left_out == {"hidden": 1}


def end_record(raw: bytes, offset: int, form: str, *values: int) -> bytes:
    """A zip's bytes with other values at `offset` of its end record."""
    place = raw.rindex(b"PK\5\6") + offset
    packed = struct.pack(form, *values)
    return raw[:place] + packed + raw[place + len(packed) :]


def test_a_zips_directory_is_read_to_its_end_whatever_its_count(tmp_path: Path, files: dict[str, bytes]) -> None:
    """macOS's Finder writes the count modulo 65,536; a count that is too high is damage."""
    raw = write_zip(tmp_path / "x.zip", files).read_bytes()
    for count in (0, 2):
        (tmp_path / "x.zip").write_bytes(end_record(raw, 8, "<2H", count, count))
        assert read_all(list_source(tmp_path / "x.zip", tmp_path)) == files
    for offset, form, value in ((10, "<H", 6), (12, "<L", raw.count(b"PK\1\2") * 70), (4, "<H", 1)):
        (tmp_path / "x.zip").write_bytes(end_record(raw, offset, form, value))
        with pytest.raises(ShardError, match=r"x\.zip: damaged"):
            list_source(tmp_path / "x.zip", tmp_path)


def test_more_than_65535_entries_without_zip64_are_all_listed(tmp_path: Path) -> None:
    count = 70_000
    local = b"PK\3\4" + bytes(26)
    head = struct.Struct("<4s2B5H3L5H2L")
    names = [b"%06d.jpg" % i for i in range(count)]
    entries = [head.pack(b"PK\1\2", 20, 3, *[0] * 5, 0, 0, 0, 10, *[0] * 6) + name for name in names]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count % 65536, count % 65536, sum(map(len, entries)), 30, 0)
    (tmp_path / "x.zip").write_bytes(local + b"".join(entries) + end)
    assert len(list_source(tmp_path / "x.zip", tmp_path)) == count


def test_places_beyond_4_gib_without_zip64_are_found(tmp_path: Path) -> None:
    """As macOS's Finder writes them, every place modulo 4 GiB; the file is sparse."""
    pictures = {"a.jpg": b"first", "b.jpg": b"second", "c.jpg": b"third"}
    raw = write_zip(tmp_path / "small.zip", pictures).read_bytes()
    directory, end = raw.index(b"PK\1\2"), raw.rindex(b"PK\5\6")
    places, entries = [0, 3 << 30, (1 << 32) + 7], bytearray(raw[directory:end])
    with (tmp_path / "x.zip").open("wb") as stream:
        for number, (place, local) in enumerate(zip(places, raw.split(b"PK\3\4")[1:], strict=True)):
            stream.seek(place)
            stream.write(b"PK\3\4" + local.partition(b"PK\1\2")[0])
            struct.pack_into("<L", entries, number * len(entries) // 3 + 42, place % (1 << 32))
        start = stream.tell()
        facts = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, len(entries), start % (1 << 32), 0)
        stream.write(bytes(entries) + facts)
    assert read_all(list_source(tmp_path / "x.zip", tmp_path)) == pictures


def test_hostile_names_in_archives_stay_names(tmp_path: Path) -> None:
    picture = encode(draw(1, 20, 20))
    names = ["../../up.jpg", "/absolute.jpg", "with space.jpg", "line\nbreak.jpg", "dots.in.it.jpg", "грüß.jpg"]
    for source in (
        write_zip(tmp_path / "x.zip", dict.fromkeys(names, picture)),
        write_tar(tmp_path / "x.tar", dict.fromkeys(names, picture)),
    ):
        listing = list_source(source, tmp_path / "out")
        assert sorted(listing.names) == sorted(names)
        assert set(read_all(listing).values()) == {picture}
    assert not (tmp_path / "out").exists()
    assert not (tmp_path.parent / "up.jpg").exists()


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "s", {os.fsdecode(b"\xff\xfe.jpg"): b"bytes"})
    listing = list_source(tmp_path / "s", tmp_path)
    assert read_all(listing) == {"\udcff\udcfe.jpg": b"bytes"}
    assert len(listing.fingerprint) == 64


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_of_one_name_are_each_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.jpg", b"first")
        archive.writestr("a.jpg", b"second")
    listing = list_source(tmp_path / "x.zip", tmp_path)
    reader = open_reader(listing.kind, listing.path)
    assert [reader.read("a.jpg", Place(*place.item())) for place in listing.places] == [b"first", b"second"]
    assert not listing.has_plain_stems


def test_stems_serve_as_keys_only_where_all_are_plain_and_unique(tmp_path: Path) -> None:
    def plain(*names: str) -> bool:
        source = write_zip(tmp_path / "x.zip", dict.fromkeys(names, b"x"))
        return list_source(source, tmp_path).has_plain_stems

    assert plain("a/000001.jpg", "b/Cha_Yung-gu_0001.jpg")
    assert not plain("a/1.jpg", "b/1.png")
    assert not plain("1.jpg", "two words.jpg")
    assert not plain("1.jpg", "dots.in.it.jpg")
    assert not plain("1.jpg", "ü.jpg")
    assert not plain("x" * 91 + ".jpg")


def test_what_is_no_regular_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s", {"a.jpg": b"x"})
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken.jpg").symlink_to("nowhere")
    listing = list_source(folder, tmp_path)
    assert listing.names == ["a.jpg", "broken.jpg", "pipe.jpg"]
    assert refusal(listing, "pipe.jpg").reason == "not a file"
    assert refusal(listing, "broken.jpg").reason == "unreadable"


class Stumbling:
    """A reading that fails so many times, as those of network file systems do."""

    def __init__(self, number: int, failures: int) -> None:
        self.number, self.failures = number, failures

    def __call__(self) -> bytes:
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, os.strerror(self.number))
        return b"bytes"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_file_system_that_stumbles_is_asked_again_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("shards.make.listing.PAUSES", (0.0, 0.0))
    assert patiently(Stumbling(number, 2)) == b"bytes"
    with pytest.raises(PictureError) as caught:
        patiently(Stumbling(number, 3))
    assert caught.value.reason == "unreadable"
    assert patiently(Stumbling(errno.EACCES, 1)) == b"bytes"  # an NFS ticket that was being renewed
    with pytest.raises(PictureError, match="Permission denied"):
        patiently(Stumbling(errno.EACCES, 2))


def test_a_picture_that_the_disk_does_not_give_is_rejected_not_fatal(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory stands for the archive that became unreadable: reading it is an error of the system."""
    monkeypatch.setattr("shards.make.listing.PAUSES", (0.0,))
    listing = list_source(write_zip(tmp_path / "x.zip", files), tmp_path)
    reader = open_reader("zip", listing.path)
    assert isinstance(reader, FileReader)
    folder = os.open(tmp_path, os.O_RDONLY)
    os.dup2(folder, reader.file)
    os.close(folder)
    with pytest.raises(PictureError, match="unreadable"):
        reader.read("", Place(*listing.places[0].item()))


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"b.jpg": b"b"})
    folder = write_folder(tmp_path / "s", {"a.jpg": b"a"})
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert read_all(list_source(folder, tmp_path)) == {"a.jpg": b"a", "link/b.jpg": b"b"}


def test_links_in_a_tar_are_refused_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("passwd.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert refusal(list_source(tmp_path / "x.tar", tmp_path), "passwd.jpg").reason == "not a file"


def test_damage_inside_a_zip_is_noticed(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = write_zip(tmp_path / "x.zip", files)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 4] ^= 1
    path.write_bytes(raw)
    listing = list_source(path, tmp_path)
    with pytest.raises(PictureError, match="damaged"):
        read_all(listing)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    raw = path.read_bytes().replace(struct.pack("<I", 1 << 20), struct.pack("<I", 1 << 30))
    path.write_bytes(raw)
    assert refusal(list_source(path, tmp_path), "a.jpg").reason == "too large"


@pytest.mark.parametrize("limits", [{"ZIP64_LIMIT": 100}, {"ZIP_FILECOUNT_LIMIT": 2}, {}])
def test_large_zips_and_zips_behind_a_prefix_are_read(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(zipfile, name, value)
    path = write_zip(tmp_path / "x.zip", files)
    for prefix in (b"", b"PK this is a program that unpacks itself"):
        (tmp_path / "y.zip").write_bytes(prefix + path.read_bytes())
        assert read_all(list_source(tmp_path / "y.zip", tmp_path)) == files


def test_a_zip_entry_beyond_the_end_of_any_file_is_damage(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "faces.zip", jpegs(1))
    data = path.read_bytes()
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    head, name = bytearray(data[start : start + 46]), data[start + 46 : end]
    struct.pack_into("<H", head, 30, 12)  # an extra field with a 64-bit offset
    struct.pack_into("<L", head, 42, 0xFFFFFFFF)
    entry = bytes(head) + name + struct.pack("<HHQ", 1, 8, 1 << 63)
    path.write_bytes(data[:start] + entry + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), start, 0))
    with pytest.raises(ShardError, match="damaged or cut short"):
        list_source(path, tmp_path)


def test_names_in_a_zip_are_decoded_as_zipfile_does(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"plain.jpg": b"1", "grüß.jpg": b"2", "日本.jpg": b"3"})
    old = path.read_bytes().replace(b"plain.jpg", b"pl\x84in.jpg")  # code page 437, as old programs wrote it
    path.write_bytes(old)
    with zipfile.ZipFile(path) as archive:
        assert set(list_source(path, tmp_path).names) == set(archive.namelist())


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["zip", "tar"]), st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4)
)
def test_any_bytes_in_an_archive_are_read_or_refused(kind: str, changes: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"x.{kind}"
        pictures = {f"a/{i}.jpg": bytes(50 * i) for i in range(5)}
        if kind == "zip":
            write_zip(path, pictures, zipfile.ZIP_DEFLATED)
        else:
            write_tar(path, pictures)
        raw = bytearray(path.read_bytes())
        for position, value in changes:
            raw[position % len(raw)] = value
        path.write_bytes(raw)
        try:
            listing = list_source(path, Path(name))
            reader = open_reader(listing.kind, listing.path)
            for each, place in zip(listing.names, listing.places, strict=True):
                with contextlib.suppress(PictureError):
                    reader.read(each, Place(*place.item()))
        except ShardError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_truncated_archive_is_an_error_not_a_short_set(
    tmp_path: Path, files: dict[str, bytes], kind: str
) -> None:
    path = tmp_path / f"x.{kind}"
    write = {"zip": write_zip, "tar": write_tar, "tar.gz": lambda p, f: write_tar(p, f, "w:gz")}[kind]
    write(path, files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ShardError, match=r"cut short|neither a folder"):
        list_source(path, tmp_path / "out")
    assert not list(tmp_path.glob("out/.source*"))


def test_a_damaged_header_in_a_tar_does_not_end_the_listing_in_silence(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {f"{i}.jpg": bytes(600) for i in range(9)})
    raw = bytearray(path.read_bytes())
    raw[3 * 1536 + 150] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ShardError, match="damaged"):
        list_source(path, tmp_path)


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (("000.tar", "000.parquet", "000_stats.json"), r"1 \.tar\. WebDataset.*: facegan shards index FOLDER"),
        (("part-1.zip", "part-2.zip"), r"2 \.zip\. Give one of the archives itself"),
        (("a.csv", "b.tsv"), r"Give one list of addresses itself"),
        (("a.gif",), r"only: 1 \.gif$"),
    ],
)
def test_a_folder_of_what_is_a_source_itself_ends_with_a_hint(
    tmp_path: Path, files: tuple[str, ...], hint: str
) -> None:
    write_folder(tmp_path / "s", dict.fromkeys(files, b"x"))
    with pytest.raises(ShardError, match=hint):
        list_source(tmp_path / "s", tmp_path)


def test_no_pictures_and_no_source_are_clear_errors(tmp_path: Path) -> None:
    write_folder(tmp_path / "s", {"a.txt": b"", "b.gif": b""})
    with pytest.raises(ShardError, match=r"no picture .* 1 \.gif, 1 \.txt"):
        list_source(tmp_path / "s", tmp_path)
    with pytest.raises(ShardError, match="no such file or folder"):
        list_source(tmp_path / "nothing", tmp_path)
    (tmp_path / "page.zip").write_text("<html>quota</html>")
    with pytest.raises(ShardError, match="error page"):
        list_source(tmp_path / "page.zip", tmp_path)


def idx(kind: int, *shape: int) -> bytes:
    count = 1
    for side in shape:
        count *= side
    return struct.pack(f">{1 + len(shape)}I", 0x800 + kind, *shape) + bytes(i % 251 for i in range(count))


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_grey_pictures(tmp_path: Path, packed: bool) -> None:
    for name, data in {
        "t10k-images-idx3-ubyte": idx(3, 4, 5, 3),
        "train-images-idx3-ubyte": idx(3, 2, 5, 3),
    }.items():
        file = tmp_path / (f"{name}.gz" if packed else name)
        file.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    listing = list_source(tmp_path, tmp_path)
    assert listing.kind == "idx"
    assert listing.names == [f"t10k-{i:05d}.ppm" for i in range(4)] + [f"train-{i:05d}.ppm" for i in range(2)]
    assert listing.has_plain_stems
    pictures = [decode(data, 1) for data in read_all(listing).values()]
    assert all(picture.shape == (5, 3, 1) for picture in pictures)
    assert pictures[1].ravel().tolist() == list(range(15, 30))
    assert pictures[4].ravel().tolist() == list(range(15))


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x08\x03", idx(1, 5), idx(3, 4, 5, 3)[:-1], gzip.compress(b"x", mtime=0)[:-3]]
)
def test_a_damaged_idx_file_is_a_clear_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(ShardError, match="idx"):
        list_source(tmp_path, tmp_path)


def test_the_fingerprint_changes_with_names_and_with_what_an_archive_states(tmp_path: Path) -> None:
    def fingerprint(files: dict[str, bytes]) -> str:
        return list_source(write_zip(tmp_path / "x.zip", files), tmp_path).fingerprint

    base = fingerprint({"a.jpg": b"1", "b.jpg": b"2"})
    assert base == fingerprint({"b.jpg": b"2", "a.jpg": b"1"})
    assert (
        len({base, fingerprint({"a.jpg": b"1", "b.jpg": b"3"}), fingerprint({"a.jpg": b"1", "c.jpg": b"2"})}) == 3
    )


def test_real_celeba_reads_the_same_from_folder_and_zip(real_pictures: Path, tmp_path: Path) -> None:
    folder = real_pictures / "celeba-mini"
    assert len(list_source(folder, tmp_path)) == 6004
    listing = list_source(real_pictures / "celeba-10k" / "img_align_celeba.zip", tmp_path)
    assert len(listing) == 10_000
    assert listing.names[0] == "img_align_celeba/000309.jpg"
    with zipfile.ZipFile(listing.path) as archive:
        place = Place(*listing.places[7].item())
        assert open_reader("zip", listing.path).read("", place) == archive.read(listing.names[7])
