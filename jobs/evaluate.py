"""`facegan evaluate`: measure a run's snapshot against held-out pictures, each number with its protocol."""

import dataclasses
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facegan.errors import FaceganError
from jobs import table
from jobs.measuring import (
    SPLITS,
    as_reals,
    as_subject,
    default_split,
    device_named,
    inception_extractor,
    is_main,
    joined_ranks,
    open_for,
    say,
    train_images,
    trained_on,
)

if TYPE_CHECKING:
    from facegan.metrics import Comparison, Measurement, Subject
    from facegan.metrics.features import Extractor
    from facegan.run.snapshot import Snapshot

COUNTS = {"inception": 50_000, "faces": 2048}  # pictures a side; of the others as many as in the published SWD


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--data", envvar="FACEGAN_DATA", help="Set of shards.  [default: the one the run was trained on]")
@click.option(
    "--split", type=click.Choice(SPLITS), help="Real pictures to measure against.  [default: test, or val]"
)
@click.option(
    "--n",
    type=click.IntRange(8),
    help="Pictures a side.  [default: 16,384; inception 50,000; faces 2,048]",
)
@click.option("--metrics", help="Comma-separated.  [default: all that have what they need]")
@click.option("--seed", default=0, help="Seed of latents, of the draw of reals, of patches and projections.")
@click.option(
    "--inception", default="", help="Local TorchScript file inception-2015-12-05.pt, or $FACEGAN_INCEPTION."
)
@click.option("--trust-inception", metavar="SHA256", help="Confirm that file (TorchScript runs code) by its hash.")
@click.option("--all", "every", is_flag=True, help="Every snapshot of the run, and which is best.")
@click.option("--compare", multiple=True, type=click.Path(exists=True, path_type=Path), help="Other run beside it.")
@click.option("--again", is_flag=True, help="Measure what was measured before anew.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute.")
@click.option("--wandb", "wandb_mode", type=click.Choice(["auto", "online", "offline", "off"]), default="off")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def command(
    run: Path, as_json: bool, every: bool, compare: tuple[Path, ...], wandb_mode: str, **options: Any
) -> None:
    """Measure the newest snapshot of RUN (a run folder, or one snapshot) against real pictures.

    Numbers are kept with their protocol in RUN/metrics.jsonl; what is there already is not measured again.

    \b
    Examples:
      facegan evaluate runs/dcgan-64
      facegan evaluate runs/dcgan-64 --data data/shards --n 1024 --metrics swd,msssim --json
      facegan evaluate runs/dcgan-64 --all --metrics swd
      facegan evaluate runs/dcgan-64 --compare runs/wgan-gp-64
      facegan evaluate runs/dcgan-64 --inception inception-2015-12-05.pt
    """
    from facegan.metrics import row
    from facegan.run.snapshot import load_snapshot, run_folder, snapshot_folders

    with joined_ranks():
        folders = snapshot_folders(run) if every else []
        by_snapshot = [(path, evaluate(load_snapshot(path), **options)) for path in folders or [run]]
    _track(run_folder(run), wandb_mode, by_snapshot)
    if not is_main():
        return
    measurements = [m for _, measured in by_snapshot for m in measured]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(m) for m in measurements], indent=2))
    else:
        click.echo(describe(measurements))
        if every and measurements:
            click.echo(best(measurements))
    for other in compare:
        click.echo("\n" + side_by_side(run, other, row(measurements), measurements))


def evaluate(
    snapshot: "Snapshot",
    data: str | None = None,
    split: str | None = None,
    n: int | None = None,
    metrics: str | Sequence[str] | None = None,
    seed: int = 0,
    inception: str = "",
    trust_inception: str | None = None,
    again: bool = False,
    device: str = "auto",
) -> "list[Measurement]":
    """Measure one snapshot and record it in its run's metrics.jsonl; what was measured before is read from there.

    Raises FaceganError or ShardError where the set cannot be opened or does not fit, UsageError for a metric
    that is unknown or lacks what it needs.
    """
    from facegan.metrics import Ranks, protocol
    from facegan.metrics.comparison import Comparison, default_cache
    from facegan.run.snapshot import run_folder

    run_dir, place = run_folder(snapshot.path), device_named(device)
    opened = open_for(data or trained_on(run_dir), snapshot.recipe)
    chosen = split or default_split(opened)
    reals, train = as_reals(opened, chosen), train_images(opened, chosen, run_dir)
    subject = as_subject(snapshot, run_dir, place)
    extractor = inception_extractor(inception, trust_inception, place)
    names = _metrics(metrics, train is not None, subject, extractor)
    stored = [] if again else protocol.read(run_dir)
    measured = []
    if "overfit" in names and subject.critic is None and train is not None:
        say(f"overfit: not measured at {snapshot.nimg / 1000:g} kimg: there is no checkpoint of that time")
        names.remove("overfit")
    for name in names:
        count = n or COUNTS.get(name, 16_384)
        if name != "inception":  # which takes all reals, however many are generated
            count = min(count, max(len(reals.images), n or 0))
        comparison = Comparison(subject, reals, count, seed, train, extractor, default_cache(), Ranks.current())
        measured.append(_measure(name, comparison, stored, run_dir))
    return measured


