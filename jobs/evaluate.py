"""`facegan evaluate`: measure a run's snapshot against held-out pictures, each number with its protocol."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facegan.errors import FaceganError, UsageError
from jobs import table

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from facegan.metrics import Comparison, Measurement, Reals, Subject
    from facegan.metrics.features import Extractor
    from facegan.recipes import Recipe
    from facegan.run.snapshot import Snapshot
    from shards import Images, ShardSet

SPLITS = ("test", "val", "train")
TRAINING_METRICS = ("swd", "msssim")


@click.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--data", envvar="FACEGAN_DATA", help="Set of shards.  [default: the one the run was trained on]")
@click.option(
    "--split", type=click.Choice(SPLITS), help="Real pictures to measure against.  [default: test, or val]"
)
@click.option(
    "--n", type=click.IntRange(8), help="Pictures on each side.  [default: up to 16,384; inception 50,000]"
)
@click.option("--metrics", help="Comma-separated.  [default: swd,msssim,randomnet,nearest,overfit and inception]")
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
    from facegan.run.snapshot import load_snapshot, snapshot_folders

    _join_ranks()
    folders = snapshot_folders(run) if every else []
    found = [(path, evaluate(load_snapshot(path), **options)) for path in folders or [run]]
    _track(run_folder(run), wandb_mode, found)
    if not _is_main():
        return
    measurements = [m for _, measured in found for m in measured]
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
    from facegan.metrics import Team, protocol
    from facegan.metrics.evaluation import Comparison, default_cache, find_done
    from facegan.metrics.evaluation import evaluate as measure

    run_dir, place = run_folder(snapshot.path), _device(device)
    opened = _open(data or _trained_on(run_dir), snapshot.recipe)
    chosen = split or _default_split(opened)
    reals, train = as_reals(opened, chosen), _train_images(opened, chosen)
    subject = as_subject(snapshot, run_dir, place)
    extractor = _inception(inception, trust_inception, place)
    names = _metrics(metrics, train is not None, subject, extractor)
    stored = [] if again else protocol.read(run_dir)
    found = []
    for name in names:
        count = min(n or (50_000 if name == "inception" else 16_384), max(len(reals.images), n or 0))
        comparison = Comparison(subject, reals, count, seed, train, extractor, default_cache(), Team.current())
        fresh = find_done(stored, comparison, name)
        if fresh is None:
            _say(f"{name}: {count:,} pictures a side")
            (fresh,) = measure(comparison, [name])
            if _is_main():
                protocol.record(run_dir, [fresh])
                if name == "nearest":
                    draw_nearest(comparison, run_dir / "samples" / f"nearest-nimg-{snapshot.nimg:012d}.png")
        found.append(fresh)
    return found


def during_training(
    opened: "ShardSet", recipe: "Recipe", run_dir: Path, n: int = 1024, metrics: Sequence[str] = TRAINING_METRICS
) -> "Callable[[nn.Module, int], dict[str, float]]":
    """What a training calls on all ranks every --eval-kimg: (generator, nimg) -> numbers for its stats.

    Uses up to `n` pictures of the test split (else val, else train), the same ones each time.
    """
    from facegan import sampling
    from facegan.metrics import Comparison, Subject, Team, evaluate, record, row

    reals = as_reals(opened, _default_split(opened))
    team, count = Team.current(), min(n, len(reals.images))

    def measure(generator: "nn.Module", nimg: int) -> dict[str, float]:
        def generate(z: "Tensor") -> "Tensor":
            return sampling.generate(generator, z, recipe.value_range)

        subject = Subject(generate, recipe.latent_dim, nimg)
        found = evaluate(Comparison(subject, reals, count, team=team), metrics)
        if team.rank == 0:
            record(run_dir, found)
        return row(found)

    return measure


def as_reals(opened: "ShardSet", split: str) -> "Reals":
    """One split of an opened set as the metrics see it."""
    from facegan.metrics import Reals

    transform = opened.index.transform
    crop, filter = (transform.crop, transform.filter) if transform else ("", "")
    return Reals(opened.split(split), split, opened.fingerprint, crop, filter)


def as_subject(snapshot: "Snapshot", run_dir: Path, device: "torch.device") -> "Subject":
    """The snapshot's generator and, where its run has a whole checkpoint, that one's discriminator."""
    from facegan import sampling
    from facegan.metrics import Subject

    generator = snapshot.generator.to(device)
    value_range = snapshot.recipe.value_range
    return Subject(
        lambda z: sampling.generate(generator, z, value_range),
        snapshot.recipe.latent_dim,
        snapshot.nimg,
        str(snapshot.meta["sha256"]),
        _critic(snapshot.recipe, run_dir, device),
    )


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


def run_folder(path: Path) -> Path:
    """The run a snapshot folder belongs to; the folder itself where it is a run's, or lies alone."""
    return path.parent.parent if path.parent.name == "snapshots" else path


