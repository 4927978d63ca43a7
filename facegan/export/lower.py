"""From any recipe's generator to a short list of plain layers, BatchNorm folded in.

`torch.fx` follows the generator's own forward pass, so a new network family needs nothing here as long as it is
made of the layers below; another one is named in the error.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from facegan.errors import FaceganError
from facegan.export.generator import Generator
from facegan.export.matched import matched
from facegan.networks.layers import SelfModulation
from facegan.networks.moments import Matched
from facegan.networks.resampling import UpConv2d
from facegan.sampling import latents

Layer = dict[str, Any]
KNOWN = (
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.modules.batchnorm._BatchNorm,
    nn.InstanceNorm2d,
    nn.Upsample,
    nn.ReLU,
    nn.LeakyReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Identity,
    SelfModulation,
    Matched,
)
RESHAPES = ("view", "reshape", "unflatten", "flatten")


@dataclass
class Program:
    """What `facegan.export.generator.Generator` runs: layers in order, tensors by name, the sizes at both ends."""

    latent_dim: int
    layers: list[Layer] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    shape: tuple[int, int, int] = (0, 0, 0)  # of an image: channels, height, width


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, KNOWN) or not list(m.children())


def lower(generator: nn.Module, latent_dim: int) -> Program:
    """The program of `generator` (z (B, latent_dim) -> images) in eval mode.

    Raises FaceganError naming the layer that is none of those a page can run.
    """
    graph = _Tracer().trace(generator.eval(), concrete_args={"masks": None})
    lowering = _Lowering(generator, Program(latent_dim))
    for node in graph.nodes:
        lowering.step(node)
    _compare(generator, lowering.program)
    return lowering.program


@torch.no_grad()
def _compare(generator: nn.Module, program: Program) -> None:
    """A layer that only looks like one of PyTorch's is found by what it draws."""
    z = latents(0, 2, program.latent_dim)
    apart = (Generator(program.layers, program.tensors)(z) - generator(z)).abs().max()
    if not apart < 1e-3:
        raise FaceganError(f"export: a layer of the generator is not what it seems: {apart:.3g} apart when lowered")


