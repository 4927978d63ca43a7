"""`facegan preprocess`: from a folder, zip, tar or idx files of pictures, or an address, to sets of shards."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facegan.cores import usual_threads
from facegan.recipes import Size
from jobs.progress import Progress
from jobs.shards import send, send_slice
from jobs.slices import slice_option
from jobs.values import Written

if TYPE_CHECKING:
    from shards.make.address import Address, Where
    from shards.make.writer import Options, Outcome
    from shards.make.writer import Progress as Report

FOLDER = click.Path(path_type=Path)


class Source(click.ParamType["Where"]):
    """A path, or an address at https://, s3:// or gs://."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Where":
        from shards.errors import ShardError
        from shards.make.address import parse_where

        try:
            return parse_where(value) if isinstance(value, str) else value
        except ShardError as error:
            self.fail(str(error), param, ctx)


@click.command(context_settings={"auto_envvar_prefix": "FACEGAN"})
@click.argument("source", metavar="SRC", type=Source())
@click.argument("out", metavar="OUT", type=Source())
@click.option(
    "--size",
    "sizes",
    envvar="FACEGAN_SIZE",
    type=Written(Size),
    multiple=True,
    help="Height x width, like 64 or 62x47; again for more sizes.  [default: 64]",
)
@click.option(
    "--crop",
    help="none, 150 (centre), 125x94 (centre) or 70:195,78:172 (rows, columns).  [default: 150; idx files none]",
)
@click.option("--channels", type=click.Choice([1, 3]), help="3 for colour, 1 for grey.  [default: 3; idx files 1]")
@click.option(
    "--recipe", allow_from_autoenv=False, help="Take crop, size and channels from this recipe; flags go first."
)
@slice_option("Do part I of N, from 0; then `facegan shards index OUT`.", envvar="FACEGAN_SLICE", show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes.  [default: the cores that this job, its container and OMP_NUM_THREADS allow]",
)
@click.option("--shard-size", type=click.IntRange(1), help="Pictures in a shard.")
@click.option(
    "--shard-bytes",
    metavar="N[K|M|G]",
    help="Bytes of the largest shard.  [default: some 64 shards, each at most 256M]",
)
@click.option("--holdout", type=click.IntRange(0), help="Put N pictures into val, all others into train.")
@click.option(
    "--annotations",
    type=FOLDER,
    help="Folder of CelebA's list_* and identity files, txt or csv.  [default: in SRC and beside it]",
)
@click.option("--attributes", is_flag=True, help="Also a .json member of attributes for each sample.")
@click.option(
    "--members",
    type=click.Choice(["png", "jpeg", "webp"]),
    default="png",
    show_default=True,
    help="What the images become: stored PNG (exact, read without a decoder), or the smaller JPEG or WebP.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of JPEG and WebP; WebP at 100 keeps every pixel.  [default: 95]",
)
@click.option(
    "--scratch",
    type=FOLDER,
    help="Where the sets are made first, if OUT is an address; all slices see it.  [default: $SLURM_TMPDIR]",
)
@click.option(
    "--max-rejects",
    metavar="N|N%",
    default="50%",
    show_default=True,
    help="Fail where more pictures than this cannot be used.",
)
@click.option(
    "--wandb",
    "wandb_mode",
    type=click.Choice(["off", "auto", "online", "offline"]),
    default="off",
    show_default=True,
    help="Log the finished sets to W&B, as a job of type preprocess.",
)
def command(
    source: "Where", out: "Where", recipe: str | None, wandb_mode: str, scratch: Path | None, **given: Any
) -> None:
    """Turn the pictures of SRC into shards in OUT/64, OUT/128, ...: one set a size, each picture decoded once.

    SRC is a folder (CelebA's, LFW's, or any tree of jpg, png, webp, bmp, ppm), a zip or tar read in place, a packed
    tar (gz, bz2, xz), or MNIST's idx files. At https://, s3:// or gs:// it is a zip, a tar or a folder of a bucket;
    and a list of addresses (one a line, csv, or parquet, also in parts in a folder, with a column url) is fetched
    picture by picture. Each picture is cropped first, then resized. The same command again continues; while it
    runs, a second one on the same shards is refused. A picture that cannot be used is named, with the reason, in
    rejects.jsonl.

    \b
    Examples:
      facegan preprocess img_align_celeba.zip data/celeba --size 64 --size 128
      facegan preprocess lfw-deepfunneled data/lfw --recipe wgan-gp-lfw
      facegan preprocess mnist data/mnist --size 28 --channels 1
      facegan preprocess faces.tar.gz data/faces --crop none --size 64 --holdout 1000
      facegan preprocess s3://my-bucket/faces.zip data/faces --annotations ~/celeba/Anno
      facegan preprocess faces.parquet data/faces --crop none --max-rejects 40%   # columns url, name, attributes
      facegan preprocess img_align_celeba.zip s3://my-bucket/celeba --scratch /local/scratch
      facegan preprocess img_align_celeba.zip data/small --members webp --quality 100   # exact, half the bytes
      facegan preprocess img_align_celeba.zip data/celeba --slice 3/8   # one of 8 jobs of a Slurm array
      facegan shards index data/celeba                                  # then, once, when all 8 are done
      facegan preprocess faces.zip s3://my-bucket/faces --scratch /shared/tmp --slice 3/8   # sends its own shards
      facegan shards upload /shared/tmp s3://my-bucket/faces            # then, once: closes the set, sends the rest
    """
    from shards.make.writer import preprocess

    folder = out if isinstance(out, Path) else _scratch(out, scratch, given["part"])
    options = _options(source, folder, recipe, given)
    if not isinstance(out, Path) and _is_finished(out, options):
        return
    with _progress() as report:
        outcome = preprocess(options, report)
    _tell(outcome)
    _pass_on(options, out, outcome)
    if outcome.indices and wandb_mode != "off":
        _track(outcome, folder, wandb_mode)


