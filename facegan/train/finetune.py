"""A run that begins from another run's networks instead of random weights."""

from pathlib import Path

from torch import Tensor, nn

from facegan import recipes
from facegan.errors import FaceganError
from facegan.recipes import Recipe
from facegan.run.checkpoint import below, newest_checkpoint
from facegan.run.snapshot import Snapshot, load_snapshot, run_folder
from facegan.train.state import State

# Fields of a recipe that decide which networks are built.
SHAPING = (
    *("resolution", "channels", "network", "latent_dim", "ngf", "ndf", "kernel", "first_stride", "upsample"),
    *("critic_norm", "generator_norm", "spectral_norm", "minibatch_std", "minibatch_per_map"),
    *("full_size_stage", "self_modulation"),
)
FITTED = "to_range."  # what a network has behind its weights, fitted anew whenever it is stored


def begin_from(state: State, path: Path) -> str:
    """Give `state` the generator of a snapshot and, from its run's newest checkpoint, the discriminator; say which.

    path: a snapshot, or a run folder, which means its newest one. The averaged generator begins as the same; the
    optimizers begin anew. Without a checkpoint beside the snapshot the discriminator keeps its random weights and
    has to catch up: Mo et al. 2020 (arXiv:2002.10964) fine-tune with both. Raises FaceganError where there is no
    snapshot or its networks are of another shape.
    """
    snapshot = load_snapshot(path)
    generator = snapshot.generator.state_dict()
    _take(state.generator, generator, "generator", snapshot)
    if state.average is not None:
        _take(state.average, generator, "generator", snapshot)
    checkpoint = newest_checkpoint(run_folder(snapshot.path) / "checkpoints", lambda _: None)
    if checkpoint is None:
        return f"beginning with the generator of {snapshot.path}; no checkpoint there, the discriminator is new"
    _take(state.discriminator, below(checkpoint.tensors, "discriminator"), "discriminator", snapshot)
    return f"beginning with the generator of {snapshot.path} and the discriminator of {checkpoint.path.name}"


def _take(network: nn.Module, weights: dict[str, Tensor], which: str, snapshot: Snapshot) -> None:
    weights = {name: value for name, value in weights.items() if not name.startswith(FITTED)}
    own = {n: tuple(value.shape) for n, value in network.state_dict().items() if not n.startswith(FITTED)}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(own.keys() | given.keys()):
        if own.get(name) != given.get(name):
            raise FaceganError(
                f"--init-from {snapshot.path}: its {which} is another network than this run's: {name} is "
                f"{given.get(name, 'missing')}, expected {own.get(name, 'none')}; train what it was made by: "
                f"{_networks(snapshot.recipe)}"
            )
    network.load_state_dict(weights, strict=False)


def _networks(recipe: Recipe) -> str:
    """The recipe's name, and what to give where its networks are not those of today's recipe of that name."""
    values, usual = recipes.to_values(recipe), recipes.to_values(recipes.load(recipe.name))
    return recipe.name + "".join(f" --set {f}={values[f]}" for f in SHAPING if values[f] != usual[f])
