"""The feed: what counts as waiting for data."""

import time
from types import SimpleNamespace
from typing import Any

import torch
from tiny import MadeUpImages, tiny_recipe

from facegan.networks import build_discriminator, build_generator
from facegan.run import machine
from facegan.run.settings import RunSettings
from facegan.train.draws import RandomNumbers
from facegan.train.feed import Feed

READ = 0.05  # seconds


class Slow(MadeUpImages):
    """A stream that takes its time."""

    def __next__(self) -> torch.Tensor:
        time.sleep(READ)
        return super().__next__()


def waited(busy: float | None) -> float:
    """Seconds counted over six batches, by a device that is busy for that long after each; None: it is the host."""
    recipe = tiny_recipe("mlp-64")
    here = machine.start(RunSettings(threads=1, precision="fp32"))
    numbers = RandomNumbers(recipe, 0, build_generator(recipe), build_discriminator(recipe))
    feed = Feed(Slow(recipe), numbers, recipe, here, 0, 6 * recipe.batch_size)
    if busy is not None:
        until = [0.0]
        launched: Any = SimpleNamespace(
            record=lambda: until.__setitem__(0, time.perf_counter() + busy),
            query=lambda: time.perf_counter() > until[0],
        )
        feed._launched = launched
    with feed:
        assert len(list(feed)) == 6
    return feed.waited


def test_waiting_is_what_the_step_waits_for_its_batch() -> None:
    assert waited(None) > 6 * READ * 0.5


def test_a_host_ahead_of_a_busy_device_waits_for_nothing() -> None:
    always, never = waited(busy=10.0), waited(busy=0.0)  # before the first batch every device is idle
    assert always < never / 2
