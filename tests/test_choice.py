"""A choice of samples is the sorted array of their numbers, in a fraction of its memory."""

from pathlib import Path

import numpy as np
import pytest

import shards
from facegan.run.settings import RunSettings
from jobs.chosen import chosen_images, held_out
from shards.read.choice import Choice
from shards.read.labels import Subset

RNG = np.random.default_rng(0)
MASKS = [
    np.zeros(0, bool),
    np.zeros(200, bool),
    np.ones(64, bool),
    np.ones(65, bool),
    np.arange(1000) == 999,
    RNG.random(10_000) < 0.5,
    RNG.random(10_000) < 0.001,
]


@pytest.mark.parametrize("mask", MASKS, ids=len)
def test_a_choice_is_the_array_of_its_numbers(mask: np.ndarray) -> None:
    expected = np.flatnonzero(mask)
    cuts = np.sort(RNG.integers(0, len(mask) + 1, 5))
    for choice in (Choice.of(expected), Choice.where(np.split(mask, cuts))):
        assert len(choice) == len(expected)
        assert np.array_equal(choice[np.arange(len(choice))], expected)
        assert choice[np.zeros((0, 7), np.int64)].shape == (0, 7)
        numbers = RNG.integers(0, 2 * len(mask) + 1, 500)
        assert np.array_equal(choice.before(numbers), np.searchsorted(expected, numbers))
        taken = expected[::3]
        left = choice.without(np.union1d(taken, [len(mask) + 10**6]))
        assert np.array_equal(left[np.arange(len(left))], np.setdiff1d(expected, taken))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
def test_all_are_all(count: int) -> None:
    assert np.array_equal(Choice.all(count)[np.arange(count)], np.arange(count))


@pytest.mark.parametrize("where", ["", "Age=1"])
@pytest.mark.parametrize("hold_out", [0, 1, 8, 29])
def test_a_run_learns_from_the_pictures_it_learned_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, hold_out: int
) -> None:
    """Runs that continue from earlier versions: the choice was setdiff1d of all numbers and those held out."""
    from shard_sets import make_set

    make_set(tmp_path, {"train": [70, 30, 90]})
    opened = shards.open_set(tmp_path)
    named = np.sort(RNG.permutation(190)[:150]) if where else np.arange(190)
    monkeypatch.setattr(shards.ShardSet, "choose", lambda *_: Choice.of(named))
    images = chosen_images(opened, RunSettings(where=where, hold_out=hold_out))
    expected = np.setdiff1d(named, held_out(190, hold_out))
    assert len(images) == len(expected)
    assert images.keys(np.arange(len(images))) == opened.split("train").keys(expected)
    if isinstance(images, Subset):
        assert np.array_equal(images.firsts, np.searchsorted(expected, [0, 70, 100, 190]))
    else:
        assert not where and not hold_out
