"""The science of facegan: recipes, networks, losses, the training loop, metrics, checkpoints, report."""

__version__ = "0.1.0"
