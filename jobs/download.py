"""`facegan download`: the public face sets, as their owners distribute them."""

from pathlib import Path

import click

from jobs.progress import Progress

NEXT = {
    "celeba": "facegan preprocess {folder}/img_align_celeba.zip data/celeba --size 64 --size 128",
    "lfw": "facegan preprocess {folder}/lfw-deepfunneled.tgz data/lfw --recipe wgan-gp-lfw",
    "lfw-funneled": "facegan preprocess {folder}/lfw-funneled.tgz data/lfw --recipe wgan-gp-lfw",
    "mnist": "facegan preprocess {folder} data/mnist --size 28",
}


@click.command()
@click.argument("dataset", type=click.Choice(list(NEXT)))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(dataset: str, folder: Path) -> None:
    """Fetch CelebA (1.4 GB), LFW (deep-funneled 100 MB, funneled 230 MB) or MNIST (12 MB) into DIR.

    lfw's own host does not answer everywhere; lfw-funneled comes from where scikit-learn has it.

    Files are kept only where their checksum fits; the same command again continues, or checks what is there.
    CelebA is for non-commercial research only; read the terms of each set.

    \b
    Examples:
      facegan download mnist downloads/mnist
      facegan download celeba downloads/celeba
    """
    from shards.make.download import DATASETS, RemoteFile, download

    def fetch(file: RemoteFile) -> bool:
        with Progress(None, "bytes", label=file.name) as progress:

            def report(gained: int, total: int | None) -> None:
                progress.total = total or 0
                progress.update(gained)

            return download(file, folder, report)

    for file in DATASETS[dataset]:
        click.echo(f"{folder / file.name}: {'fetched' if fetch(file) else 'was there'}, its checksum fits")
    click.echo(f"Next: {NEXT[dataset].format(folder=folder)}")
