"""A convolution behind a doubling, as one transposed convolution of stride 2 with a summed kernel.

Nearest doubling repeats a pixel, so the taps of a kernel that fall on its copies add up: k x k taps on a map of
twice the side are (k + 1) x (k + 1) taps of stride 2 on the map itself, borders included. For k = 3 that is 16
products a pixel instead of 36, and no large map is kept.
The weights stay those of the k x k kernel: the same function, initialisation, updates and penalties.
"""

from torch import Tensor
from torch.nn import functional as F

from facegan.networks.convolution import Conv2d, Geometry, _cast, _transposed


class UpConv2d(Conv2d):
    """`Conv2d(kernel, padding=kernel // 2)` of an image doubled by nearest neighbour; the kernel is odd."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        self.geometry = Geometry(2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, 2 H, 2 W), in autocast's dtype where that is on."""
        kernel = summed(self.weight.flip(2, 3)).transpose(0, 1)
        height, width = x.shape[2:]
        return _transposed(*_cast(x, kernel, self.bias), self.geometry, (2 * height, 2 * width))


def summed(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (O, C, k + 1, k + 1): the sum of the kernel at its four places in a square one larger."""
    wide = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    return F.pad(wide, (0, 0, 0, 1)) + F.pad(wide, (0, 0, 1, 0))
