"""Synthetic faces in CelebA's own layout, so that everything can be tried without a real picture."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from facegan.cores import usual_threads
from facegan.files import disk_full_said, whole_file
from jobs.synthetic.attributes import ATTRIBUTES, attributes
from jobs.synthetic.faces import paint
from jobs.synthetic.traits import PICTURES_PER_IDENTITY, draw_traits, identity_of
from shards.errors import ShardError
from shards.make.pool import Report, run_all

IMAGES = "img_align_celeba"
ATTRIBUTE_FILE = "list_attr_celeba.txt"
PARTITION_FILE = "list_eval_partition.txt"
IDENTITY_FILE = "identity_CelebA.txt"
STAMP = "synthetic.json"
DRAWING = 1  # raise it when the same seed draws other pictures
TRAIN, VAL = 80, 4  # per cent of the persons; the rest is test: of 6,400 pictures 1,024 to measure against
_CHUNK = 25
_JPEG_END = b"\xff\xd9"

Progress = Callable[[int, int], None]


def write_celeba(
    folder: Path, count: int, seed: int = 0, progress: Progress | None = None, workers: int | None = None
) -> Path:
    """Draw `count` faces as 178x218 JPEGs with CelebA's annotation files; return the folder.

    Face i is a function of (seed, i) alone: the same software on the same type of processor writes the same
    bytes. Every fourth picture begins a new person; 80 % of the persons are train, 4 % val, 16 % test.
    Run again, it draws what is missing; the annotations come last. `progress` is called with (done, count).

    Raises ShardError where `folder` holds anything but the beginning of these very faces.
    """
    folder = Path(folder)
    if not 1 <= count <= 999_999:
        raise ShardError(f"count is {count}: expected 1 to 999999 synthetic faces")
    _claim(folder, count, seed)
    images = folder / IMAGES
    images.mkdir(exist_ok=True)
    missing = [index for index in range(count) if not _is_whole(images / picture_name(index))]
    done = count - len(missing)

    def report(drawn: int, rejected: int) -> None:
        nonlocal done
        done += drawn
        if progress is not None:
            progress(done, count)

    _draw_all(images, seed, missing, workers or usual_threads(), report)
    if not (folder / ATTRIBUTE_FILE).exists():
        _write_annotations(folder, seed, count)
    return folder


def picture_name(index: int) -> str:
    """CelebA's file name of picture `index` (from 0)."""
    return f"{index + 1:06d}.jpg"


def draw_face(seed: int, index: int) -> np.ndarray:
    """Face `index` of `seed` as (218, 178, 3) uint8."""
    return paint(draw_traits(seed, index))


def split_of(index: int, count: int) -> int:
    """CelebA's code of the split: 0 train, 1 val, 2 test; a person's pictures stay together."""
    persons = -(-count // PICTURES_PER_IDENTITY)
    place = 100 * identity_of(index)
    return 0 if place < TRAIN * persons else 1 if place < (TRAIN + VAL) * persons else 2


def _claim(folder: Path, count: int, seed: int) -> None:
    """Mark the folder as holding these faces, or refuse it where it holds something else."""
    stamp = folder / STAMP
    wanted = {"format": "facegan-synthetic-faces", "drawing": DRAWING, "seed": seed, "count": count}
    if stamp.exists():
        there = json.loads(stamp.read_text(encoding="utf-8"))
        if {**there, "count": 0} != {**wanted, "count": 0} or there["count"] > count:
            raise ShardError(
                f"{folder} holds other synthetic faces: found {there}, expected {wanted}; "
                "give another folder, or delete this one"
            )
        if there == wanted:
            return
    elif folder.exists() and any(folder.iterdir()):
        raise ShardError(f"{folder} is not empty and holds no synthetic faces: give a new folder")
    (folder / ATTRIBUTE_FILE).unlink(missing_ok=True)  # a grown set needs new annotations
    _write_lines(stamp, [json.dumps(wanted)])


def _is_whole(path: Path) -> bool:
    """Whether a JPEG is there up to its end mark (pictures are not synced one by one: that would take minutes)."""
    try:
        with path.open("rb") as file:
            file.seek(-2, os.SEEK_END)
            return file.read() == _JPEG_END
    except OSError:
        return False


def _draw_all(images: Path, seed: int, indices: list[int], workers: int, report: Report) -> None:
    """Draw the pictures, several processes at a time where it pays; `report` hears of each chunk."""
    chunks = [_Chunk(images, seed, indices[k : k + _CHUNK]) for k in range(0, len(indices), _CHUNK)]
    if workers > 1 and len(chunks) >= 8:
        run_all(chunks, workers, report)
        return
    for chunk in chunks:
        chunk.run(report)


@dataclass(frozen=True)
class _Chunk:
    """Faces to be drawn by one process."""

    images: Path
    seed: int
    indices: list[int]

    def __str__(self) -> str:
        return f"{picture_name(self.indices[0])} to {picture_name(self.indices[-1])}"

    def run(self, report: Report) -> None:
        for index in self.indices:
            _draw_picture(self.images / picture_name(index), self.seed, index)
        report(len(self.indices), 0)

    def clean_up(self) -> None:
        """What is half drawn is drawn again."""


def _draw_picture(path: Path, seed: int, index: int) -> None:
    part = path.with_name(f".{path.name}.part")
    jpeg = simplejpeg.encode_jpeg(draw_face(seed, index), quality=92, colorspace="RGB", colorsubsampling="420")
    with disk_full_said(path):
        part.write_bytes(jpeg)
        part.replace(path)


def _write_annotations(folder: Path, seed: int, count: int) -> None:
    """CelebA's three annotation files; the one that tells a finished set comes last."""
    indices = range(count)
    _write_lines(folder / IDENTITY_FILE, [f"{picture_name(i)} {identity_of(i) + 1}" for i in indices])
    _write_lines(folder / PARTITION_FILE, [f"{picture_name(i)} {split_of(i, count)}" for i in indices])
    _write_lines(folder / ATTRIBUTE_FILE, _attribute_lines(seed, count))


def _attribute_lines(seed: int, count: int) -> Iterator[str]:
    """The count, the names, then -1 or 1: two columns each but for the first, as in the original."""
    yield str(count)
    yield " ".join(ATTRIBUTES) + " "
    for index in range(count):
        flags = attributes(draw_traits(seed, index)).values()
        yield f"{picture_name(index)} " + " ".join(f"{1 if flag else -1:2d}" for flag in flags).lstrip()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    """CRLF after every line, as CelebA's files have it; whole or not at all."""
    with whole_file(path) as part:
        part.write_text("".join(f"{line}\r\n" for line in lines), encoding="ascii", newline="")
