"""`facegan demo`: the whole line on synthetic faces, from drawn pictures to generated ones, in minutes on a CPU."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facegan.errors import FaceganError
from facegan.files import read_object, write_json, write_text
from facegan.run.outcome import is_finished, read_outcome
from jobs.progress import Progress

if TYPE_CHECKING:
    from facegan.metrics import Measurement

RECIPE = "face-64"
BATCH_SIZE = 16  # half the recipe's, twice its updates: after 16,000 images swd640 21.6 in place of 27.8
FIRST_KIMG = 2.56  # after these the speed of this machine is known
LEAST_KIMG, MOST_KIMG = 11.52, 64.0  # 720 steps show faces; more than 4,000 is no longer a demo
GRID_KIMG = 5.12  # between sample grids, the frames of the GIF
COMPARED = 1024  # images on each side of the sliced Wasserstein distance


@dataclass(frozen=True)
class Plan:
    """What a demo folder holds: decided at its first start, the same on every later one."""

    faces: int
    seed: int
    kimg: float = 0.0  # length of the training; 0 while the machine's speed is unknown


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), default="demo", help="Where everything goes.")
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, help="About how long to train.")
@click.option(
    "--kimg", type=click.FloatRange(min=0.064), help="Train this many thousand images, however long it takes."
)
@click.option("--faces", type=click.IntRange(80, 999_999), default=6400, help="How many faces to draw.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of the faces and of the training.")
def command(folder: Path, seconds: float, kimg: float | None, faces: int, seed: int) -> None:
    """Draw synthetic faces, make shards of them, train face-64 for minutes, and show and measure what it learned.

    Needs no data and no GPU; about four minutes on two CPU cores. The same command again continues where it was
    interrupted, and only shows the results once they are there.

    \b
    Examples:
      facegan demo
      facegan demo --dir /tmp/faces --seconds 600
      facegan demo --kimg 100 --faces 20000 --dir demo-long
    """
    plan = make_plan(folder, faces, seed)
    draw_faces(folder, plan)
    preprocess(folder)
    plan = train(folder, plan, seconds, kimg)
    before, after = measure(folder)
    pictures = show(folder)
    click.echo(farewell(folder, pictures, before, after))


def make_plan(folder: Path, faces: int, seed: int) -> Plan:
    """The plan this folder was begun with, else a new one. Raises FaceganError where it is another."""
    begun = read_object(folder / "run" / "config.json").get("recipe", RECIPE)
    if begun != RECIPE:
        raise FaceganError(f"{folder} holds a demo of {begun}, not of {RECIPE}: give another --dir, or delete it")
    path = folder / "demo.json"
    if not path.exists():
        plan = Plan(faces, seed)
        write_json(path, asdict(plan))
        return plan
    try:
        plan = Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise FaceganError(f"{path} is damaged ({error}): delete {folder} and start anew") from error
    if (plan.faces, plan.seed) != (faces, seed):
        raise FaceganError(
            f"{folder} was begun with --faces {plan.faces} --seed {plan.seed}, not --faces {faces} --seed {seed}:"
            " give the same, another --dir, or delete it"
        )
    return plan


def draw_faces(folder: Path, plan: Plan) -> None:
    """Step 1: faces in CelebA's layout."""
    from jobs.synthetic.celeba import write_celeba

    _headline(1, f"draw {plan.faces:,} synthetic faces in CelebA's layout: {folder}/faces")
    with _bars("demo", "faces") as advance:
        write_celeba(folder / "faces", plan.faces, plan.seed, advance)


def preprocess(folder: Path) -> None:
    """Step 2: shards of both sizes."""
    _headline(2, f"preprocess: centre crop 150, 64 and 128 px, into shards: {folder}/shards")
    if not all((folder / "shards" / size / "index.json").exists() for size in ("64", "128")):
        source = folder / "faces" / "img_align_celeba"
        run_command("preprocess", source, folder / "shards", "--size", "64", "--size", "128")
    terms = folder / "shards" / "terms.txt"
    if not terms.exists():  # the layout is CelebA's, the faces are not
        write_text(terms, "free: synthetic faces, drawn by facegan\n")


def train(folder: Path, plan: Plan, seconds: float, kimg: float | None) -> Plan:
    """Step 3: a first stretch that shows the speed, then the same run on to its length; the plan with it."""
    _headline(3, f"train {RECIPE} on the CPU, through Accelerate: {folder}/run")
    if kimg is None and not plan.kimg:
        _train_to(folder, plan, FIRST_KIMG)
    length = kimg or plan.kimg or length_for(seconds, images_per_second(folder / "run"))
    click.echo(f"  {length:g} thousand images; --kimg changes that", err=True)
    if length != plan.kimg:
        plan = Plan(plan.faces, plan.seed, length)
        write_json(folder / "demo.json", asdict(plan))
    _train_to(folder, plan, length)
    return plan


def length_for(seconds: float, rate: float) -> float:
    """Thousands of images that take about `seconds` at `rate` images/s, within the demo's bounds."""
    kimg = round(seconds * rate / 640) * 0.64
    return round(min(max(kimg, LEAST_KIMG), MOST_KIMG), 2)


def images_per_second(run: Path) -> float:
    """The usual speed of a training so far: the median over the lines of its statistics."""
    from facegan.report.figures import read_stats

    key = "speed/imgs_per_sec"
    return float(statistics.median(row[key] for row in read_stats(run) if key in row))


