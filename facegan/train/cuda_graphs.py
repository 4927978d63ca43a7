"""The step as CUDA graphs: recorded once for each kind of batch, then replayed without the host launching kernels.

A recorded step reads nothing but tensors that stay where they are: a batch's images, random numbers and schedule
values are copied into them before each replay. It is the whole step, its double backward and the optimizers too.
Each recording is compared with the step once, on a real batch, before it is used.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from facegan.run.machine import Machine
from facegan.train.schedules import ScheduleValues
from facegan.train.step import Batch, Step
from facegan.train.tensors import map_tensors, tensors_of

log = logging.getLogger("facegan")

WARM_UP = 3  # batches of a kind before it is recorded: what is made lazily, such as optimizer state, is there then
TOLERANCE = 0.1  # of a step's change: rounding moves an Adam step more than one would think, a fault most of it

Run = Callable[[], None]
Result = TypeVar("Result")


def recorded(step: Step, machine: Machine) -> Callable[[Batch], None]:
    """The step, as CUDA graphs where the machine has them."""
    if not machine.cuda_graphs:
        return step
    # The steps before the recording are meant to be as they are: no advice on what only recordings need.
    warnings.filterwarnings("ignore", message=".*capturable=True", category=UserWarning)
    record = partial(record_cuda, pool=torch.cuda.graph_pool_handle())  # one kind runs at a time: they share it
    return Replayed(step, step.kind, record, step.state.weights, step.state.statistics, machine.any)


class Replayed:
    """A step that replays recordings of itself.

    step: takes a batch. kind: what of a batch the host decides on; equal kinds run equal kernels. record: makes
    of a function the one that repeats its work. weights, statistics: all that a step changes. Where `record` fails,
    or its result does not do what the step does, the step stays as it is. anywhere: whether something holds on any
    rank, which all ask at the same time: a message between ranks is recorded by all of them or by none.
    """

    def __init__(
        self,
        step: Callable[[Batch], None],
        kind: Callable[[Batch], Hashable],
        record: Callable[[Run], Run],
        weights: Callable[[], list[Tensor]],
        statistics: Callable[[], list[Tensor]],
        anywhere: Callable[[bool], bool] = bool,
    ) -> None:
        self.step, self.kind, self.record = step, kind, record
        self.weights, self.statistics, self.anywhere = weights, statistics, anywhere
        self.recordings: dict[Hashable, _Recording] = {}
        self.seen: Counter[Hashable] = Counter()
        self.failed = False

    def __call__(self, batch: Batch) -> None:
        """Take the step: as it is at first (schedule values as tensors, to the same bits), then replayed."""
        kind, batch = self.kind(batch), _on_device(batch)
        self.seen[kind] += 1
        if kind in self.recordings:
            self.recordings[kind](batch)
        elif self.failed or self.seen[kind] <= WARM_UP:
            self.step(batch)
        else:
            self._record(kind, batch)

    def _record(self, kind: Hashable, batch: Batch) -> None:
        """Take the step as it is; keep a recording if it does the same from the same state."""
        before = _copies(self._all())
        self.step(batch)
        right = _copies(self._all())
        _restore(self._all(), before)
        inputs = map_tensors(batch, torch.empty_like)  # a replay has to fill them
        replay = self._try(lambda: self.record(lambda: self.step(inputs)))
        if replay is not None:
            recording = _Recording(inputs, replay)
            if self._try(lambda: self._replays(recording, batch, before, right)):
                self.recordings[kind] = recording
        _restore(self._all(), right)

    def _try(self, attempt: Callable[[], Result]) -> Result | None:
        """What the attempt gives; None, and no recordings from now on, where it failed on any rank."""
        result, cause = None, None
        try:
            result = attempt()
        except (RuntimeError, AssertionError) as error:
            cause = error.__context__ or error  # what a broken capture reports itself says nothing
        if not self.anywhere(cause is not None):
            return result
        self.failed = True
        self.recordings.clear()
        log.warning(
            "going on without CUDA graphs (--cuda-graphs off says so at once): %s", cause or "another rank's failed"
        )
        return None

    def _replays(self, recording: "_Recording", batch: Batch, before: list[Tensor], right: list[Tensor]) -> bool:
        recording(batch)
        self._compare(before, right)
        return True

    def _compare(self, before: list[Tensor], right: list[Tensor]) -> None:
        """RuntimeError where the state is not what the step, by itself, made of `before`: `right`."""
        replayed, weights = self._all(), len(self.weights())
        shares = [_wrong(*tensors) for tensors in zip(before, right, replayed, strict=True)]
        sizes = [tensor.numel() for tensor in replayed]
        # Over all weights together: of a few, such as biases before BatchNorm, the gradient is rounding alone.
        moved = [(share, size) for share, size in zip(shares[:weights], sizes[:weights], strict=True) if share >= 0]
        mean = sum(share * size for share, size in moved) / max(sum(size for _, size in moved), 1)
        worst = max([share for share in shares[weights:] if share >= 0], default=0.0)
        if mean > TOLERANCE or worst > TOLERANCE:
            raise RuntimeError(
                f"the recorded step is not the step: {mean:.0%} of how it moves the weights is off, "
                f"and up to {worst:.0%} of how it moves a statistic"
            )
        if mean or worst:
            log.info("recorded and plain step agree to rounding, not to the bit: %.1e of a step", max(mean, worst))

    def _all(self) -> list[Tensor]:
        return [*self.weights(), *self.statistics()]


@dataclass(frozen=True)
class _Recording:
    inputs: Batch
    replay: Run

    def __call__(self, batch: Batch) -> None:
        torch._foreach_copy_(tensors_of(self.inputs), tensors_of(batch))
        self.replay()


def record_cuda(run: Run, pool: "torch.cuda._POOL_HANDLE") -> Run:
    """Record `run`, which is not executed, as a CUDA graph in a memory pool; the result replays it."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool, capture_error_mode="thread_local"):  # the feed's thread pins memory
            run()
    finally:
        torch.cuda.set_stream(stream)  # a broken capture leaves its own behind
    return graph.replay


def _on_device(batch: Batch) -> Batch:
    """The batch with its position and its schedule values as 0-d tensors: one copy to the device."""
    numbers = torch.tensor([*astuple(batch.values), batch.nimg], dtype=torch.float64)
    if batch.images.device.type == "cuda":
        numbers = numbers.pin_memory().to(batch.images.device, non_blocking=True)
    values = ScheduleValues(*numbers[:-1].float().unbind())
    return replace(batch, values=values, device_nimg=numbers[-1].long())


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def _restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _wrong(before: Tensor, right: Tensor, replayed: Tensor) -> float:
    """How far `replayed` is from `right`, as a share of the step from `before` to `right`; -1 where it was none."""
    change, error = (float((t.double() - right.double()).norm()) for t in (before, replayed))
    rounding = 1e-6 * float(right.double().norm())
    if change <= rounding and error <= rounding:
        return -1.0
    share = error / change if change else 1.0
    return share if share <= 1 else 1.0  # NaN is all wrong
