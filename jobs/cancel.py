"""`facegan cancel`: cancel recorded jobs; a training saves before it ends."""

import click

from facegan.errors import UsageError
from jobs.slurm import calls, queue, records


@click.command()
@click.argument("jobs", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every live job recorded in this directory.")
def command(jobs: tuple[str, ...], everything: bool) -> None:
    """Cancel JOBS: job ids, or run folders with all that waits for them. A training saves first (SIGTERM).

    \b
    Examples:
      facegan cancel 1234
      facegan cancel runs/dcgan-128
      facegan cancel --all
    """
    if bool(jobs) == everything:
        raise UsageError("say which: job ids or run folders, or --all")
    queued = queue.read()
    wanted = [record for job in jobs for record in records.find(job, queued)]
    chosen = records.load_all(queued) if everything else wanted
    live = list(dict.fromkeys(r.job for r in chosen if r.job in queued and queued[r.job].is_live))
    if not live:
        click.echo("Nothing to cancel: none of them is waiting or running.")
        return
    calls.scancel(live)
    click.echo(f"Cancelled {', '.join(live)}. A training saves first; the same command again continues it.")
