"""Which recipe makes the better faces in equal training time: several seeds each, one table.

    python bench/quality.py                                              the synthetic faces, 5 minutes, three seeds
    python bench/quality.py --data data/celeba --minutes 5 20 --docs     the tables of docs/recipes.md
    python bench/quality.py --recipe face-64 --recipe "face-64 --set r1_gamma=5" --split val    to choose by
    python bench/quality.py --kimg 60 --seeds 1                          a busy machine: images instead of minutes
    python bench/quality.py --kimg 24 --seeds 1 --split train --draws 5  a sweep: one draw moves swd1k by 1

A recipe is written as after `facegan train`. Minutes become images by each recipe's own rate, and the rates are
measured in turns before the first training, so that what else the machine does meets all alike; --kimg gives the
length of the first recipe and the others their share of it by the same rates. Choices are made on `val` or, as
that is few pictures, on several draws of `train`, without nearest_ratio; the table is made of `test`, once. Grids
show the first 64 latents of seed 0, chosen by nobody. Everything lies in --work; the same command again continues
there. Grids of models trained on real faces stay there: they are research data.
"""

import argparse
import hashlib
import itertools
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from limits import machine_words  # noqa: E402
from torch import Tensor  # noqa: E402

from facegan import sampling  # noqa: E402
from facegan.errors import UsageError  # noqa: E402
from facegan.files import write_json, write_text  # noqa: E402
from facegan.metrics import Comparison, Reals, Subject, evaluate, row  # noqa: E402
from facegan.metrics.detector import face_shares  # noqa: E402
from facegan.report.figures import read_stats  # noqa: E402
from facegan.run.snapshot import load_snapshot  # noqa: E402
from jobs.measuring import inception_extractor  # noqa: E402
from shards import ShardSet, open_set  # noqa: E402

Numbers = dict[str, float]
Row = tuple[str, str, list[float], list[Numbers]]  # of what, trained how long, kimg, the numbers of each seed
RECIPES = ("dcgan-64", "face-64")
SYNTHETIC = 10_000
SPEED = "speed/imgs_per_sec"
TURNS = 3  # of each recipe, when rates are measured
MOST = 1024  # images on each side
COLUMNS = {
    "swd": "swd1k",
    "face": "face found",
    "eyes": "both eyes",
    "msssim": "MS-SSIM",
    "randomnet_kd": "kernel distance",
    "randomnet_recall": "recall",
    "nearest_ratio": "nearest_ratio",
    "fid": "FID",
    "kid": "KID",
}
HIGHER = {"face", "eyes", "randomnet_recall"}  # of the others a larger one is worse, or it is not ordered


def facegan(*arguments: object) -> None:
    """Run a command of the project; its progress is shown, its failure ends this one."""
    subprocess.run([sys.executable, "-m", "jobs", *map(str, arguments)], check=True, cwd=ROOT)


def prepare(options: argparse.Namespace, side: int) -> ShardSet:
    """The set to train on and to measure against: --data, or synthetic faces drawn into --work."""
    if options.data:
        return open_set(options.data, side)
    out = options.work / "shards"
    if not (out / str(side) / "index.json").exists():
        from jobs.synthetic.celeba import write_celeba

        write_celeba(options.work / "faces", options.faces)
        facegan("preprocess", options.work / "faces" / "img_align_celeba", out, "--size", 64, "--size", 128)
    return open_set(out, side)


def train(options: argparse.Namespace, recipe: str, run: Path, kimg: float, seed: int) -> None:
    """Train `recipe` to `kimg` in folder `run`, or on to it; nothing where it is there already."""
    data = options.data or options.work / "shards"
    where = ["--data", data, "--run-dir", run, "--kimg", f"{kimg:g}", "--epochs", 0, "--seed", seed]
    often = ["--log-kimg", options.turn_kimg / 2, "--sample-kimg", 0, "--snapshot-kimg", 0, "--wandb", "off"]
    machine = ["--device", options.device, "--threads", options.threads]
    facegan("train", *shlex.split(recipe), *where, *often, *machine)


def rates(options: argparse.Namespace) -> dict[str, float]:
    """Images a second of each recipe: the first one's median over the turns, times the others' median ratio."""
    path = options.work / "rates.json"
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if set(options.recipe) <= set(known):
        return known
    speeds: dict[str, list[float]] = {recipe: [] for recipe in options.recipe}
    for turn in range(1, TURNS + 1):
        for recipe in options.recipe:
            run = options.work / "rates" / name(recipe)
            train(options, recipe, run, turn * options.turn_kimg, 0)
            speeds[recipe].append([r for r in read_stats(run) if SPEED in r][-1][SPEED])
    first = speeds[options.recipe[0]]
    base = known.get(options.recipe[0], statistics.median(first))
    ratio = {r: statistics.median(a / b for a, b in zip(own, first, strict=True)) for r, own in speeds.items()}
    known |= {recipe: known.get(recipe, base * ratio[recipe]) for recipe in options.recipe}
    write_json(path, known)
    return known


