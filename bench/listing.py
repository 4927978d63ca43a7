"""What it costs to list N pictures where they lie, killed and continued too, and to index somebody's tars.

    python bench/listing.py                            20,000 names of each source: within a minute
    python bench/listing.py --names 1000000            the figures of docs/benchmarks.md
    python bench/listing.py --names 1000000 zip list   these sources only

Each row is what the first of 64 slices of a preprocess does before it makes a shard, in a process of its own.
Seconds are those of the processor, which other work on the machine disturbs least. Sources are made up: files are
empty, a zip is its directory alone, a bucket is a server on loopback that answers as S3 does (and whose own seconds
do not count).
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from made_up import made_up_bucket, make_annotations, make_folder, make_list, make_tars, make_tree, make_zip  # noqa: E402
from rows import Row, alone, command, process_of  # noqa: E402

from shards.make import folders, sorting  # noqa: E402
from shards.make.address import parse_where  # noqa: E402
from shards.make.catalogue import has_changed, read_catalogue  # noqa: E402
from shards.make.plan import Options  # noqa: E402
from shards.make.survey import catalogue_file, survey  # noqa: E402

NAMES, SLICES = 20_000, 64
IN_FOLDER, IN_TAR, IN_SHARD = 1000, 1000, 100
COLUMNS = 40  # of a list
HEAD = "| | names | processor s | of 10⁶ | own MiB | with mapped files MiB |\n|---|---:|---:|---:|---:|---:|"
KILLED_AT = 0.6  # of the processor time that the whole takes


class Case(NamedTuple):
    """A source, and where slices of a preprocess meet."""

    names: int
    source: str
    out: Path
    annotations: Path | None = None

    def options(self, part: int) -> Options:
        where, some = parse_where(self.source), (part, SLICES)
        return Options(where, self.out, slice=some, shard_size=IN_SHARD, annotations=self.annotations)


class Line(NamedTuple):
    """Of the table."""

    names: int
    row: Row


def start(case: Case) -> None:
    """Nothing: what a process takes that has imported what the others do."""


def first_slice(case: Case, part: int = 0) -> None:
    """What a slice does before its first shard; the first that comes lists the source."""
    sorting.RUN_ROWS = min(sorting.RUN_ROWS, max(1, case.names // 4))  # so that of few names, too, some are kept
    with survey(case.options(part)):
        pass


last_slice = partial(first_slice, part=SLICES - 1)


def closing(case: Case) -> None:
    """What closing asks of a source: whether all its folders are as they were."""
    file = catalogue_file(case.options(0))
    if has_changed(file, read_catalogue(file)):
        raise SystemExit(f"{case.source}: has changed")


Work = Callable[[Case], None]


def measure(what: str, work: Work, case: Case) -> Line:
    """A row of the table."""
    rows: list[Row] = []
    alone(rows, what, work, case)
    return Line(case.names, rows[0])


def kill(case: Case, seconds: float) -> None:
    """Let a first slice list for so many seconds of the processor, then kill it."""
    process, heard = process_of(first_slice, case)
    end = heard.recv() + seconds
    while process.is_alive() and processor_seconds(process.pid or 0) < end:
        time.sleep(0.005)
    process.kill()
    process.join()


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listed(what: str, case: Case) -> list[Line]:
    """Two rows of a source: listed in one go, and after a listing was killed."""
    whole = measure(what, first_slice, case)
    shutil.rmtree(case.out, ignore_errors=True)
    kill(case, KILLED_AT * whole.row[2])
    what = f"- killed at {100 * KILLED_AT:g} % of these seconds, the same command again"
    return [whole, measure(what, first_slice, case)]


def folder(data: Path, names: int) -> list[Line]:
    source = make_folder(data / "folder", names, IN_FOLDER)
    return listed(f"folders of {IN_FOLDER:,} pictures", Case(names, str(source), data / "out"))


def flat(data: Path, names: int) -> list[Line]:
    source = make_folder(data / "flat", names, names)
    return listed("one folder", Case(names, str(source), data / "out"))


def zipped(data: Path, names: int) -> list[Line]:
    source = make_zip(data / "faces.zip", names)
    return listed("a zip", Case(names, str(source), data / "out"))


def celeba(data: Path, names: int) -> list[Line]:
    source, annotations = make_zip(data / "faces.zip", names), make_annotations(data / "Anno", names, COLUMNS)
    case = Case(names, str(source), data / "out", annotations)
    return listed("a zip and CelebA's annotation files", case)


def list_(data: Path, names: int, columns: int = COLUMNS) -> list[Line]:
    source = make_list(data / "list.csv", names, columns)
    return listed(f"a list of addresses with {columns} attributes", Case(names, str(source), data / "out"))


def bare(data: Path, names: int) -> list[Line]:
    source = make_list(data / "bare.csv", names, 0)
    return [measure("a list of addresses", first_slice, Case(names, str(source), data / "out"))]


def bucket(data: Path, names: int) -> list[Line]:
    with made_up_bucket(names) as source:
        return listed("a bucket, page by page", Case(names, source, data / "out"))


def tree(data: Path, names: int) -> list[Line]:
    """A tenth of the pictures, each in a folder of its own, as identities have them."""
    case = Case(names // 10, str(make_tree(data / "tree", names // 10)), data / "out")
    lines = [measure("a folder a picture", first_slice, case)]
    options = case.options(SLICES - 1)
    with patch.object(folders, "_time_of", wraps=folders._time_of) as asked, survey(options):
        own = asked.call_count
    lines.append(measure(f"- another slice asks for its own {own:,} folders", last_slice, case))
    return [*lines, measure("- closing asks for all", closing, case)]


def tars(data: Path, names: int) -> list[Line]:
    """A tenth of the pictures, JPEG of 64 px, in tars of somebody's."""
    from loader import draw_pictures
    from loader_peers import as_jpeg

    count, rows = names // 10, list[Row]()
    place = str(make_tars(data / "tars", [as_jpeg(each) for each in draw_pictures(64, 100)], count, IN_TAR))
    for part in (["--slice", "0/2"], ["--slice", "1/2"], []):
        command(rows, "shards", "index", place, *part)
    return [Line(half, row) for half, row in zip((count // 2, count - count // 2, count), rows, strict=True)]


SOURCES: dict[str, Callable[[Path, int], list[Line]]] = {
    "folder": folder,
    "flat": flat,
    "tree": tree,
    "zip": zipped,
    "celeba": celeba,
    "bare": bare,
    "list": list_,
    "bucket": bucket,
    "tars": tars,
}


def measure_all(data: Path, names: int, chosen: list[str]) -> Iterator[Line]:
    """The rows of these sources, each of which is removed behind its own."""
    yield measure("a process that has imported what the others do", start, Case(0, str(data), data / "out"))
    for name in chosen:
        place = data / name
        place.mkdir()
        yield from SOURCES[name](place, names)
        shutil.rmtree(place)


def words(line: Line) -> str:
    """For docs/benchmarks.md."""
    names, (what, _, seconds, own, peak) = line
    of_a_million = f"{seconds / names * 1e6:,.1f}" if names else "-"
    return f"| {what} | {names:,} | {seconds:,.2f} | {of_a_million} | {own:,.0f} | {peak:,.0f} |"


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=f"of {', '.join(SOURCES)}; default all")
    parser.add_argument("--names", type=int, default=NAMES)
    parser.add_argument("--quick", action="store_true", help="a tenth of them")
    options = parser.parse_args()
    if unknown := set(options.sources) - set(SOURCES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SOURCES)}")
    from loader import machine

    names = options.names // 10 if options.quick else options.names
    print(f"{machine()}\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory(prefix="facegan-listing-") as scratch:
        for line in measure_all(Path(scratch), names, options.sources or list(SOURCES)):
            print(words(line), flush=True)


if __name__ == "__main__":
    main()
