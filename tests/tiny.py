"""Tiny runs for the tests: every recipe made small, a stream of made-up images, and a process to kill.

`python tests/tiny.py RECIPE RUN_DIR KIMG [FIELD=VALUE ...]` trains one; with RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT set it is one rank of several.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch

from facegan import owner, recipes
from facegan.networks import standing
from facegan.recipes import Recipe
from facegan.run import machine
from facegan.run.settings import RunSettings
from facegan.train.job import Job
from facegan.train.loop import train

standing.LATENTS = 64  # some networks here are as large as published

SMALL = {
    "dcgan-64": {"resolution": "16", "ngf": 4, "ndf": 4},
    "wgan-64": {"resolution": "16", "ngf": 4, "ndf": 4},
    "face-64": {"resolution": "16", "ngf": 4, "ndf": 4, "batch_size": 8},  # whole groups of minibatch_std
    "face-128": {"resolution": "16", "ngf": 4, "ndf": 4, "batch_size": 8},
    "dcgan-128": {"resolution": "32", "ngf": 4, "ndf": 4},
    "wgan-gp-128": {"resolution": "32", "ngf": 4, "ndf": 4},
    "mlp-64": {"resolution": "8"},
    "mlp-64-improved": {"resolution": "8"},
}


class MadeUpImages:
    """A stream as the trainer reads it: image i of `samples` is always the same, positions go round."""

    def __init__(self, recipe: Recipe, samples: int = 96, rank: int = 0, world: int = 1) -> None:
        shape = (samples, *recipe.resolution, recipe.channels)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
        self.images = images.permute(0, 3, 1, 2)
        self.batch, self.part, self.rank, self.nimg = recipe.batch_size, recipe.batch_size // world, rank, 0

    @property
    def samples(self) -> int:
        return len(self.images)

    def seek(self, nimg: int) -> None:
        self.nimg = nimg

    def __next__(self) -> torch.Tensor:
        first = self.nimg + self.rank * self.part
        self.nimg += self.batch
        return self.images[torch.arange(first, first + self.part) % self.samples]


ADAPTIVE = {"diffaugment": "color,translation", "augment_target": 0.3, "augment_kimg": 0.05}  # changes of a recipe


def tiny_recipe(name: str, **values: object) -> Recipe:
    return recipes.from_values(name, {"batch_size": 6, "kimg": 0.06, "epochs": 0.0} | SMALL.get(name, {}) | values)


def tiny_job(recipe: Recipe, run_dir: Path, **settings: object) -> Job:
    defaults = {
        "log_kimg": 0.012,
        "sample_kimg": 0.03,
        "samples": 4,
        "threads": 1,
        "wandb": "off",
        "precision": "fp32",
    }
    asked = RunSettings(run_dir=str(run_dir), **(defaults | settings))
    here = machine.start(asked)
    stream = MadeUpImages(recipe, rank=here.rank, world=here.world)
    held_out = MadeUpImages(recipe, 7).images
    return Job(recipe, machine.resolved(asked, here), stream, here, {"fingerprint": "made up"}, held_out=held_out)


def result(run_dir: Path) -> tuple[str, list[dict[str, float]]]:
    """What must not change by interruptions: the last checkpoint's hash, and the stats but for the clock's."""
    last = max((run_dir / "checkpoints").glob("nimg-*"))
    digest = hashlib.sha256((last / "state.safetensors").read_bytes()).hexdigest()
    rows = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    return digest, [{k: v for k, v in row.items() if not k.startswith(("speed/", "time/"))} for row in rows]


def main() -> None:
    if "TINY_STALE_AFTER" in os.environ:
        owner.STALE_AFTER = float(os.environ["TINY_STALE_AFTER"])
        owner.HEARTBEAT = owner.STALE_AFTER / 10
    name, run_dir, kimg, *changes = sys.argv[1:]
    values = {key: json.loads(value) for key, value in (change.split("=", 1) for change in changes)}
    settings = {key: values.pop(key) for key in list(values) if key in RunSettings.__dataclass_fields__}
    job = tiny_job(tiny_recipe(name, kimg=float(kimg), **values), Path(run_dir), **settings)
    outcome = train(job)
    job.machine.leave()
    print(json.dumps({"state": outcome.state, "nimg": outcome.nimg, "reason": outcome.reason}), flush=True)
    raise SystemExit(0 if "RANK" in os.environ else outcome.exit_code)


if __name__ == "__main__":
    main()
