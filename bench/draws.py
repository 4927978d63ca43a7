"""What a batch's random numbers cost the host: one thread, beside the training, the best of twelve batches.

python bench/draws.py
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from limits import machine_words  # noqa: E402

from facegan import recipes  # noqa: E402
from facegan.networks import build_discriminator, build_generator  # noqa: E402
from facegan.train.draws import RandomNumbers, StepDraws  # noqa: E402
from facegan.train.tensors import tensors_of  # noqa: E402

BATCHES = 12


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{machine_words('cpu')}\n")
    print("| recipe, batch | ms a batch | MB a batch | MB if masks were float32 | enough for img/s |")
    print("|---|---:|---:|---:|---:|")
    for name in sorted(recipes.recipe_classes()):
        recipe = recipes.load(name)
        with torch.device("meta"):
            networks = build_generator(recipe), build_discriminator(recipe)
        numbers, size, times = RandomNumbers(recipe, 0, *networks), recipe.batch_size, []
        for k in range(BATCHES):
            begun = time.thread_time()
            drawn = numbers.step(k * size, size)
            times.append(time.thread_time() - begun)
        megabytes = sum(tensor.nbytes for tensor in tensors_of(drawn)) / 1e6
        row = (
            1000 * min(times),
            f"{megabytes:.2f}",
            f"{megabytes + saved(drawn):.2f}",
            f"{size / min(times):,.0f}",
        )
        print(f"| {name}, {size} | {row[0]:.2f} | " + " | ".join(row[1:]) + " |", flush=True)


def saved(drawn: StepDraws) -> float:
    """Megabytes that masks of 32 bits a number would take more."""
    steps = [*drawn.critic, *([drawn.generator] if drawn.generator else [])]
    masks = [
        mask for step in steps for view in (step, step.fake, step.real, step.mixed) for mask in view.dropout or ()
    ]
    return sum(4 * mask.mask().numel() - mask.bits.nbytes for mask in masks) / 1e6


if __name__ == "__main__":
    main()