class _Lowering:
    """Goes through the traced nodes; `values` says which value of the program each node's output is."""

    def __init__(self, generator: nn.Module, program: Program) -> None:
        self.generator, self.program = generator, program
        self.values: dict[fx.Node, int] = {}
        self.shapes: list[tuple[int, ...]] = [(program.latent_dim,)]  # of one sample, by value

    @torch.no_grad()
    def step(self, node: fx.Node) -> None:
        """Lower one node of the graph."""
        if node.op == "placeholder":
            self.values[node] = 0
        elif node.op == "call_module":
            self.values[node] = self.module(node, self.generator.get_submodule(str(node.target)))
        elif node.op == "call_method" and node.target in RESHAPES:
            self.values[node] = self.reshape(node)
        elif node.target is operator.getitem:
            self.values[node] = self.item(node)
        elif node.target in (operator.add, operator.iadd, torch.add) and len(node.all_input_nodes) == 2:
            first, second = (self.values[n] for n in node.all_input_nodes)
            self.values[node] = self.emit("add", first, second, shape=self.shapes[first])
        elif node.op == "output":
            channels, height, width = self.shapes[self.values[node.all_input_nodes[0]]]
            self.program.shape = (channels, height, width)
        elif "_assert_is_none" not in str(node.target):  # what fx adds for the masks that are not given
            raise _unknown(str(node.target), node.name)

    def module(self, node: fx.Node, module: nn.Module) -> int:
        """Lower one module of PyTorch's."""
        source = self.values[node.all_input_nodes[0]]
        alone = len(node.all_input_nodes[0].users) == 1
        handlers: list[tuple[Any, Callable[[], int]]] = [
            (nn.Identity, lambda: source),
            (nn.Linear, lambda: self.dense(source, module)),
            (nn.ConvTranspose2d, lambda: self.transposed(source, module)),
            (nn.Conv2d, lambda: self.conv(source, module, alone)),
            (nn.modules.batchnorm._BatchNorm, lambda: self.pointwise(source, alone, affine=_affine(module))),
            (nn.InstanceNorm2d, lambda: self.instance(source, module)),
            (nn.Upsample, lambda: self.upsample(source, module)),
            (nn.ReLU, lambda: self.pointwise(source, alone, slope=0.0)),
            (nn.LeakyReLU, lambda: self.pointwise(source, alone, slope=float(_of(module, "negative_slope")))),
            (nn.Tanh, lambda: self.emit("tanh", source, shape=self.shapes[source])),
            (nn.Sigmoid, lambda: self.emit("sigmoid", source, shape=self.shapes[source])),
            (SelfModulation, lambda: self.modulation(source, self.values[node.all_input_nodes[1]], module)),
            (Matched, lambda: matched(self.emit, source, module, self.shapes[source])),
        ]
        for kind, handler in handlers:
            if isinstance(module, kind):
                return handler()
        raise _unknown(type(module).__name__, str(node.target))

    def emit(self, op: str, *sources: int, shape: tuple[int, ...], **more: Any) -> int:
        """Add a layer; tensors among `more` are kept under a name of their own."""
        index = len(self.program.layers) + 1
        layer: Layer = {"op": op, "in": list(sources), "shape": list(shape)}
        self.program.layers.append(layer)
        self.shapes.append(shape)
        for key, value in more.items():
            self.set(layer, index, key, value)
        return index

    def set(self, layer: Layer, index: int, key: str, value: Any) -> None:
        """Give a layer a number, or a tensor by name."""
        if isinstance(value, Tensor):
            self.program.tensors[f"{index}.{key}"] = value.detach().float().contiguous()
            value = f"{index}.{key}"
        layer[key] = value

    def dense(self, source: int, module: Any) -> int:
        weight = module.weight
        return self.emit("dense", source, shape=(len(weight),), weight=weight, bias=_bias(module, len(weight)))

    def modulation(self, source: int, z: int, module: Any) -> int:
        """A scale and a shift a channel, each a dense layer of z."""
        weights, biases = (parameter.chunk(2) for parameter in (module.of_z.weight, module.of_z.bias))
        index, shape = source, self.shapes[source]
        for op, weight, bias in zip(("multiply", "add"), weights, (1 + biases[0], biases[1]), strict=True):
            numbers = self.emit("dense", z, shape=(len(weight),), weight=weight, bias=bias)
            each = self.emit("reshape", numbers, shape=(len(weight), 1, 1))
            index = self.emit(op, index, each, shape=shape)
        return index

    def instance(self, source: int, module: Any) -> int:
        index = self.emit("instance", source, shape=self.shapes[source], eps=module.eps)
        if module.affine:
            self.fold(self.program.layers[-1], index, module.weight, module.bias)
        return index

    def conv(self, source: int, module: Any, alone: bool) -> int:
        (kernel, wide), (padding, _) = module.kernel_size, module.padding
        _require(module, module.stride == (1, 1) and module.groups == 1 and module.dilation == (1, 1), "stride 1")
        _require(module, kernel == wide and module.padding == (padding, padding), "a square kernel")
        before = self.program.layers[source - 1] if source else {}
        up = 2 if isinstance(module, UpConv2d) else 1
        if alone and before.get("op") == "upsample":
            up *= before["up"]
            source = before["in"][0]
            self.drop()
        sides = [side * up + 2 * padding - kernel + 1 for side in self.shapes[source][1:]]
        return self.emit(
            "conv",
            source,
            shape=(module.out_channels, *sides),
            weight=module.weight,
            bias=_bias(module, module.out_channels),
            padding=padding,
            up=up,
        )

    def transposed(self, source: int, module: Any) -> int:
        kernel, stride, padding, more = (
            v[0] for v in (module.kernel_size, module.stride, module.padding, module.output_padding)
        )
        _require(module, kernel >= stride and module.groups == 1 and module.dilation == (1, 1), "kernel >= stride")
        channels, height, width = self.shapes[source]
        weight, bias, out = module.weight.transpose(0, 1), _bias(module, module.out_channels), module.out_channels
        sides = [(side - 1) * stride - 2 * padding + kernel + more for side in (height, width)]
        if (height, width) == (1, 1) and not padding and not more:  # a matrix product
            flat = weight.permute(0, 2, 3, 1).reshape(-1, channels)
            flat_bias = bias.repeat_interleave(kernel * kernel)
            index = self.emit("dense", source, shape=(len(flat),), weight=flat, bias=flat_bias)
            return self.emit("reshape", index, shape=(out, *sides))
        geometry = {"stride": stride, "padding": padding, "more": more}
        return self.emit("transposed", source, shape=(out, *sides), weight=weight, bias=bias, **geometry)

    def upsample(self, source: int, module: Any) -> int:
        _require(module, module.mode == "nearest" and module.size is None, "nearest neighbour by a factor")
        channels, height, width = self.shapes[source]
        up = int(module.scale_factor)
        return self.emit("upsample", source, shape=(channels, height * up, width * up), up=up)

    def pointwise(
        self, source: int, alone: bool, slope: float | None = None, affine: tuple[Tensor, Tensor] | None = None
    ) -> int:
        """LeakyReLU, or scale and shift a channel: part of the layer before where only this one reads it."""
        layer = self.program.layers[source - 1] if source else {}
        if alone and layer.get("op") in ("upsample", "reshape") and len(layer["shape"]) == 3:
            return self.before(layer, source, slope, affine)
        able = layer.get("op") in ("dense", "conv", "transposed", "pointwise") and "scale" not in layer
        if not alone or not able or (slope is not None and "slope" in layer):
            source = self.emit("pointwise", source, shape=self.shapes[source])
            layer = self.program.layers[-1]
        if slope is not None:
            layer["slope"] = slope
        if affine is not None:
            self.fold(layer, source, *affine)
        return source

    def before(self, layer: Layer, source: int, slope: float | None, affine: tuple[Tensor, Tensor] | None) -> int:
        """The same ahead of a layer that only moves values: less to do, and weights to fold it into."""
        (inner,) = layer["in"]
        self.drop()
        if affine and layer["op"] == "reshape" and len(self.shapes[inner]) == 1:
            times = self.shapes[inner][0] // len(affine[0])
            affine = affine[0].repeat_interleave(times), affine[1].repeat_interleave(times)
        inner = self.pointwise(inner, True, slope, affine)
        more = {"up": layer["up"]} if layer["op"] == "upsample" else {}
        return self.emit(layer["op"], inner, shape=tuple(layer["shape"]), **more)

    def drop(self) -> None:
        """Take back the last layer, which a better one replaces."""
        self.program.layers.pop()
        self.shapes.pop()

    def fold(self, layer: Layer, index: int, scale: Tensor, shift: Tensor) -> None:
        """Scale and shift a channel: into the weights where no activation stands between."""
        if "slope" in layer or "weight" not in layer:
            self.set(layer, index, "scale", scale)
            self.set(layer, index, "shift", shift)
            return
        tensors, weight, bias = self.program.tensors, layer["weight"], layer["bias"]
        tensors[weight] = tensors[weight] * scale.view(-1, *[1] * (tensors[weight].dim() - 1))
        tensors[bias] = tensors[bias] * scale + shift

    def reshape(self, node: fx.Node) -> int:
        """A change of shape that keeps the order; the batch stays first."""
        source = self.values[node.all_input_nodes[0]]
        before = torch.empty(2, *self.shapes[source], device="meta")
        arguments = [a for a in node.args[1:] if not isinstance(a, fx.Node)]
        after = getattr(before, str(node.target))(*arguments)
        return self.emit("reshape", source, shape=tuple(after.shape[1:]))

    def item(self, node: fx.Node) -> int:
        """New axes of length 1, or a crop of rows and columns."""
        source = self.values[node.all_input_nodes[0]]
        keys: Any = node.args[1]
        shape = self.shapes[source]
        if any(key is None for key in keys):
            return self.emit("reshape", source, shape=tuple(torch.empty(2, *shape, device="meta")[keys].shape[1:]))
        if len(keys) != 4 or any(not isinstance(key, slice) or key.step not in (None, 1) for key in keys):
            raise _unknown(f"indexing by {keys}", node.name)
        rows, columns = (range(side)[key] for side, key in zip(shape[1:], keys[2:], strict=True))
        cropped = (shape[0], len(rows), len(columns))
        return self.emit("crop", source, shape=cropped, **{"from": [rows.start, columns.start]})


def _affine(module: Any) -> tuple[Tensor, Tensor]:
    """BatchNorm in eval mode as scale and shift a channel."""
    scale = module.weight / (module.running_var + module.eps).sqrt()
    return scale, module.bias - module.running_mean * scale


def _bias(module: Any, outputs: int) -> Tensor:
    return module.bias if module.bias is not None else torch.zeros(outputs)


def _of(module: nn.Module, name: str) -> Any:
    return getattr(module, name)


def _require(module: nn.Module, holds: bool, possible: str) -> None:
    if not holds:
        raise FaceganError(f"export: {module} cannot be part of an export: only {possible} can")


def _unknown(operation: str, where: str) -> FaceganError:
    layers = "Linear, Conv2d, ConvTranspose2d, BatchNorm, InstanceNorm, Upsample, ReLU, LeakyReLU, Tanh, Sigmoid"
    return FaceganError(
        f"export: the generator's {where} is {operation}, which no export can run; it may hold {layers}, sums, "
        "products, crops"
    )
