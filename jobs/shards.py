"""`facegan shards`: index foreign tars or close our sets, verify a set bit by bit, describe it, send it."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.progress import Progress
from jobs.slices import slice_option

if TYPE_CHECKING:
    from shards.format.index import ShardIndex
    from shards.make.address import Address
    from shards.make.plan import Options
    from shards.make.reading import ForeignTars

COPIES = {"s3": "aws s3 sync", "gs": "gcloud storage rsync -r"}


class LocalFolder(click.Path):
    """A folder of this machine; an address is refused in a line that says what to do."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        scheme, is_address, _ = str(value).partition("://")
        if not is_address:
            return super().convert(value, param, ctx)
        from shards.read.remote import shown

        address, copy = shown(str(value)), COPIES.get(scheme)
        return self.fail(
            f"{address}: this needs a folder of this machine: copy the set first"
            f"{f' ({copy} {address} DIR)' if copy else ''}, then give the copy. Training takes addresses as they "
            "are, and checks the hash of each shard that it fetches",
            param,
            ctx,
        )


FOLDER = LocalFolder(exists=True, file_okay=False, path_type=Path)


@click.group(short_help="Index, verify, describe or send a set of shards.")
def command() -> None:
    """Index, verify, describe or send a set of shards.

    \b
    Examples:
      facegan shards index data/celeba          close a set that was made in slices
      facegan shards verify data/celeba/64      find any flipped bit; exit 1 if damaged
      facegan shards info data/celeba/64        counts, splits, shards, transform
      facegan shards upload data/celeba s3://my-bucket/celeba
    """


