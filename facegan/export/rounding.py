"""Weights as bytes: rounded to whole steps of their output channel, deflated, as text that stands in a page."""

import base64
import copy
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facegan.export.lower import Program

MOST_LEVELS = 127  # of int8, on either side of zero
CLIPS = torch.linspace(1.0, 0.4, 13)  # shares of a channel's largest weight that the last level may stand for


@dataclass(frozen=True)
class Rounded:
    """A program whose weights are whole steps: `whole` (int8) times `steps` (a channel) is what it holds."""

    program: Program
    whole: dict[str, Tensor]
    steps: dict[str, Tensor]


def round_weights(program: Program, levels: int = MOST_LEVELS) -> Rounded:
    """Weights rounded to `levels` steps on either side of zero, a step an output channel; all else stays.

    So do weights of layers that are `exact`.
    """
    rounded = copy.copy(program)
    rounded.tensors = dict(program.tensors)
    whole, steps = {}, {}
    for name in (layer["weight"] for layer in program.layers if "weight" in layer and "exact" not in layer):
        whole[name], steps[name] = _round(program.tensors[name], levels)
        rounded.tensors[name] = whole[name] * steps[name].view(-1, *[1] * (whole[name].dim() - 1))
    return Rounded(rounded, whole, steps)


def _round(weight: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Of each channel the step with the least squared error: a larger one is coarse, a smaller one clips."""
    rows = weight.flatten(1)
    largest = rows.abs().amax(dim=1).clamp_min(1e-12)
    best, error = largest / levels, torch.full_like(largest, torch.inf)
    for clip in CLIPS:
        step = largest * clip / levels
        squares = (_whole(rows, step, levels) * step[:, None] - rows).square().sum(dim=1)
        best, error = torch.where(squares < error, step, best), torch.minimum(squares, error)
    return _whole(rows, best, levels).view(weight.shape), best


def _whole(rows: Tensor, step: Tensor, levels: int) -> Tensor:
    return (rows / step[:, None]).round().clamp(-levels, levels).to(torch.int8)


class Blob:
    """Arrays one after another, each on a multiple of four bytes."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def add(self, tensor: Tensor) -> int:
        """Where it lies."""
        at = len(self.bytes)
        self.bytes += tensor.contiguous().numpy().tobytes()
        self.bytes += bytes(-len(self.bytes) % 4)
        return at

    def add_rounded(self, rounded: Rounded) -> dict[str, dict[str, Any]]:
        """All tensors; by name, where each lies, its shape and, where it is rounded, where its steps lie."""
        table: dict[str, dict[str, Any]] = {}
        for name, tensor in rounded.program.tensors.items():
            table[name] = {"at": self.add(rounded.whole.get(name, tensor)), "shape": list(tensor.shape)}
            if name in rounded.steps:
                table[name]["scales"] = self.add(rounded.steps[name])
        return table

    def text(self) -> tuple[int, str]:
        """How many bytes it is deflated, and those in base 85 without the one digit that HTML would read."""
        packed = zlib.compress(bytes(self.bytes), 9)
        whole = packed + bytes(-len(packed) % 4)
        return len(packed), base64.b85encode(whole).decode("ascii").replace("<", ",")