def _measure(name: str, comparison: "Comparison", stored: "Sequence[Measurement]", run_dir: Path) -> "Measurement":
    """One metric, from what is stored, else anew and recorded."""
    from facegan.metrics import protocol
    from facegan.metrics.evaluation import evaluate as measure
    from facegan.metrics.evaluation import find_done

    if (done := find_done(stored, comparison, name)) is not None:
        return done
    say(f"{name}: {comparison.n:,} pictures a side")
    (fresh,) = measure(comparison, [name])
    if is_main():
        protocol.record(run_dir, [fresh])
        if name == "nearest":
            draw_nearest(comparison, run_dir / "samples" / f"nearest-nimg-{comparison.subject.nimg:012d}.png")
    return fresh


def draw_nearest(comparison: "Comparison", path: Path, columns: int = 8) -> None:
    """Save the samples that lie nearest to a training image, above the training images they are nearest to."""
    import torch

    from facegan import sampling

    if comparison.train is None:
        return
    fakes, _ = comparison.nearest
    places = fakes.distances.argsort()[:columns]
    order, back = torch.unique(fakes.indices[places], return_inverse=True)
    training = torch.from_numpy(comparison.train.gather(order.numpy())).permute(0, 3, 1, 2)[back]
    sampling.save_png(sampling.grid(torch.cat([comparison.fake[places], training]), columns), path)


def describe(measurements: "Sequence[Measurement]") -> str:
    """A table of the numbers, and below it how they were made."""
    if not measurements:
        return "nothing measured"
    rows = [(f"{m.nimg / 1000:g}", key, f"{value:.4g}") for m in measurements for key, value in m.values.items()]
    p = measurements[-1].protocol
    how = f"split {p['split']} of set {p['set'][:12]}, {p['size']}, crop {p['crop'] or 'unknown'}, seed {p['seed']}"
    return table.align([("kimg", "metric", "value"), *rows], right=(0, 2)) + f"\n{how}"


def best(measurements: "Sequence[Measurement]") -> str:
    """The best snapshot by the first metric."""
    from facegan.metrics.protocol import best_of

    key = next(iter(measurements[0].values))
    value, nimg = best_of(key, [(m.values[key], m.nimg) for m in measurements if key in m.values])
    return f"best {key}: {value:.4g} at {nimg / 1000:g} kimg"


def side_by_side(run: Path, other: Path, values: dict[str, float], measurements: "Sequence[Measurement]") -> str:
    """Both runs' numbers; FaceganError naming the difference where another protocol made the other's."""
    from facegan.metrics import protocol
    from facegan.run.snapshot import run_folder

    theirs = {m.metric: m for m in protocol.read(run_folder(other))}
    shared = [m for m in measurements if m.metric in theirs]
    if not shared:
        raise FaceganError(f"{other} has no such measurements; first: facegan evaluate {other}")
    for m in shared:
        protocol.require_same({str(run): m, str(other): theirs[m.metric]})
    rows = [(key, f"{values[key]:.4g}", f"{theirs[m.metric].values[key]:.4g}") for m in shared for key in m.values]
    return table.align([("metric", str(run), str(other)), *rows], right=(1, 2))


def _metrics(
    wanted: str | Sequence[str] | None, has_train: bool, subject: "Subject", extractor: "Extractor | None"
) -> list[str]:
    if wanted:
        return wanted.split(",") if isinstance(wanted, str) else list(wanted)
    able = {
        "nearest": has_train,
        "overfit": has_train,
        "inception": extractor is not None,
        "faces": find_spec("cv2") is not None,
    }
    from facegan.metrics.evaluation import METRICS

    return [name for name in METRICS if able.get(name, True)]


def _track(run_dir: Path, mode: str, by_snapshot: "Sequence[tuple[Path, Sequence[Measurement]]]") -> None:
    if not is_main() or mode == "off":
        return
    from facegan.metrics import row
    from facegan.run.tracking import Tracker

    protocols = {m.metric: m.protocol for _, measured in by_snapshot for m in measured}
    tracker = Tracker(run_dir, mode, {"protocols": protocols}, f"{run_dir.name}-evaluate", run_dir.name, "evaluate")
    for _, measured in by_snapshot:
        nimg = measured[0].nimg
        tracker.log({"progress/kimg": nimg / 1000, **row(measured)})  # no step: an older snapshot may come later
    tracker.finish()
