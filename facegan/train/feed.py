"""Batches on the device, one ahead of the step: read, draw and send beside the training, measure the waiting."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor

from facegan.recipes import Recipe
from facegan.run.machine import Machine
from facegan.train.draws import RandomNumbers
from facegan.train.schedules import generator_is_due, schedule_values
from facegan.train.step import Batch
from facegan.train.tensors import map_tensors


class Stream(Protocol):
    """What the training reads: this rank's part of each global batch, from any position on."""

    nimg: int

    @property
    def samples(self) -> int:
        """Images in the split."""

    def seek(self, nimg: int) -> None:
        """Go to position `nimg` in constant time."""

    def __next__(self) -> Tensor:
        """(b, C, H, W) uint8, and on to the next global batch."""


class Feed:
    """Iterates the batches from `nimg` up to `total_nimg`; a thread prepares the next one meanwhile."""

    def __init__(
        self, stream: Stream, numbers: RandomNumbers, recipe: Recipe, machine: Machine, nimg: int, total_nimg: int
    ) -> None:
        self.stream, self.numbers, self.recipe, self.machine = stream, numbers, recipe, machine
        self.nimg, self.total_nimg = nimg, total_nimg
        self.waited = 0.0  # seconds the training has waited for data: its device, where it works by itself
        self._launched = torch.cuda.Event() if machine.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)

    def __enter__(self) -> "Feed":
        self.stream.seek(self.nimg)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(timeout=0.05)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            batch = self._take()
            if isinstance(batch, BaseException):
                raise batch
            if batch is None:
                return
            yield map_tensors(batch, self._send)
            if self._launched is not None:
                self._launched.record()

    def _take(self) -> Batch | BaseException | None:
        """The next batch; the wait counts from when the device, too, has nothing left to do."""
        while not self._idle():
            with suppress(queue.Empty):
                return self._ready.get(timeout=0.001)
        start = time.perf_counter()
        batch = self._ready.get()
        self.waited += time.perf_counter() - start
        return batch

    def _idle(self) -> bool:
        """Whether the device has nothing left to do: else the host is ahead of it, and nobody waits."""
        return self._launched is None or bool(self._launched.query())  # type: ignore[no-untyped-call]

    def _fill(self) -> None:
        try:
            for nimg in range(self.nimg, self.total_nimg, self.recipe.batch_size):
                if self._closed.is_set():
                    return
                self._put(self._prepare(nimg))
            self._put(None)
        except BaseException as error:  # raised again in the training's own thread
            self._put(error)

    def _prepare(self, nimg: int) -> Batch:
        images = next(self.stream)
        position = nimg + self.machine.rank * len(images)
        due = generator_is_due(self.recipe, nimg)
        draws = self.numbers.step(position, len(images), with_generator=due)
        batch = Batch(nimg, images, draws, schedule_values(self.recipe, nimg, self.total_nimg))
        return map_tensors(batch, _pin) if self.machine.device.type == "cuda" else batch

    def _put(self, item: Batch | BaseException | None) -> None:
        while not self._closed.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return

    def _drain(self) -> None:
        with suppress(queue.Empty):
            self._ready.get_nowait()

    def _send(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.machine.device, non_blocking=True)


def _pin(tensor: Tensor) -> Tensor:
    """A copy in page-locked memory, dense: of images without the bytes that a stream leaves between their rows."""
    return tensor if tensor.is_cuda else torch.empty_like(tensor, pin_memory=True).copy_(tensor)
