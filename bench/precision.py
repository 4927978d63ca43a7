"""Whether bf16 hurts: equal short runs in float32 and bf16, three seeds each, and the distance to the real images.

    python bench/precision.py            dcgan-64's networks at half width, 32 px, synthetic faces: some ten minutes
    python bench/precision.py --json

The distance is the sliced Wasserstein distance (Karras et al. 2018) of as many generated as real images, x 1000,
averaged over the levels. The untrained generator's and that of other real images frame the figures.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from contestants import CASES, Endless, case_recipe  # noqa: E402
from limits import machine_words  # noqa: E402

SIDE, PRECISIONS = 32, ("fp32", "bf16")


def faces(count: int) -> Any:
    """(count, 3, 32, 32) uint8: synthetic faces, centre 150 of 178x218."""
    import numpy as np
    import torch
    from PIL import Image

    from jobs.synthetic.celeba import draw_face

    pictures = []
    for index in range(count):
        picture = Image.fromarray(draw_face(0, index)).crop((14, 34, 164, 184))
        pictures.append(np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def train(images: Any, precision: str, seed: int, options: argparse.Namespace) -> Any:
    """As many generated images as real ones: the averaged generator's after a short run; 0 batches: untrained."""
    from facegan import sampling
    from facegan.run import machine
    from facegan.run.settings import RunSettings
    from facegan.train.draws import RandomNumbers
    from facegan.train.feed import Feed
    from facegan.train.state import State
    from facegan.train.step import Step

    changes = {"resolution": str(SIDE), "ngf": 32, "ndf": 32, "batch_size": 64, "flip": True, "ema_kimg": 2.0}
    recipe = case_recipe(CASES["dcgan-64"], changes)
    here = machine.start(RunSettings(precision=precision, threads=options.threads, device="cpu"))
    state = State(recipe, seed, here)
    step, stream = Step(recipe, state, here), Endless((SIDE, SIDE, 3), recipe.batch_size, here.device)
    stream.images, stream.samples = images, len(images) // recipe.batch_size * recipe.batch_size
    numbers = RandomNumbers(recipe, seed, state.generator, state.discriminator)
    with Feed(stream, numbers, recipe, here, 0, options.batches * recipe.batch_size) as feed:
        for batch in feed:
            step(batch)
    z = sampling.latents(seed, len(images), recipe.latent_dim)
    return sampling.generate(state.shown_generator(), z, recipe.value_range)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Distances by precision and seed."""
    from facegan.metrics.swd import sliced_wasserstein

    real = faces(2 * options.images)
    real, other = real[: options.images], real[options.images :]
    result: dict[str, Any] = {"machine": machine_words("cpu"), "batches": options.batches, "images": options.images}
    result["other real images"] = round(sliced_wasserstein(real, other)["mean"], 1)
    for precision in PRECISIONS:
        result[precision] = [
            round(sliced_wasserstein(real, train(real, precision, seed, options))["mean"], 1)
            for seed in range(options.seeds)
        ]
    options.batches = 0
    result["untrained"] = round(sliced_wasserstein(real, train(real, "fp32", 0, options))["mean"], 1)
    return result


def table(result: dict[str, Any]) -> str:
    """For docs/benchmarks.md."""
    seeds = range(len(result["fp32"]))
    lines = [f"SWD to {result['images']} real images after {result['batches']} batches of 64; lower is better.", ""]
    lines += [
        "| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
        "|---|" + "---:|" * (len(seeds) + 1),
    ]
    for precision in PRECISIONS:
        values = result[precision]
        lines.append(f"| {precision} | {' | '.join(map(str, values))} | {statistics.mean(values):.1f} |")
    lines += ["", *(f"- {label}: {result[label]}" for label in ("untrained", "other real images"))]
    return "\n".join(lines)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 takes all cores")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.batches, options.images = 150, 512
    result = measure(options)
    print(json.dumps(result) if options.json else f"{result['machine']}\n\n{table(result)}")


if __name__ == "__main__":
    main()