def describe(measurements: "Sequence[Measurement]") -> str:
    """A table of the numbers, and below it how they were made."""
    if not measurements:
        return "nothing measured"
    rows = [(f"{m.nimg / 1000:g}", key, f"{value:.4g}") for m in measurements for key, value in m.values.items()]
    p = measurements[-1].protocol
    how = f"split {p['split']} of set {p['set'][:12]}, {p['size']}, crop {p['crop'] or 'unknown'}, seed {p['seed']}"
    return table.align([("kimg", "metric", "value"), *rows], right=(0, 2)) + f"\n{how}"


def best(measurements: "Sequence[Measurement]") -> str:
    """The snapshot with the lowest value of the first metric."""
    key = next(iter(measurements[0].values))
    scored = [(m.values[key], m.nimg) for m in measurements if key in m.values]
    value, nimg = min(scored)
    return f"best {key}: {value:.4g} at {nimg / 1000:g} kimg"


def side_by_side(run: Path, other: Path, values: dict[str, float], measurements: "Sequence[Measurement]") -> str:
    """Both runs' numbers; FaceganError naming the difference where another protocol made the other's."""
    from facegan.metrics import protocol

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
        "overfit": has_train and subject.critic is not None,
        "inception": extractor is not None,
    }
    from facegan.metrics.evaluation import METRICS

    return [name for name in METRICS if able.get(name, True)]


def _open(data: str, recipe: "Recipe") -> "ShardSet":
    import shards

    opened = shards.open_set(data, recipe.resolution.height)
    found, expected = (opened.height, opened.width, opened.channels), (*recipe.resolution, recipe.channels)
    if found != expected:
        raise FaceganError(
            f"{data} holds pictures of {'x'.join(map(str, found))}, the run makes {'x'.join(map(str, expected))} "
            "(height x width x channels); give --data a set preprocessed for this recipe"
        )
    return opened


def _trained_on(run_dir: Path) -> str:
    try:
        data = json.loads((run_dir / "config.json").read_text())["settings"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        data = ""
    if not data:
        raise UsageError(f"{run_dir} does not say which set it was trained on: give --data")
    return str(data)


def _default_split(opened: "ShardSet") -> str:
    return next((split for split in SPLITS if split in opened.index.splits), SPLITS[0])


def _train_images(opened: "ShardSet", compared: str) -> "Images | None":
    return opened.split("train") if compared != "train" and "train" in opened.index.splits else None


def _critic(recipe: "Recipe", run_dir: Path, device: "torch.device") -> "Callable[[Tensor], Tensor] | None":
    """Scores of the newest whole checkpoint's discriminator, higher for what it takes for real."""
    import torch

    from facegan.networks import build_discriminator
    from facegan.run.checkpoint import newest_checkpoint
    from facegan.train.objective import scale_images

    checkpoint = newest_checkpoint(run_dir / "checkpoints", _say)
    if checkpoint is None:
        return None
    critic = build_discriminator(recipe)
    prefix = "discriminator/"
    weights = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    critic.load_state_dict(weights)
    critic.eval().to(device)

    @torch.no_grad()
    def score(images: "Tensor") -> "Tensor":
        scores: Tensor = critic(scale_images(images.to(device), recipe.value_range))
        return scores.float().cpu()

    return score


def _inception(path: str, trusted: str | None, device: "torch.device") -> "Extractor | None":
    from facegan.metrics import inception

    file = inception.find(path)
    if file is None:
        return None

    def confirm(digest: str) -> bool:
        if trusted:
            return trusted.lower() == digest
        question = f"{file} is TorchScript, which runs code. Its SHA-256 is {digest}. Load it, now and in future?"
        return sys.stdin.isatty() and click.confirm(question, err=True)

    return inception.load(file, confirm, device)


def _device(name: str) -> "torch.device":
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA GPU here; see: facegan doctor")
    on_gpu = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")


def _track(run_dir: Path, mode: str, found: "Sequence[tuple[Path, Sequence[Measurement]]]") -> None:
    if not _is_main() or mode == "off":
        return
    from facegan.metrics import row
    from facegan.run.tracking import Tracker

    protocols = {m.metric: m.protocol for _, measured in found for m in measured}
    tracker = Tracker(run_dir, mode, {"protocols": protocols}, f"{run_dir.name}-evaluate", run_dir.name, "evaluate")
    for _, measured in found:
        nimg = measured[0].nimg
        tracker.log({"progress/nimg": nimg, "progress/kimg": nimg / 1000, **row(measured)})
    tracker.finish()


def _join_ranks() -> None:
    """Under a launcher the ranks share the work; they exchange results through the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo")


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(text: str) -> None:
    if _is_main():
        click.echo(text, err=True)