def budgets(options: argparse.Namespace, known: dict[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each budget by name, with the thousands of images of every recipe in it."""
    first = known[options.recipe[0]]
    if options.kimg:
        yield f"{options.kimg:g} kimg", {r: options.kimg * known[r] / first for r in options.recipe}
        return
    for minutes in options.minutes:
        yield f"{minutes:g} min", {r: round(minutes * 60 * known[r] / 1000, 2) for r in options.recipe}


def measure(options: argparse.Namespace, opened: ShardSet, subject: Subject) -> Numbers:
    """All numbers of a subject against the split, by names without the count of images; means of the draws."""
    reals = Reals(opened.split(options.split), options.split, opened.fingerprint)
    n = min(MOST, *(len(opened.split(split)) for split in ("val", "test")))
    extractor = inception_extractor(options.inception, options.trust_inception, torch.device("cpu"))
    comparison = Comparison(subject, reals, n, train=opened.split("train"), inception=extractor)
    draws = [measure_draw(replace(comparison, seed=seed)) for seed in range(options.draws)]
    return {key: statistics.fmean(draw[key] for draw in draws) for key in draws[0]}


def measure_draw(comparison: Comparison) -> Numbers:
    """The numbers of one draw of latents and of real images."""
    names = ["swd", "msssim", "randomnet", *(["inception"] if comparison.inception else [])]
    if comparison.reals.split != "train":
        names.append("nearest")  # how far held-out pictures are from the training's is what it divides by
    values = row(evaluate(comparison, names))
    numbers = {key.removeprefix("metrics/").replace(comparison.count, ""): value for key, value in values.items()}
    return numbers | faces_and_eyes(comparison.fake)


def faces_and_eyes(images: Tensor) -> Numbers:
    """Shares of (n, C, H, W) uint8 images with a face, and with both its eyes; nothing where there is no OpenCV."""
    try:
        return face_shares(images)._asdict()
    except UsageError as error:
        print(f"faces and eyes are not counted: {error}", file=sys.stderr)
        return {}


def measured(options: argparse.Namespace, opened: ShardSet, run: Path) -> Numbers:
    """The numbers of a finished run, measured once a split, and its grid beside them."""
    return kept(run / f"quality-{measured_by(options)}.json", lambda: _measured(options, opened, run))


def measured_by(options: argparse.Namespace) -> str:
    """What numbers were measured by, in a file's name: the split and, where there are several, the draws."""
    return options.split + (f"-{options.draws}-draws" if options.draws > 1 else "")


def _measured(options: argparse.Namespace, opened: ShardSet, run: Path) -> Numbers:
    snapshot = load_snapshot(run)
    generator, value_range = snapshot.generator, snapshot.recipe.value_range
    dim = snapshot.recipe.latent_dim
    subject = Subject(lambda z: sampling.generate(generator, z, value_range), dim, snapshot.nimg)
    sampling.save_png(sampling.grid(subject.generate(sampling.latents(0, 64, dim))), run / "grid.png")
    return measure(options, opened, subject)


def kept(path: Path, numbers: Callable[[], Numbers]) -> Numbers:
    """What the file has; where there is none yet, these numbers, which it has from then on."""
    if not path.exists():
        write_json(path, numbers())
    found: Numbers = json.loads(path.read_text(encoding="utf-8"))
    return found


def real_pictures(options: argparse.Namespace, opened: ShardSet, split: str, draw: int = 0) -> Numbers:
    """What real pictures reach: the `draw`-th so many of a split, shuffled, in the place of generated ones."""
    others = opened.split(split)
    n = min(MOST, len(others), len(opened.split(options.split)))
    shuffled = np.random.Generator(np.random.Philox(key=0)).permutation(len(others))
    order = itertools.cycle(np.roll(shuffled, -draw * n)[:n])

    def draw_some(z: Tensor) -> Tensor:
        numbers = np.array([next(order) for _ in z], np.int64)
        return torch.from_numpy(others.gather(numbers)).permute(0, 3, 1, 2)

    return measure(options, opened, Subject(draw_some, 1, 0))


def real_rows(options: argparse.Namespace, opened: ShardSet) -> Iterator[Row]:
    """Rows of another held-out split and of the training pictures: how far so many pictures are from others."""
    held_out = "test" if options.split == "val" else "val"

    def numbers(split: str, draw: int = 0) -> Numbers:
        about = f"{measured_by(options)}-by-{split}-{draw}-of-{opened.fingerprint[:8]}"
        return kept(options.work / f"quality-{about}.json", lambda: real_pictures(options, opened, split, draw))

    yield "other real pictures", "", [], [numbers(held_out)]
    if options.split != "train":
        yield "training pictures", "", [], [numbers("train", draw) for draw in range(3)]


def table(rows: Sequence[Row]) -> str:
    """Markdown: the reals, then each recipe and budget: the mean of its seeds, the worst in brackets."""
    shown = [key for key in COLUMNS if key in rows[0][3][0]]
    lines = ["| | time | kimg | seeds | " + " | ".join(COLUMNS[key] for key in shown) + " |"]
    lines.append("|---|---|--:|--:|" + "--:|" * len(shown))
    for subject, budget, kimg, seeds in rows:
        cells = [subject, budget, *([f"{statistics.fmean(kimg):.1f}", str(len(seeds))] if kimg else ["", ""])]
        lines.append("| " + " | ".join(cells + [cell(key, [s[key] for s in seeds]) for key in shown]) + " |")
    return "\n".join(lines)


def cell(key: str, values: list[float]) -> str:
    """The mean of the seeds and, where there are several, the worst."""
    worst = min(values) if key in HIGHER else max(values)
    return f"{statistics.fmean(values):.3g}" + (f" ({worst:.3g})" if len(values) > 1 else "")


def name(recipe: str) -> str:
    """A folder's name: the recipe, and where it is changed a hash of how."""
    first, *changes = shlex.split(recipe)
    return first + (f"-{hashlib.sha256(shlex.join(changes).encode()).hexdigest()[:8]}" if changes else "")


def write_between(path: Path, marker: str, text: str) -> None:
    """Put `text` between the lines `<!-- marker -->` and `<!-- /marker -->` of a page; at its end without."""
    page, start, end = path.read_text(encoding="utf-8"), f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if start not in page:
        page += f"\n{start}\n{end}\n"
    before, rest = page.split(start, 1)
    write_text(path, before + f"{start}\n{text}\n{end}" + rest.split(end, 1)[1])


def compare(options: argparse.Namespace) -> str:
    """Train and measure everything; the table with the machine and the command above it."""
    from facegan import recipes

    side = recipes.load(shlex.split(options.recipe[0])[0]).resolution.height
    opened = prepare(options, side)
    rows: list[Row] = []
    for budget, lengths in budgets(options, rates(options)):
        for recipe in options.recipe:
            runs = [
                options.work / budget.replace(" ", "") / name(recipe) / f"seed-{s}" for s in range(options.seeds)
            ]
            for seed, run in enumerate(runs):
                train(options, recipe, run, lengths[recipe], seed)
            rows.append((f"`{recipe}`", budget, [lengths[recipe]], [measured(options, opened, r) for r in runs]))
    pictures = "synthetic faces" if not options.data else str(options.label or Path(options.data).name)
    head = (
        f"{pictures}, {len(opened.split('train')):,} to train on, up to {MOST:,} of `{options.split}` to measure by"
    )
    return f"{head}; {machine_words(options.device)}.\n\n" + table([*real_rows(options, opened), *rows])


def main() -> None:
    """Read the command line, compare, print, and write the page where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", action="append", help="again for more; with changes, in quotes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5.0])
    parser.add_argument("--kimg", type=float, default=0.0, help="length of the first recipe, instead of minutes")
    parser.add_argument("--turn-kimg", type=float, default=2.048, help="a turn at rates, whose second half counts")
    parser.add_argument("--data", default="", help="set of shards; synthetic faces without it")
    parser.add_argument("--label", default="", help="what the page calls the set")
    parser.add_argument("--faces", type=int, default=SYNTHETIC, help="synthetic faces to draw")
    parser.add_argument(
        "--split", default="test", choices=("val", "test", "train"), help="test for tables, others to choose by"
    )
    parser.add_argument("--draws", type=int, default=1, help="of latents, whose mean is taken")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--inception", default="", help="local inception-2015-12-05.pt: adds FID and KID")
    parser.add_argument("--trust-inception", default=None, metavar="SHA256")
    parser.add_argument("--docs", default="", metavar="MARKER", help="also write the table into docs/recipes.md")
    options = parser.parse_args()
    if min(options.seeds, options.draws) < 1:
        parser.error(f"--seeds {options.seeds} --draws {options.draws}: expected at least 1 of each")
    options.recipe = options.recipe or list(RECIPES)
    options.work = options.work.resolve()
    options.data = str(Path(options.data).resolve()) if options.data else ""
    page = compare(options)
    print(page)
    if options.docs:
        write_between(ROOT / "docs" / "recipes.md", options.docs, page)


if __name__ == "__main__":
    main()
