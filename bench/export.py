"""What rounding a generator's weights costs: pixels and sliced Wasserstein distance, float16 and bytes.

python bench/export.py RUN --data SHARDS [--n 320]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facegan import sampling
from facegan.export.generator import Generator
from facegan.export.lower import lower
from facegan.export.rounding import round_weights
from facegan.metrics.swd import sliced_wasserstein
from facegan.run.snapshot import load_snapshot
from shards import open_set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, default=320)
    options = parser.parse_args()
    snapshot = load_snapshot(options.run)
    recipe = snapshot.recipe
    held_out = open_set(options.data, recipe.resolution.height).split("test")
    real = torch.as_tensor(np.asarray(held_out.batch(np.arange(options.n))))
    real = real if real.shape[1] == recipe.channels else real.permute(0, 3, 1, 2)
    z = sampling.latents(0, options.n, recipe.latent_dim)
    program = lower(snapshot.generator, recipe.latent_dim)

    def draw(tensors: dict[str, Tensor]) -> Tensor:
        generator = Generator(program.layers, tensors)
        with torch.no_grad():
            return torch.cat([sampling.to_uint8(generator(part), recipe.value_range) for part in z.split(32)])

    rows = {"float32": program.tensors, "float16": {k: t.half().float() for k, t in program.tensors.items()}}
    rows |= {f"{2 * n + 1} values": round_weights(program, n).program.tensors for n in (127, 31, 15, 7)}
    exact = draw(program.tensors)
    print("| weights | mean of 255 | largest | swd |\n|---|---:|---:|---:|")
    for name, tensors in rows.items():
        images = draw(tensors)
        apart = (images.float() - exact.float()).abs()
        swd = sliced_wasserstein(real, images)["mean"]
        print(f"| {name} | {apart.mean():.3f} | {apart.max():.0f} | {swd:.2f} |", flush=True)


if __name__ == "__main__":
    main()
