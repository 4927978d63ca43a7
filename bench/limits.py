"""What a training step costs without waste, and what the machine could do at most."""

import os
import platform
import time
from pathlib import Path
from typing import Any

from contestants import finish


def work_per_image(recipe: Any) -> float:
    """FLOPs that one real image costs a step without waste, from one forward pass of each network, f and g.

    A backward pass costs a forward pass for the weights and one for the inputs. DCGAN: g for fakes; 2 (f + 2f) for
    the discriminator on real and fake; f + f through it and 2g in the generator's step. WGAN-GP, a critic without a
    norm: g + 6f; for the penalty f, f for the slope, 2f for the slope's own gradients; 3g + 2f in the generator's
    step, every n_critic-th time. What the first layers save is left out.
    """
    from torch.utils.flop_counter import FlopCounterMode

    f, g = forward_work(recipe, FlopCounterMode)
    if recipe.gp_weight:
        return g + 10 * f + (3 * g + 2 * f) / recipe.n_critic
    return g + 6 * f + 2 * f + 2 * g


def forward_work(recipe: Any, counter: Any) -> tuple[float, float]:
    """FLOPs of one image through the discriminator and through the generator."""
    import torch

    from facegan.networks import build_discriminator, build_generator

    flops = []
    with torch.device("meta"), torch.no_grad():
        inputs = (torch.empty(2, recipe.channels, *recipe.resolution), torch.empty(2, recipe.latent_dim))
        for network, x in zip((build_discriminator(recipe), build_generator(recipe)), inputs, strict=True):
            with counter(display=False) as counted:
                network(x)
            flops.append(counted.get_total_flops() / 2)
    return flops[0], flops[1]


def peak(device: str, threads: int) -> dict[str, float]:
    """GFLOP/s of a typical convolution (128 to 256 maps, kernel 4, stride 2, channels_last), the best of ten."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    rates = {}
    batch = 1024 if device == "cuda" else 128
    for name, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "tf32" and device == "cpu":
            continue
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        x = torch.randn(batch, 128, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(256, 128, 4, 4, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        times = []
        for _ in range(13):
            begun = time.perf_counter()
            F.conv2d(x, w, stride=2, padding=1)
            finish(x.device)
            times.append(time.perf_counter() - begun)
        rates[name] = round(2 * batch * 256 * 128 * 16 * 64 / min(times) / 1e9)
    return rates


def machine_words(device: str) -> str:
    """Processor, cores, versions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores{gpu}, Python {platform.python_version()}, torch {torch.__version__}"