@command.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--size", type=click.IntRange(1), help="Resize foreign pictures to SIZE x SIZE while they are read.")
@click.option("--crop", help="Cut this out of foreign pictures first: 150, 125x94; default the largest square.")
@click.option("--channels", type=click.Choice([1, 3]), default=3, help="Grey or RGB; foreign tars only.")
@click.option(
    "--index",
    "index_folder",
    type=LocalFolder(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Put the index of foreign tars there, with links to them, where DIR of the tars cannot be written.",
)
@slice_option("Read part I of N of foreign tars, from 0.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def index(folder: Path, index_folder: Path | None, part: tuple[int, int], as_json: bool, **how: Any) -> None:
    """Write the index of a set, which makes it one.

    DIR is the OUT of `facegan preprocess --slice`: every size of the set is closed, unless a slice is missing.
    Or it holds anybody's WebDataset tars: each picture is decoded once, and what cannot be used is listed
    in rejects.jsonl. A word in a tar's name says its split: set-val-000.tar is val; without one it is train.
    Whole numbers in .cls and .json members become attributes and identities (docs/own-data.md).
    With --slice several jobs read the tars; the same command without it then ends the work. Killed, it goes on.

    \b
    Examples:
      facegan shards index data/celeba
      facegan shards index /scratch/ffhq-tars --size 128
      facegan shards index /scratch/ffhq-tars --size 128 --slice 3/100   # one of 100 jobs of a Slurm array
      facegan shards index /shared/read-only/tars --index data/tars    # then: --data data/tars
    """
    from shards.make.closing import close_set, sets_begun
    from shards.make.reading import ForeignTars

    if index_folder is None and sets_begun(folder):
        if part[1] > 1:
            raise click.UsageError("--slice is for foreign tars: this set is closed as a whole, without it")
        closed = close_set(folder)
    else:
        tars = ForeignTars(folder, index_folder=index_folder, **how)
        foreign = _index_foreign(tars, part)
        if foreign is None:
            return
        closed = {tars.place: foreign}
    if as_json:
        click.echo(json.dumps({str(where): _summary(each) for where, each in closed.items()}))
    else:
        _show(closed)


def _show(closed: "dict[Path, ShardIndex]") -> None:
    for where, index in closed.items():
        splits = ", ".join(f"{name} {split.samples:,}" for name, split in index.splits.items())
        click.echo(f"{where}: {_counts(index)}: {splits}")
        if index.rejects and index.rejects.count:
            reasons = ", ".join(f"{reason} {count}" for reason, count in index.rejects.by_reason.items())
            click.echo(f"  {index.rejects.count:,} left out ({reasons}); each is in {where / index.rejects.name}")


def _index_foreign(tars: "ForeignTars", part: tuple[int, int]) -> "ShardIndex | None":
    """The index of the tars; None where only a part of them was to be read."""
    from shards.make.foreign import index_tars, known_index, read_tars

    index = known_index(tars)
    if index is not None:
        return index
    with Progress(None, "pictures", label="index") as progress:
        if part[1] == 1:
            return index_tars(tars, progress.update)
        read_tars(tars, part, progress.update)
    click.echo(f"Slice {part[0]}/{part[1]} is read. When all are, the same command without --slice")
    return None


@command.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.argument("address", metavar="ADDRESS")
def upload(folder: Path, address: str) -> None:
    """Send the sets of DIR (OUT, or OUT/64) to an address, s3:// or gs://; closes those made in slices first.

    DIR may be the --scratch of the slices. The index comes last; the same command again sends what is missing. One
    writer at a time: another is refused.

    \b
    Examples:
      facegan shards upload data/celeba s3://my-bucket/celeba
      facegan train dcgan-64 --data s3://my-bucket/celeba/64 --stage /local/scratch
    """
    from shards.make.address import Address, parse_where

    where = parse_where(address)
    if not isinstance(where, Address):
        raise click.UsageError(f"{address}: expected an address, s3://bucket/folder or gs://bucket/folder")
    from shards.make.upload import refuse_unwritable, scratch_for

    refuse_unwritable(where)
    scratch = scratch_for(where, folder)
    send(scratch if scratch.exists() else folder, where)


def send_slice(options: "Options", address: "Address") -> None:
    """Send the shards of a slice."""
    from shards.make.upload import upload_slice

    with Progress(None, "bytes", label=f"upload {address}") as progress:
        upload_slice(options, address, progress.update)


def send(folder: Path, address: "Address") -> None:
    """Send the sets of a folder, and say what is there then."""
    from shards.make.upload import upload as send_sets

    with Progress(None, "bytes", label=f"upload {address}") as progress:
        sent = send_sets(folder, address, progress.update)
    for where, index in sent.items():
        click.echo(f"{where}: {_counts(index)}; the copy in {folder} is not needed any more")


@command.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@slice_option("Check part I of N, from 0.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def verify(ctx: click.Context, folder: Path, part: tuple[int, int], as_json: bool) -> None:
    """Check every byte of a set: exit 1 where one is not what it was.

    DIR is OUT/64, or OUT for all sizes. Names the shard and the sample of each finding.

    \b
    Examples:
      facegan shards verify data/celeba
      facegan shards verify data/celeba/64 --json
      facegan shards verify data/large/64 --slice 3/100   # one of 100 jobs of a Slurm array
    """
    from shards.format.index import NAME
    from shards.read.verify import verify_set

    places = [folder] if (folder / NAME).exists() else sorted(path.parent for path in folder.glob(f"*/{NAME}"))
    findings: dict[Path, Any] = {}
    for place in places or [folder]:
        size = sum(path.stat().st_size for path in place.glob("*.tar")) if part[1] == 1 else None
        with Progress(size, "bytes", label=f"verify {place}") as progress:
            findings[place] = verify_set(place, progress.update, part)
    damaged = any(findings.values())
    if as_json:
        listed = {str(place): [dataclasses.asdict(each) for each in damage] for place, damage in findings.items()}
        click.echo(json.dumps({"whole": not damaged, "damage": listed}))
    else:
        for place, damage in findings.items():
            click.echo("\n".join(f"{place}/{each}" for each in damage) or f"{place}: whole")
    if damaged:
        ctx.exit(1)


@command.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--contact-sheet", type=click.Path(dir_okay=False, path_type=Path), help="Draw random samples: PNG.")
@click.option("--n", default=64, show_default=True, type=click.IntRange(1, 4096), help="Samples on the sheet.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of samples.")
@click.option("--split", default=None, help="Split to draw from; default the first.")
def info(folder: Path, as_json: bool, contact_sheet: Path | None, n: int, seed: int, split: str | None) -> None:
    """Describe a set; with --contact-sheet, draw random samples of it.

    \b
    Examples:
      facegan shards info data/celeba/64
      facegan shards info data/celeba/64 --contact-sheet sheet.png --n 100
    """
    from shards.read.opening import find_set

    place, index = find_set(folder)
    click.echo(json.dumps(_summary(index)) if as_json else _description(place, index))
    if contact_sheet is not None:
        from shards.read.opening import open_set
        from shards.read.sheet import draw_sheet

        draw_sheet(open_set(place).split(split or next(iter(index.splits))), n, seed, contact_sheet)
        click.echo(f"contact sheet: {contact_sheet}", err=as_json)


def _summary(index: "ShardIndex") -> dict[str, Any]:
    content = index.to_json()
    left_out = ("shards", "record", "sha256")
    return {
        **{key: value for key, value in content.items() if key not in left_out},
        "samples": sum(split.samples for split in index.splits.values()),
        "shards": len(index.shards),
        "bytes": int(index.shards.bytes.sum()),
        "fingerprint": index.fingerprint,
    }


def _counts(index: "ShardIndex") -> str:
    samples = sum(split.samples for split in index.splits.values())
    size = f"{index.height}x{index.width}x{index.channels}"
    total = int(index.shards.bytes.sum()) / 1e6
    return f"{samples:,} images {size} in {len(index.shards)} shards, {total:,.1f} MB"


def _description(place: Path, index: "ShardIndex") -> str:
    transform = index.transform
    lines = [
        f"{place}: {_counts(index)}",
        f"members      {index.members}{f', quality {index.encoding.quality}' if index.encoding else ''}",
        *(f"split        {name}: {each.samples:,} in {each.shards} shards" for name, each in index.splits.items()),
        f"source       {index.source.name} ({index.source.kind}, {index.source.samples:,} pictures)",
        f"transform    crop {transform.crop}, {transform.filter}" if transform else "transform    none",
        f"attributes   {', '.join(index.attributes) or 'none'}",
        f"rejects      {index.rejects.count:,}" if index.rejects else "rejects      none",
        f"made by      {', '.join(f'{name} {version}' for name, version in index.software.items()) or 'unknown'}",
        f"fingerprint  {index.fingerprint}",
    ]
    return "\n".join(lines)
