"""What is behind a stored generator's weights as plain layers.

`MatchedMoments`: means of blocks, a matrix product, bilinear enlarging as a convolution. `MatchedSpectrum`: the
border repeated, a convolution.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from facegan.networks.spectrum import MatchedSpectrum


def matched(emit: Callable[..., int], source: int, module: Any, shape: tuple[int, ...]) -> int:
    """The last of the layers emitted; `source` and none of them where the module changes nothing."""
    if not any(buffer.any() for buffer in module.buffers()):
        return source
    part = spectrum if isinstance(module, MatchedSpectrum) else light
    change = part(emit, source, module, shape)
    changed = emit("add", source, change, shape=shape)
    return emit("clip", changed, shape=shape, low=module.low, high=module.high)


def spectrum(emit: Callable[..., int], source: int, module: Any, shape: tuple[int, ...]) -> int:
    channels, height, width = shape
    border = module.border
    around = emit("edges", source, shape=(channels, height + 2 * border, width + 2 * border), border=border)
    return emit(
        "conv", around, shape=shape, weight=module.weight, bias=torch.zeros(channels), padding=0, up=1, exact=True
    )


def light(emit: Callable[..., int], source: int, module: Any, shape: tuple[int, ...]) -> int:
    channels, side, factor = module.channels, module.side, module.factor
    small = emit("mean", source, shape=(channels, side, side), factor=factor)
    flat = emit("reshape", small, shape=(channels * side * side,))
    rows = torch.cat([module.change, module.bias[None]]).view(-1, channels, side, side)
    padded = F.pad(rows, (1, 1, 1, 1), mode="replicate").flatten(1)  # what is beyond the border is as the border
    change = emit("dense", flat, shape=padded[0].shape, weight=padded[:-1].T, bias=padded[-1])
    squares = emit("reshape", change, shape=(channels, side + 2, side + 2))
    return emit("transposed", squares, shape=shape, **bilinear(channels, factor), exact=True)


def bilinear(channels: int, factor: int) -> dict[str, Any]:
    """The transposed convolution that makes maps padded by a pixel `factor` times as large as they were before.

    Equal to `F.interpolate` of the maps as they were, where the padding repeats their border.
    """
    odd = factor % 2
    kernel = 2 * factor - odd
    ramp = 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / factor
    weight = torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)  # nothing between channels
    geometry = {"stride": factor, "padding": (3 * factor - odd) // 2, "more": 0}
    return {"weight": weight, "bias": torch.zeros(channels), **geometry}
