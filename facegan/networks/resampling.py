"""A convolution behind a doubling, as one transposed convolution of stride 2 with a summed kernel.

Nearest doubling repeats a pixel, so the taps of a kernel that fall on its copies add up: k x k taps on a map of
twice the side are (k + 1) x (k + 1) taps of stride 2 on the map itself, borders included. For k = 3 that is 16
products a pixel instead of 36, and no large map is kept.
The weights stay those of the k x k kernel: the same function, initialisation, updates and penalties.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from facegan.networks.convolution import Conv2d, Geometry, _cast, _transposed, without_autocast


class UpConv2d(Conv2d):
    """`Conv2d(kernel, padding=kernel // 2)` of an image doubled by nearest neighbour; the kernel is odd."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.geometry = Geometry(2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, 2 H, 2 W), in autocast's dtype where that is on."""
        x, kernel, bias = _cast(x, summed(self.weight), self.bias)
        kernel = kernel.contiguous(memory_format=torch.channels_last)  # once, for both directions
        height, width = x.shape[2:]
        return _transposed(x, kernel, bias, self.geometry, (2 * height, 2 * width))


def summed(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (C, O, k + 1, k + 1): the sum of the turned kernel at its four places in a square one larger.

    Both axes of the square at once, as one matrix, after the channels have changed places in a transposition of
    their own: moved by PyTorch's general copies they took longer than the convolution, where maps are small.
    """
    outputs, channels, k, _ = weight.shape
    one = torch.eye(k, dtype=weight.dtype, device=weight.device).flip(0)
    places = F.pad(one, (0, 0, 0, 1)) + F.pad(one, (0, 0, 1, 0))  # (k + 1, k)
    taps = _transposition(weight.permute(0, 2, 3, 1).flatten(1)).view(k * k, channels * outputs)
    with without_autocast(weight):
        wide = torch.kron(places, places) @ taps
    return wide.view(k + 1, k + 1, channels, outputs).permute(2, 3, 0, 1)


class _Transposition(Function):
    """The transpose of a matrix, laid out anew, and its gradient too: PyTorch does that by blocks."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        return matrix.t().contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _transposition(gradient)


_transposition: Callable[..., Tensor] = _Transposition.apply