def measure(folder: Path) -> "tuple[Measurement, Measurement]":
    """Step 4: the sliced Wasserstein distance to held-out faces before and after the training."""
    from facegan.metrics import protocol
    from facegan.run.snapshot import snapshot_folders

    _headline(4, "measure the sliced Wasserstein distance to faces held out from training")
    run = folder / "run"
    untrained = _untrained_snapshot(run)
    for snapshot in (untrained, snapshot_folders(run)[-1]):
        if not any(m.nimg == _nimg(snapshot) for m in protocol.read(run)):
            n = min(COMPARED, _held_out(folder))
            run_command("evaluate", snapshot, "--data", folder / "shards", "--metrics", "swd", "--n", n)
    first, *_, last = protocol.read(run)
    return first, last


def show(folder: Path) -> dict[str, Path]:
    """Step 5: the pictures to look at, by what they show."""
    from facegan import sampling
    from facegan.report import figures
    from facegan.run.history import sample_grids

    _headline(5, f"pictures and report: {folder}")
    run, page = folder / "run", folder / "run" / "report.html"
    if not page.exists() or page.stat().st_mtime_ns < (run / "metrics.jsonl").stat().st_mtime_ns:
        run_command("export", run, "--to", "html")
        run_command("report", run)
    grids = [path for _, path in sample_grids(run)]
    return {
        "faces to learn from": run / "samples" / "real.png",
        "before training": grids[0],
        "half-way": grids[(len(grids) - 1) // 2],
        "after training": grids[-1],
        "before and after": sampling.save_png(figures.before_and_after(run), folder / "before-after.png"),
        "the whole training": figures.training_gif(run, folder / "training.gif"),
        "draw new faces": run / "export" / "faces.html",
        "report": page,
        "losses": sampling.save_png(figures.loss_curves(figures.read_stats(run)), folder / "losses.png"),
    }


def farewell(folder: Path, pictures: dict[str, Path], before: "Measurement", after: "Measurement") -> str:
    """Where everything is, what was measured, and what to type next."""
    key, first = next(iter(before.values.items()))
    last = after.values[key]
    doubt = "" if last < first / 2 else "\n  It has not fallen by half: train longer, such as --kimg 64."
    return "\n".join(
        [
            "\nPictures",
            *(f"  {label + ':':<21}{path}" for label, path in pictures.items()),
            f"\nSliced Wasserstein distance to held-out faces ({key.removeprefix('metrics/')}, lower is better)",
            f"  before {first:.1f}, after {after.nimg / 1000:g} thousand images {last:.1f}{doubt}",
            f"\nThis was {RECIPE} with half its batch, {BATCH_SIZE}. Next",
            f"  facegan sample {folder}/run --n 100 --seed 1",
            f"  facegan train {RECIPE} --config {folder}/run/config.json --kimg 200",
            "  facegan preprocess img_align_celeba.zip data/celeba --size 64  # your own pictures",
        ]
    )


def run_command(name: str, *arguments: object) -> None:
    """Run `facegan NAME ARGUMENTS` in a process of its own, shown as one would type it.

    Ctrl-C reaches it too: it saves, and its exit code becomes the demo's.
    """
    words = [name, *map(str, arguments)]
    click.echo(f"  $ facegan {' '.join(words)}", err=True)
    # -P: a folder called `shards` where the demo is started must not be taken for the package.
    home = str(Path(__file__).resolve().parent.parent)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
    code = _wait(subprocess.Popen([sys.executable, "-P", "-m", "jobs", *words], env=env))
    if code:
        click.echo("The demo is not finished; the same command continues it.", err=True)
        sys.exit(code if code > 0 else 128 - code)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """The exit code; an interruption is left to the process, a termination passed on."""
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, previous)


def _train_to(folder: Path, plan: Plan, kimg: float) -> None:
    run = folder / "run"
    if _trained(run) >= kimg * 1000:
        return
    flags = ["--kimg", f"{kimg:g}", "--seed", plan.seed, "--batch-size", BATCH_SIZE]
    often = ["--log-kimg", 0.64, "--sample-kimg", GRID_KIMG, "--snapshot-kimg", 0, "--wandb", "off"]
    run_command("train", RECIPE, "--data", folder / "shards", "--run-dir", run, "--device", "cpu", *flags, *often)


def _trained(run: Path) -> int:
    """Images that a finished training has seen; 0 where it is not finished."""
    return int(read_outcome(run)["nimg"]) if is_finished(run) else 0


def _untrained_snapshot(run: Path) -> Path:
    """The generator as it was before the first step, kept as the snapshot of 0 images."""
    import torch

    from facegan.networks import build_generator
    from facegan.networks.standing import set_standing_statistics
    from facegan.run.snapshot import load_snapshot, write_snapshot

    last = load_snapshot(run)
    torch.manual_seed(last.seed)  # as `facegan.train.state.State` does
    generator = build_generator(last.recipe)
    set_standing_statistics(generator, last.recipe.latent_dim)
    return write_snapshot(run / "snapshots", 0, generator, last.recipe, last.seed, {})


def _nimg(snapshot: Path) -> int:
    return int(snapshot.name.removeprefix("nimg-"))


def _held_out(folder: Path) -> int:
    from shards import open_set

    return len(open_set(folder / "shards", 64).split("test"))


@contextmanager
def _bars(label: str, unit: str) -> Iterator[Any]:
    """A callback (done, total) that shows progress."""
    bars: list[Progress] = []

    def advance(done: int, total: int) -> None:
        if not bars:
            bars.append(Progress(total, unit, label).__enter__())
        bars[0].update(done - bars[0].count)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)


def _headline(step: int, text: str) -> None:
    click.echo(click.style(f"{step}/5 {text}", bold=True), err=True)
