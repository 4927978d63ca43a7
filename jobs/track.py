"""`facegan track`: what lies in a run folder, replayed to a tracker."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Choice(["wandb", "trackio", "tensorboard", "mlflow"]),
    required=True,
    help="The tracker.",
)
@click.option("--project", default="facegan", help="The tracker's project or experiment.")
def command(run: Path, target: str, project: str) -> None:
    """Send statistics, metrics, sample grids and configuration of RUN to a tracker, by images seen.

    Only what the tracker does not have yet is sent: call it as often as you like, during a training or after it, on
    a laptop or a login node. tensorboard writes to RUN/tensorboard; wandb follows WANDB_MODE and goes offline
    without a key; mlflow follows MLFLOW_TRACKING_URI.

    \b
    Examples:
      facegan track runs/dcgan-64 --to tensorboard
      facegan track runs/dcgan-64 --to wandb --project faces
    """
    from facegan.track.replay import replay
    from jobs.progress import Progress

    with Progress(None, "events", label="track") as bar:
        replayed = replay(run, target, project, lambda done, _: bar.update(done - bar.count))
    click.echo(f"{replayed.place}: {replayed.sent} events sent, {replayed.known} were there")
