"""Doubling, then convolving, against one transposed convolution: a generator's pass and gradients, in turns.

    python bench/resampling.py                       face-64's generator, batch 64, as this machine takes it
    python bench/resampling.py --threads 1 --cpu-time   a busy machine: seconds of the processor, not of the clock

Both have the same weights and give the same images; the line before the table says how far apart they are.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from limits import machine_words  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from facegan import recipes  # noqa: E402
from facegan.networks import build_generator  # noqa: E402
from facegan.networks.convolution import Conv2d  # noqa: E402
from facegan.networks.resampling import UpConv2d  # noqa: E402


class Doubled(nn.Module):
    """What `UpConv2d` is the short form of."""

    def __init__(self, layer: UpConv2d) -> None:
        super().__init__()
        k = layer.kernel_size[0]
        self.layer = Conv2d(layer.in_channels, layer.out_channels, k, padding=k // 2, bias=layer.bias is not None)
        self.layer.load_state_dict(layer.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(nn.functional.interpolate(x, scale_factor=2))


def plain(generator: nn.Module) -> nn.Module:
    """The generator with every `UpConv2d` computed in two steps."""
    for module in list(generator.modules()):
        for name, child in module.named_children():
            if isinstance(child, UpConv2d):
                setattr(module, name, Doubled(child))
    return generator


def passes(generator: nn.Module, z: Tensor) -> None:
    """Forward and backward, as in a generator's update."""
    torch.autograd.grad(generator(z).square().sum(), list(generator.parameters()))


def seconds(run: Callable[[], None], clock: Callable[[], float]) -> float:
    """Of one run, the accelerator waited for."""
    start = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="face-64")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to PyTorch")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe, pair = recipes.load(options.recipe), []
    for change in (plain, nn.Module.train):
        torch.manual_seed(0)
        generator = change(build_generator(recipe)).to(options.device, memory_format=torch.channels_last)
        pair.append(generator)
    z = torch.randn(options.batch, recipe.latent_dim, device=options.device)
    apart = (pair[0](z) - pair[1](z)).abs().max().item()
    clock = time.process_time if options.cpu_time else time.perf_counter
    rounds = [[seconds(lambda g=g: passes(g, z), clock) for g in pair] for _ in range(options.rounds + 1)][1:]
    two, one = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    print(f"{machine_words(options.device)}, {torch.get_num_threads()} threads; images {apart:.1e} apart\n")
    print("| generator of, batch | doubling, convolution: s | one transposed convolution: s | ratio |")
    print("|---|--:|--:|--:|")
    print(f"| {options.recipe}, {options.batch} | {two:.3f} | {one:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
