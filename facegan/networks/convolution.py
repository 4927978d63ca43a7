"""Convolutions whose gradients are convolutions again, at every order, and cheap ones.

Three linear maps that differentiate into each other: a convolution, its transpose and the gradient for its weights.
PyTorch's own second derivative of a convolution is another: it takes the gradient for the weights as a convolution
with kernels as large as the image (Karras et al. 2020, arXiv:2006.06676, replace it for the same reason). All maps
are (B, C, H, W), all weights (O, C, k, k) with C on the side of the larger map, as `nn.Conv2d` and
`nn.ConvTranspose2d` both have it; a stride and a padding hold for both sides.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

Context = Any  # what autograd keeps between a function's two directions


@dataclass
class Geometry:
    """How a layer moves its kernel, and whether going back through it gives gradients for its weights."""

    stride: int
    padding: int
    learns: bool = True


@contextmanager
def inputs_only(network: object) -> Iterator[None]:
    """No gradients for the weights of `network`'s convolutions from an `autograd.grad` in here, which asks for
    those of images alone: autograd does not tell a Python function which of its gradients are wanted.
    """
    modules = network.modules() if isinstance(network, nn.Module) else ()
    layers = [module for module in modules if isinstance(module, Conv2d | ConvTranspose2d)]
    for layer in layers:
        layer.geometry.learns = False
    try:
        yield
    finally:
        for layer in layers:
            layer.geometry.learns = True


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with one stride and zero padding: the same weights and values, faster derivatives."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, *, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=bias)
        self.geometry = Geometry(stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H', W'), in autocast's dtype where that is on."""
        return _convolution(*_cast(x, self.weight, self.bias), self.geometry)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` with one stride and padding: the same weights and values, faster derivatives."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, output_padding, bias=bias)
        self.geometry = Geometry(stride, padding)
        self.extent = kernel - stride - 2 * padding + output_padding  # output's side - stride * input's side

    def forward(self, y: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, O, H', W') -> (B, C, H, W), in autocast's dtype where that is on."""
        height, width = (side * self.geometry.stride + self.extent for side in y.shape[2:])
        return _transposed(*_cast(y, self.weight, self.bias), self.geometry, (height, width))


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        stride, padding = geometry.stride, geometry.padding
        side = _side_after(x, weight, geometry)
        if _as_product(x, side, len(weight) // 32):
            shape = (len(x), len(weight), *side)
            y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
            patches = _patches(x, weight.shape[2], geometry)
            torch.mm(patches, _rows(weight).t(), out=y.permute(0, 2, 3, 1).flatten(0, 2))
            return y if bias is None else y.add_(bias[:, None, None])
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Context, dy: Tensor) -> Any:
        (x, weight), geometry = ctx.saved_tensors, ctx.geometry
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        dx = _transposed(dy, weight, None, geometry, tuple(x.shape[2:])) if for_x else None
        dweight = _weight_gradient(x, dy, weight, geometry) if for_weight and geometry.learns else None
        return dx, dweight, dy.sum((0, 2, 3)) if for_bias and geometry.learns else None, None


class _Transposed(Function):
    @staticmethod
    def forward(
        ctx: Context, y: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, size: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(y, weight)
        ctx.geometry = geometry
        stride, padding = geometry.stride, geometry.padding
        least = [(side - 1) * stride - 2 * padding + weight.shape[2] for side in y.shape[2:]]
        more = [side - shortest for side, shortest in zip(size, least, strict=True)]
        return F.conv_transpose2d(y, weight, bias, stride, padding, more)

    @staticmethod
    def backward(ctx: Context, dx: Tensor) -> Any:
        (y, weight), geometry = ctx.saved_tensors, ctx.geometry
        for_y, for_weight, for_bias, *_ = ctx.needs_input_grad
        dy = _convolution(dx, weight, None, geometry) if for_y else None
        dweight = _weight_gradient(dx, y, weight, geometry) if for_weight and geometry.learns else None
        return dy, dweight, dx.sum((0, 2, 3)) if for_bias and geometry.learns else None, None, None


class _WeightGradient(Function):
    """Of <y, convolution of x>, for the weights; `weight` only lends its shape and memory layout."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, y: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.geometry = geometry
        if _gradient_as_product(x, y.shape[2:], len(weight)):
            flat = y.permute(0, 2, 3, 1).flatten(0, 2).t() @ _patches(x, weight.shape[2], geometry)
            side = weight.shape[2]
            return flat.view(len(weight), side, side, -1).permute(0, 3, 1, 2)
        stride, padding = geometry.stride, geometry.padding
        gradients = torch.ops.aten.convolution_backward(
            y, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [False, True, False]
        )
        gradient: Tensor = gradients[1]
        return gradient

    @staticmethod
    def backward(ctx: Context, dweight: Tensor) -> Any:
        (x, y), geometry = ctx.saved_tensors, ctx.geometry
        dx = _transposed(y, dweight, None, geometry, tuple(x.shape[2:])) if ctx.needs_input_grad[0] else None
        dy = _convolution(x, dweight, None, geometry) if ctx.needs_input_grad[1] else None
        return dx, dy, None, None


_convolution: Callable[..., Tensor] = _Convolution.apply
_transposed: Callable[..., Tensor] = _Transposed.apply
_weight_gradient: Callable[..., Tensor] = _WeightGradient.apply


def _as_product(x: Tensor, side: tuple[int, ...], most: int) -> bool:
    """Whether a matrix product beats the convolution: bf16, a CPU without AMX, `most` positions or fewer.

    Measured on a Zen 5 (docs/benchmarks.md), where oneDNN is slow on small maps; laying out the patches costs as
    much for few maps as for many, so `most` follows their number.
    """
    small = side[0] * side[1] <= most
    return small and x.device.type == "cpu" and x.dtype is torch.bfloat16 and not torch.cpu._is_amx_tile_supported()


def _gradient_as_product(x: Tensor, side: tuple[int, ...], outputs: int) -> bool:
    """Whether a matrix product beats the convolution's own gradient for its weights.

    In float32 on a CPU with AVX2 and no more, too (a Zen 3 measured: up to three times).
    """
    if x.dtype is torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX2":
        return x.device.type == "cpu" and side[0] * side[1] <= outputs // 8
    return _as_product(x, side, outputs // 8)


def _side_after(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, int]:
    stride, padding = geometry.stride, geometry.padding
    height, width = ((side + 2 * padding - weight.shape[2]) // stride + 1 for side in x.shape[2:])
    return height, width


def _patches(x: Tensor, kernel: int, geometry: Geometry) -> Tensor:
    """What the kernel sees of `x` at each position: (B * H' * W', k * k * C)."""
    stride, padding = geometry.stride, geometry.padding
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
    windows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (B, H', W', C, k, k), a view
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


def _rows(weight: Tensor) -> Tensor:
    """(O, C, k, k) -> (O, k * k * C), a view where the weights are channels_last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _cast(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All three in autocast's dtype, where autocast is on for the device of `x`."""
    kind = x.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):  # there is none on "meta"
        return x, weight, bias
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Products in their own dtype, on the device of `x`."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
