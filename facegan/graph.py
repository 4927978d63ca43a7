"""The step as CUDA graphs: recorded once for each kind of batch, then replayed without the host launching kernels.

A recorded step reads nothing but tensors that stay where they are: a batch's images, random numbers and knobs are
copied into them before each replay. It is the whole step, the penalty's double backward and the optimizers too.
Each recording is compared with the step once, on a real batch, before it is used.
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
TOLERANCE = 0.1  # of a step's change: rounding moves an Adam step more than one would think, a fault all of it

Run = Callable[[], None]


def compiled(step: Step, machine: Machine) -> Callable[[Batch], None]:
    """The step as the machine's compile mode has it."""
    return Replayed(step, step.kind, record_cuda, step.state.in_place) if machine.compile == "graph" else step


class Replayed:
    """A step that replays recordings of itself.

    step: takes a batch. kind: what of a batch the host decides on; equal kinds run equal kernels. record: makes
    of a function the one that repeats its work. tensors: all that a step changes. Where `record` raises
    RuntimeError, or its result does not do what the step does, the step stays as it is.
    """

    def __init__(
        self,
        step: Callable[[Batch], None],
        kind: Callable[[Batch], Hashable],
        record: Callable[[Run], Run],
        tensors: Callable[[], list[Tensor]],
    ) -> None:
        self.step, self.kind, self.record, self.tensors = step, kind, record, tensors
        self.recordings: dict[Hashable, _Recording] = {}
        self.seen: Counter[Hashable] = Counter()
        self.failed = False

    def __call__(self, batch: Batch) -> None:
        """Take the step: as it is at first (with the knobs as tensors, to the same bits), then replayed."""
        kind, batch = self.kind(batch), _on_device(batch)
        self.seen[kind] += 1
        if kind in self.recordings:
            self.recordings[kind](batch)
        elif self.failed or self.seen[kind] <= WARM_UP:
            self.step(batch)
        else:
            self._record(kind, batch)

    def _record(self, kind: Hashable, batch: Batch) -> None:
        """Take the step as it is, and keep a recording that does the same."""
        still, replays = _map(batch, Tensor.clone), list[_Recording]()
        before = _copies(self.tensors())
        try:
            replays.append(_Recording(still, self.record(lambda: self.step(still))))
            replays[0](batch)
        except RuntimeError as error:
            self._give_up(f"the step cannot be recorded as a CUDA graph: {error}")
        replayed = _copies(self.tensors())
        for tensor, value in zip(self.tensors(), before, strict=True):
            tensor.copy_(value)
        self.step(batch)
        share = _wrong(before, self.tensors(), replayed)
        if not self.failed and not share <= TOLERANCE:  # NaN is wrong too
            self._give_up(f"the recorded CUDA graph is not the step: {share:.0%} of what it changes is off")
        if not self.failed:
            self.recordings[kind] = replays[0]

    def _give_up(self, why: str) -> None:
        self.failed = True
        self.recordings.clear()
        log.warning("%s; going on without (--compile off says so at once)", why)


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
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # the feed's thread pins memory meanwhile
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


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _wrong(before: list[Tensor], right: list[Tensor], found: list[Tensor]) -> float:
    """How far `found` is from `right`, as a share of what changed since `before`: 0 equal, 1 as if untouched.

    The mean over all numbers that changed, so that a few whose gradients are rounding do not decide.
    """
    wrong, all_of_them = 0.0, 0
    for old, new, ours in zip(before, right, found, strict=True):
        change, error = (float((t.double() - new.double()).norm()) for t in (old, ours))
        if max(change, error) > 1e-6 * float(new.double().norm()):  # below, both steps are rounding
            wrong += new.numel() * (min(error / change, 1.0) if change else 1.0)
            all_of_them += new.numel()
    return wrong / max(all_of_them, 1)
