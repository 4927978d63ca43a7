"""The steps of a run as its folder holds them: what a tracker shows, and is sent again where it missed some."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from facegan.files import json_lines


class Step(NamedTuple):
    """All that a run says of one position: its numbers by key and its picture files by key."""

    nimg: int
    numbers: dict[str, Any]
    pictures: dict[str, Path]


def sample_grids(run_dir: Path) -> list[tuple[int, Path]]:
    """The sample grids a training left behind: (nimg, path), oldest first."""
    named = ((re.fullmatch(r"fake-nimg-(\d+)", path.stem), path) for path in run_dir.glob("samples/*.png"))
    return sorted((int(match[1]), path) for match, path in named if match)


def steps(run_dir: Path, after: int = -1) -> Iterator[Step]:
    """The steps past `after` images, in order: lines of stats.jsonl of one position as one, and its sample grid."""
    numbers: dict[int, dict[str, Any]] = {}
    for row in json_lines(run_dir / "stats.jsonl"):
        numbers.setdefault(int(row["progress/nimg"]), {}).update(row)
    grids = dict(sample_grids(run_dir))
    for nimg in sorted(numbers.keys() | grids.keys()):
        if nimg > after:
            pictures = {"samples/ema": grids[nimg]} if nimg in grids else {}
            if nimg == 0 and (real := run_dir / "samples" / "real.png").is_file():
                pictures["samples/real"] = real
            progress = {"progress/nimg": nimg, "progress/kimg": nimg / 1000}
            yield Step(nimg, progress | numbers.get(nimg, {}), pictures)
