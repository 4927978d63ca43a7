"""A run's generator as ONNX: z (batch, latent_dim) -> images (batch, C, H, W), float32, any batch.

Written from the lowered layers with `onnx` alone, so torch's exporter and what it needs are not. Checked with
onnxruntime before it is kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facegan import __version__, sampling
from facegan.errors import FaceganError, UsageError
from facegan.export.generator import Generator
from facegan.export.lower import Layer, Program, lower
from facegan.files import whole_file
from facegan.run.snapshot import Snapshot

OPSET, IR_VERSION = 17, 8  # what onnxruntime has read since 1.12 (2022)
MOST_APART = 1e-5
INSTALL = "pip install 'facegan[onnx]'"


@dataclass(frozen=True)
class Model:
    """The file as written, and how far onnxruntime's images are from PyTorch's."""

    path: Path
    bytes: int
    apart: float  # largest difference of a value from float64, images being within [-1, 1] or [0, 1]


def write_onnx(snapshot: Snapshot, out: Path) -> Model:
    """Write the model, whole or not at all.

    Raises UsageError where the extra is not installed, FaceganError where onnxruntime draws other images than
    PyTorch (more than 1e-5 apart).
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"--to onnx needs {error.name}: {INSTALL}") from None
    program = lower(snapshot.generator.to("cpu"), snapshot.recipe.latent_dim)
    model = to_model(program, snapshot)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    z = sampling.latents(0, 5, program.latent_dim)
    (images,) = session.run(["images"], {"z": z.numpy()})
    with torch.no_grad():
        exact = Generator(program.layers, program.tensors).double()(z.double())  # whose rounding does not count
    apart = float(np.abs(images - exact.numpy()).max())
    if not apart <= MOST_APART:
        raise FaceganError(f"{out}: onnxruntime draws other images than PyTorch, {apart:.2g} apart: not written")
    with whole_file(out) as part:
        part.write_bytes(content)
    return Model(out, len(content), apart)


def to_model(program: Program, snapshot: Snapshot) -> Any:
    """The program as an `onnx.ModelProto`."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    extra: dict[str, Any] = {}
    for index, layer in enumerate(program.layers, 1):
        nodes += _nodes(layer, index, program, extra)
    nodes.append(helper.make_node("Identity", [_value(len(program.layers))], ["images"]))
    tensors = {name: tensor.numpy() for name, tensor in program.tensors.items()} | extra
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", program.latent_dim])],
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *program.shape])],
        [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in tensors.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="facegan")
    facts = {
        "facegan": __version__,
        "recipe": snapshot.recipe.name,
        "value_range": "-1 to 1" if snapshot.recipe.value_range == "tanh" else "0 to 1",
        "nimg": str(snapshot.nimg),
    }
    helper.set_model_props(model, facts)
    return model


def _value(index: int) -> str:
    return f"v{index}" if index else "z"


def _nodes(layer: Layer, index: int, program: Program, extra: dict[str, Any]) -> list[Any]:
    """One layer as ONNX's operations; the last one's output is the layer's value."""
    steps = [*_operation(layer, index, program, extra)]
    if "slope" in layer:
        steps.append(("LeakyRelu", [], {"alpha": float(layer["slope"])}))
    if "scale" in layer:
        for kind, role in (("Mul", "scale"), ("Add", "shift")):
            name = f"{index}.{role}.map"
            extra[name] = program.tensors[layer[role]].view(-1, *[1] * (len(layer["shape"]) - 1)).numpy()
            steps.append((kind, [name], {}))
    from onnx import helper

    made, value = [], [_value(k) for k in layer["in"]]
    for number, (kind, tensors, attributes) in enumerate(steps):
        output = _value(index) if number == len(steps) - 1 else f"v{index}.{number}"
        made.append(helper.make_node(kind, [*value, *tensors], [output], **attributes))
        value = [output]
    return made


Step = tuple[str, list[str], dict[str, Any]]  # operation, tensors after its inputs, attributes


def _operation(layer: Layer, index: int, program: Program, extra: dict[str, Any]) -> list[Step]:
    """The layer's own operation, without what follows it."""

    def constant(role: str, numbers: Any, kind: type = np.int64) -> str:
        extra[f"{index}.{role}"] = np.asarray(numbers, kind)
        return f"{index}.{role}"

    def enlarge() -> Step:
        scales = constant("scales", [1, 1, layer["up"], layer["up"]], np.float32)
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return "Resize", ["", scales], how

    op = layer["op"]
    weights = [layer[role] for role in ("weight", "bias") if role in layer]
    if op == "dense":
        return [("Flatten", [], {}), ("Gemm", weights, {"transB": 1})]
    if op == "conv":
        conv: Step = ("Conv", weights, {"pads": [layer["padding"]] * 4})
        return [enlarge(), conv] if layer["up"] > 1 else [conv]
    if op == "transposed":
        name = f"{index}.turned"  # ONNX has the inputs' axis first
        extra[name] = program.tensors[layer["weight"]].transpose(0, 1).numpy()
        geometry = {key: [layer[role]] * n for key, role, n in _TRANSPOSED}
        return [("ConvTranspose", [name, layer["bias"]], geometry)]
    if op == "crop":
        (top, left), (_, height, width) = layer["from"], layer["shape"]
        first, last = constant("first", [top, left]), constant("last", [top + height, left + width])
        return [("Slice", [first, last, constant("axes", [2, 3])], {})]
    if op == "reshape":
        return [("Reshape", [constant("shape", [-1, *layer["shape"]])], {})]
    if op == "instance":
        each = [constant(role, [k] * layer["shape"][0], np.float32) for k, role in enumerate(("zeros", "ones"))]
        return [("InstanceNormalization", each[::-1], {"epsilon": layer["eps"]})]
    if op == "edges":
        return [("Pad", [constant("border", [0, 0, *[layer["border"]] * 2] * 2)], {"mode": "edge"})]
    if op == "mean":
        return [("AveragePool", [], {role: [layer["factor"]] * 2 for role in ("kernel_shape", "strides")})]
    if op == "clip":
        return [("Clip", [constant(role, layer[role], np.float32) for role in ("low", "high")], {})]
    return [enlarge()] if op == "upsample" else [(_PLAIN[op], [], {})]


_PLAIN = {"pointwise": "Identity", "add": "Add", "multiply": "Mul", "tanh": "Tanh", "sigmoid": "Sigmoid"}
_TRANSPOSED = (("strides", "stride", 2), ("pads", "padding", 4), ("output_padding", "more", 2))