def _scratch(address: "Address", folder: Path | None, part: tuple[int, int]) -> Path:
    from shards.errors import ShardError
    from shards.make.upload import scratch_for

    if part[1] > 1 and folder is None:
        raise click.UsageError(f"{address}: --slice needs --scratch DIR, a folder that all slices see")
    try:
        return scratch_for(address, folder)
    except ShardError as error:
        raise click.UsageError(str(error)) from None


def _is_finished(address: "Address", options: "Options") -> bool:
    from shards.make.upload import is_finished

    if finished := is_finished(address, options):
        click.echo(f"{address}: is there, made with these options from this source")
    return finished


def _options(source: "Where", out: Path, recipe: str | None, given: dict[str, Any]) -> "Options":
    """What the flags say; what they leave to the recipe, if one is named, is as it has it."""
    from shards.errors import ShardError
    from shards.make.layout import parse_bytes
    from shards.make.writer import Options

    flags = {
        "sizes": tuple(map(tuple, given.pop("sizes"))) or None,
        "crop": given.pop("crop"),
        "channels": given.pop("channels"),
    }
    chosen = _of_recipe(recipe) | {name: value for name, value in flags.items() if value is not None}
    workers, part = given.pop("workers") or usual_threads(), given.pop("part")
    try:
        if given["shard_bytes"] is not None:
            given["shard_bytes"] = parse_bytes(given["shard_bytes"])
        return Options(source, out, slice=part, workers=workers, **chosen, **given)
    except ShardError as error:
        raise click.UsageError(str(error)) from None


def _of_recipe(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    from facegan.recipes import load

    recipe = load(name)
    return {"sizes": (tuple(recipe.resolution),), "crop": recipe.crop, "channels": recipe.channels}


@contextmanager
def _progress() -> Iterator["Report"]:
    """A report that opens its progress bar when the first count comes: before, nothing is known."""
    with ExitStack() as stack:
        bars: list[Progress] = []
        rejects = 0

        def report(read: int, rejected: int, total: int) -> None:
            nonlocal rejects
            rejects += rejected
            if not bars:
                bars.append(stack.enter_context(Progress(total, "pictures", label="preprocess")))
            bars[0].update(read, rejected=rejects)

        yield report


def _pass_on(options: "Options", out: "Where", outcome: "Outcome") -> None:
    """Send what was made to OUT, if that is an address; say what is next, if this was one slice of several."""
    index, count = options.slice
    if count == 1:
        if not isinstance(out, Path):
            send(options.out, out)
        return
    then = "" if outcome.indices else f"facegan shards index {options.out}"
    if not isinstance(out, Path):
        send_slice(options, out)
        then = f"facegan shards upload {options.out} {out}"
    if then:
        click.echo(f"Slice {index}/{count} is done. When all are: {then}")


def _tell(outcome: "Outcome") -> None:
    for note in outcome.notes:
        click.echo(f"Note: {note}", err=True)
    if outcome.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcome.left_out.items()))
        click.echo(f"Left out, as they are no pictures: {kinds}")
    for folder, index in outcome.indices.items():
        splits = ", ".join(f"{name} {split.samples:,}" for name, split in index.splits.items())
        size = f"{index.height}x{index.width}"
        click.echo(f"{folder}: {len(index.shards):,} shards of {size} images: {splits}")
        if index.rejects and index.rejects.count:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in index.rejects.by_reason.items())
            click.echo(f"  rejected {index.rejects.count:,} of {index.source.samples:,}: {reasons}")
            click.echo(f"  each is named in {folder / index.rejects.name}")


def _track(outcome: "Outcome", out: Path, mode: str) -> None:
    """Log what each finished set holds to W&B: counts, and where and how it was made."""
    from facegan.run.tracking import Tracker

    made = {folder.name: index for folder, index in outcome.indices.items()}
    config = {name: {"fingerprint": i.fingerprint, "source": i.source.name} for name, i in made.items()}
    counts = {f"sets/{name}/{split}": s.samples for name, i in made.items() for split, s in i.splits.items()}
    counts |= {f"sets/{name}/rejected": i.rejects.count for name, i in made.items() if i.rejects}
    tracker = Tracker(out, mode, config, f"preprocess {out.name}", job_type="preprocess")
    tracker.log(counts)
    tracker.finish()
