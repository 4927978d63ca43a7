"""One run as the trainer is asked for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from facegan.recipes import Recipe
from facegan.run.machine import Machine
from facegan.run.settings import RunSettings
from facegan.train.feed import Stream

Row = dict[str, float]  # one line of stats.jsonl


@dataclass(frozen=True)
class Job:
    """One run: what to compute, on what, where."""

    recipe: Recipe
    settings: RunSettings  # resolved: precision, cuda_graphs and threads are not "auto"
    stream: Stream
    machine: Machine
    data: dict[str, Any] = field(default_factory=dict)  # fingerprint and description of the set
    sources: dict[str, str] = field(default_factory=dict)  # where each value of the configuration came from
    real: Tensor | None = None  # (n, C, H, W) uint8 for the grid of real images
    held_out: Tensor | None = None  # (n, C, H, W) uint8 not trained on, for the held-out losses
    # After every step with an empty row, and with each line of stats: (nimg, total, row).
    progress: Callable[[int, int, Row], None] = lambda nimg, total, row: None
    evaluate: Callable[[torch.nn.Module, int], Row] | None = None  # metrics of a generator, all ranks

    @property
    def total_nimg(self) -> int:
        """Length in real images: kimg or epochs of the recipe, up to whole batches."""
        images = self.recipe.kimg * 1000 or self.recipe.epochs * self.stream.samples
        return math.ceil(round(images, 6) / self.recipe.batch_size) * self.recipe.batch_size
