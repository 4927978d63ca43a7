"""One self-contained HTML page about one or several runs: what they are, how they went, what they made.

Nothing in the page comes from outside: pictures are re-encoded into it, charts are inline SVG, its one script is
allowed by its hash and everything else is forbidden by a Content-Security-Policy. Every text that comes from a
name or a file is escaped.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from facegan import __version__
from facegan.files import write_text
from facegan.report.curves import charts
from facegan.report.pictures import MOST_FRAMES, Pictures, card, spread
from facegan.report.reproduce import reproduce
from facegan.report.run import Run
from facegan.report.tables import configuration, environment, metric_tables
from facegan.run.history import sample_grids


def write_report(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write the page about these runs, whole or not at all; return its path.

    Raises FaceganError where a folder is no run's, or one of its files is damaged.
    """
    write_text(out, render(told_apart([Run(path) for path in run_dirs]), out.parent))
    return out


def told_apart(runs: Sequence[Run]) -> Sequence[Run]:
    """The same runs; of those with one folder name, each is named by as much of its path as is its own."""
    for depth in range(2, 1 + max(len(run.path.resolve().parts) for run in runs)):
        counts = Counter(run.name for run in runs)
        for run in runs:
            if counts[run.name] > 1:
                run.name = "/".join(run.path.resolve().parts[-depth:])
    return runs


def render(runs: Sequence[Run], home: Path = Path()) -> str:
    """The page as text, to lie in the folder `home`."""
    grids = {run.path: spread(sample_grids(run.path), MOST_FRAMES) for run in runs}
    pictures = Pictures(sum(len(frames) + 3 for frames in grids.values()))
    templates = Environment(
        loader=PackageLoader("facegan.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return templates.get_template("report.html").render(
        runs=runs,
        cards=[card(run, grids[run.path], pictures, home) for run in runs],
        charts=charts(runs),
        metrics=metric_tables(runs),
        configuration=configuration(runs),
        environments=[(run, environment(run)) for run in runs],
        commands=[(run, reproduce(run)) for run in runs],
        notes=pictures.notes,
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        script_hash=_script_hash(templates),
    )


def _script_hash(templates: Environment) -> str:
    """What the page's Content-Security-Policy allows: the template's own script and no other."""
    source = Path(str(templates.get_template("report.html").filename)).read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
