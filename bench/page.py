"""How fast an exported page draws: headless Chromium, one thread of WebAssembly, no GPU.

    python bench/page.py [RECIPE ...] [--loads 5]        dcgan-64 and face-64 without names

Each recipe's generator at its published width, with weights as they begin (the time does not depend on them),
becomes a page, as `facegan export --to html` makes it. The page is opened --loads times; each time it draws eight
faces to check itself and says the median time of one. Shown are the best load and the median one, and how long
until the page has checked itself and can draw.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "tests")]

from browser import Browser, missing  # noqa: E402
from limits import machine_words  # noqa: E402

from facegan import recipes  # noqa: E402
from facegan.export.html import write_page  # noqa: E402
from facegan.networks import build_generator  # noqa: E402
from facegan.run.snapshot import Snapshot  # noqa: E402


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["dcgan-64", "face-64"])
    parser.add_argument("--loads", type=int, default=5)
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as browser:
        version = browser.devtools("Browser.getVersion")["product"]
        print(f"{machine_words('cpu')}, {version}\n")
        print("| recipe | million weights | page, MB | ms a face, best load | median load | ready after, s |")
        print("|---|---:|---:|---:|---:|---:|")
        for name in options.recipes:
            print(measured(browser, name, Path(folder), options.loads), flush=True)


def measured(browser: Browser, name: str, folder: Path, loads: int) -> str:
    """One row."""
    recipe = recipes.load(name)
    generator = build_generator(recipe).eval()
    for fitted in generator.get_submodule("to_range").buffers():  # what is all zeros is left out of a page
        fitted.fill_(1e-3)
    page = write_page(Snapshot(generator, recipe, 0, 0, folder, {}), folder / f"{name}.html", name)
    checks = [check(browser, page.path) for _ in range(loads)]
    each = [row["each"] for row in checks]
    ready = statistics.median(row["took"] for row in checks) / 1000
    weights = sum(parameter.numel() for parameter in generator.parameters()) / 1e6
    return (
        f"| `{name}` | {weights:.1f} | {page.bytes / 1e6:.1f} | {min(each):.1f} | {statistics.median(each):.1f} "
        f"| {ready:.1f} |"
    )


def check(browser: Browser, page: Path) -> dict[str, float]:
    """What the page found when it was opened."""
    browser.open(page)
    end = time.monotonic() + 120
    while not (answer := browser.run("return document.documentElement.dataset.check")):
        if time.monotonic() > end:
            sys.exit(f"{page}: {browser.run('return document.body.innerText')}")
        time.sleep(0.05)
    result: dict[str, float] = json.loads(answer)
    return result


if __name__ == "__main__":
    main()
