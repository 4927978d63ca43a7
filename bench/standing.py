"""What standing statistics change: every recipe with BatchNorm in its generator, before and after, by swd1k.

    python bench/standing.py                                           synthetic faces
    python bench/standing.py --data img_align_celeba.zip --kimg 8      the table of docs/metrics.md

Each recipe is trained for the same --kimg in batches of --batch-size, on its own crop and size. Then the weights
that are shown (the averaged ones where the recipe has them) are drawn from twice: with the running statistics that
the training left in them, and with those measured for these weights (`facegan.networks.standing`). swd1k compares
1,024 samples with as many held-out pictures. FACEGAN_TEST_DATA/celeba-10k is found without --data. Everything lies
in --work; the same command again continues there.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from limits import machine_words  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from facegan import recipes, sampling  # noqa: E402
from facegan.metrics.swd import sliced_wasserstein  # noqa: E402
from facegan.networks import build_generator  # noqa: E402
from facegan.networks.standing import set_standing_statistics  # noqa: E402
from facegan.recipes import Recipe  # noqa: E402
from facegan.run.checkpoint import below, newest_checkpoint  # noqa: E402
from shards import open_set  # noqa: E402

N, SYNTHETIC = 1024, 6000


def main() -> None:
    """Read the command line, print the table a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="pictures, as facegan preprocess takes them")
    parser.add_argument("--kimg", type=float, default=8.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--recipe", action="append", help="again for more; all with BatchNorm in the generator")
    parser.add_argument("--work", type=Path, default=Path("runs/standing"))
    options = parser.parse_args()
    data = options.data or found_data() or synthetic(options.work)
    print(f"{machine_words('cpu')}; {Path(data).name}\n")
    print("| recipe | averaged | swd1k before | after | pictures change by, of 255 rms |\n|---|---|---:|---:|---:|")
    for name in options.recipe or with_batchnorm():
        print(measured(options, name, data), flush=True)


def with_batchnorm() -> Iterator[str]:
    """Recipes whose generator has a BatchNorm layer, the small ones first."""
    for name in sorted(recipes.recipe_classes(), key=lambda name: recipes.load(name).resolution.height):
        with torch.device("meta"):
            layers = build_generator(recipes.load(name)).modules()
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in layers):
            yield name


def found_data() -> str:
    """celeba-10k among the tests' pictures, or ""."""
    path = Path(os.environ.get("FACEGAN_TEST_DATA", ""), "celeba-10k", "img_align_celeba.zip")
    return str(path) if path.is_file() else ""


def synthetic(work: Path) -> str:
    """The demo's faces, drawn once."""
    from jobs.synthetic.celeba import write_celeba

    out = work / "faces"
    if not (out / "list_attr_celeba.txt").exists():
        write_celeba(out, SYNTHETIC)
    return str(out)


def measured(options: argparse.Namespace, name: str, data: str) -> str:
    """Make the recipe's set, train it, and draw with both statistics: one row."""
    shards, run = options.work / "shards" / name, options.work / f"{name}-{options.kimg:g}"
    if not shards.exists() or not any(shards.rglob("index.json")):
        facegan("preprocess", data, shards, "--recipe", name, "--holdout", N)
    length = ("--kimg", options.kimg, "--epochs", 0, "--batch-size", options.batch_size)
    quiet = ("--wandb", "off", "--sample-kimg", 0, "--snapshot-kimg", 0)
    facegan("train", name, "--data", shards, "--run-dir", run, *length, *quiet)
    recipe = recipes.from_values(name, {})
    held_out = open_set(shards, recipe.resolution.height).split("val")
    real = held_out.batch(torch.arange(N).numpy()).contiguous()
    before, after = images(recipe, run)
    apart = (before.float() - after.float()).square().mean().sqrt()
    swd = [sliced_wasserstein(real, drawn)["mean"] for drawn in (before, after)]
    averaged = f"{recipe.ema_kimg:g} kimg" if recipe.ema_kimg else "no"
    return f"| `{name}` | {averaged} | {swd[0]:.1f} | {swd[1]:.1f} | {apart:.1f} |"


def images(recipe: Recipe, run: Path) -> tuple[Tensor, Tensor]:
    """The same latents drawn with the statistics that training left, and with those of the weights."""
    checkpoint = newest_checkpoint(run / "checkpoints", print)
    if checkpoint is None:
        raise SystemExit(f"{run}: no whole checkpoint")
    shown = below(checkpoint.tensors, "average") or below(checkpoint.tensors, "generator")
    generator = build_generator(recipe).eval()
    generator.load_state_dict(shown)
    z = sampling.latents(1, N, recipe.latent_dim)
    before = sampling.generate(generator, z, recipe.value_range)
    set_standing_statistics(generator, recipe.latent_dim)
    return before, sampling.generate(generator, z, recipe.value_range)


def facegan(*arguments: object) -> None:
    """Run a command of the project; its failure ends this one."""
    subprocess.run([sys.executable, "-m", "jobs", *map(str, arguments)], check=True, cwd=ROOT, stdout=sys.stderr)


if __name__ == "__main__":
    main()
