"""The step as CUDA graphs: recorded once for each kind of batch, then replayed without the host launching kernels.

A recorded step reads nothing but tensors that stay where they are: a batch's images, random numbers and knobs are
copied into them before each replay. It is the whole step, the penalty's double backward and the optimizers too.
"""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from facegan.draws import Knobs
from facegan.machine import Machine
from facegan.step import Batch, Step

log = logging.getLogger("facegan")

WARM_UP = 3  # batches of a kind before it is recorded: what is made lazily, such as optimizer state, is there then

Run = Callable[[], None]


def compiled(step: Step, machine: Machine) -> Callable[[Batch], None]:
    """The step as the machine's compile mode has it."""
    return Replayed(step, step.kind, record_cuda) if machine.compile == "graph" else step


class Replayed:
    """A step that replays recordings of itself.

    step: takes a batch. kind: what of a batch the host decides on; equal kinds run equal kernels. record: makes
    of a function the one that repeats its work; where it raises RuntimeError, the step stays as it is.
    """

    def __init__(
        self, step: Callable[[Batch], None], kind: Callable[[Batch], Hashable], record: Callable[[Run], Run]
    ) -> None:
        self.step, self.kind, self.record = step, kind, record
        self.recordings: dict[Hashable, _Recording] = {}
        self.seen: Counter[Hashable] = Counter()
        self.failed = False

    def __call__(self, batch: Batch) -> None:
        """Take the step: as it is at first (with the knobs as tensors, to the same bits), then replayed."""
        kind, batch = self.kind(batch), _on_device(batch)
        self.seen[kind] += 1
        if self.seen[kind] > WARM_UP and kind not in self.recordings and not self.failed:
            self._record(kind, batch)
        if kind in self.recordings:
            self.recordings[kind](batch)
        else:
            self.step(batch)

    def _record(self, kind: Hashable, batch: Batch) -> None:
        still = _map(batch, Tensor.clone)
        try:
            self.recordings[kind] = _Recording(still, self.record(lambda: self.step(still)))
        except RuntimeError as error:
            self.failed = True
            log.warning("the step cannot be recorded as a CUDA graph and runs without: %s", error)


@dataclass(frozen=True)
class _Recording:
    inputs: Batch
    replay: Run

    def __call__(self, batch: Batch) -> None:
        torch._foreach_copy_(_tensors(self.inputs), _tensors(batch))
        self.replay()


def record_cuda(run: Run) -> Run:
    """Record `run`, which is not executed, as a CUDA graph; the result replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _on_device(batch: Batch) -> Batch:
    """The batch with its position and its knobs as 0-d tensors: one copy to the device."""
    values = [float(value) for value in dataclasses.astuple(batch.knobs)]
    numbers = torch.tensor([*values, batch.nimg], dtype=torch.float64)
    if batch.images.device.type == "cuda":
        numbers = numbers.pin_memory().to(batch.images.device, non_blocking=True)
    knobs: list[Any] = list(numbers[:-1].float().unbind())
    return dataclasses.replace(batch, knobs=Knobs(*knobs), noted=numbers[-1].long())


def _map(batch: Batch, change: Callable[[Tensor], Any]) -> Batch:
    """The batch with `change` applied to each of its tensors; its knobs are tensors."""
    values: list[Any] = [getattr(batch.knobs, field.name) for field in dataclasses.fields(Knobs)]
    images, noted, *knobs = [change(value) for value in (batch.images, batch.noted, *values)]
    return dataclasses.replace(
        batch, images=images, noted=noted, knobs=Knobs(*knobs), draws=batch.draws.map(change)
    )


def _tensors(batch: Batch) -> list[Tensor]:
    """Every tensor of a batch, in one order."""
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(batch, collect)
    return found
