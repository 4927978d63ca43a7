"""`facegan report`: one self-contained HTML page about one or several runs."""

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="The page.  [default: report.html in RUN]"
)
def command(runs: tuple[Path, ...], out: Path | None) -> None:
    """Write one HTML page about RUNS: samples over the training, curves, metrics, configuration, restarts.

    The page needs no network and can be sent by mail. Several runs stand side by side, beside the first one's page
    unless --out says where. Of several, what is no run is passed over, such as a sweep's table.

    \b
    Examples:
      facegan report runs/dcgan-64
      facegan report runs/dcgan-64 runs/wgan-gp-64 --out compare.html
      facegan report runs/sweep/* --out sweep.html
    """
    from facegan.report.page import write_report

    chosen = [path for path in runs if (path / "config.json").is_file()] if len(runs) > 1 else list(runs)
    if passed_over := [path for path in runs if path not in chosen]:
        click.echo(f"no runs, passed over: {', '.join(map(str, passed_over))}", err=True)
    chosen = chosen or list(runs[:1])
    name = "report.html" if len(chosen) == 1 else "compare.html"
    page = write_report(chosen, out or chosen[0] / name)
    click.echo(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
