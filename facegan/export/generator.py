"""A generator from its list of layers and its tensors, in PyTorch alone: this file stands by itself.

import json, torch
from safetensors.torch import load_file
from generator import Generator
g = Generator(json.load(open("config.json"))["layers"], load_file("generator.safetensors"))
images = g(torch.randn(16, g.latent_dim))  # (16, channels, height, width)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Generator(nn.Module):
    """z (B, latent_dim) -> images (B, C, H, W). `layers` are dicts: `op`, the values it reads (`in`; 0 is z, k the
    k-th layer's), names of its tensors, numbers. BatchNorm is folded into them."""

    def __init__(self, layers: list[dict[str, Any]], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.layers = layers
        self.names = {name: name.replace(".", "_") for name in tensors}
        for name, tensor in tensors.items():
            self.register_buffer(self.names[name], tensor.float())
        self.latent_dim = next(tensors[layer["weight"]] for layer in layers if "weight" in layer).shape[1]

    def forward(self, z: Tensor) -> Tensor:
        values = [z]
        for layer in self.layers:
            values.append(self.run(layer, *(values[k] for k in layer["in"])))
        return values[-1]

    def run(self, layer: dict[str, Any], x: Tensor, *others: Tensor) -> Tensor:
        """One layer: its operation, then LeakyReLU of `slope` (0: ReLU), then `scale` and `shift` a channel."""
        x = getattr(self, layer["op"])(layer, x, *others)
        if "slope" in layer:
            x = F.leaky_relu(x, layer["slope"])
        if "scale" in layer:
            scale, shift = self.of(layer, "scale"), self.of(layer, "shift")
            x = x * scale.view(-1, *[1] * (x.dim() - 2)) + shift.view(-1, *[1] * (x.dim() - 2))
        return x

    def of(self, layer: dict[str, Any], role: str) -> Tensor:
        tensor: Tensor = getattr(self, self.names[layer[role]])
        return tensor

    def dense(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.of(layer, "weight"), self.of(layer, "bias"))

    def conv(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        x = x.repeat_interleave(layer["up"], 2).repeat_interleave(layer["up"], 3)  # nearest neighbour
        return F.conv2d(x, self.of(layer, "weight"), self.of(layer, "bias"), padding=layer["padding"])

    def transposed(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        weight, bias = self.of(layer, "weight").transpose(0, 1), self.of(layer, "bias")
        return F.conv_transpose2d(x, weight, bias, layer["stride"], layer["padding"], layer["more"])

    def pointwise(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return x

    def upsample(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return x.repeat_interleave(layer["up"], 2).repeat_interleave(layer["up"], 3)

    def reshape(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return x.reshape(-1, *layer["shape"])

    def crop(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        (top, left), (_, height, width) = layer["from"], layer["shape"]
        return x[:, :, top : top + height, left : left + width]

    def edges(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return F.pad(x, [layer["border"]] * 4, mode="replicate")

    def mean(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return F.avg_pool2d(x, layer["factor"])

    def clip(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return x.clamp(layer["low"], layer["high"])

    def instance(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return F.instance_norm(x, eps=layer["eps"])

    def add(self, layer: dict[str, Any], x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def multiply(self, layer: dict[str, Any], x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def tanh(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return torch.tanh(x)

    def sigmoid(self, layer: dict[str, Any], x: Tensor) -> Tensor:
        return torch.sigmoid(x)
