"""The stream: exact epochs, elastic ranks, one integer of state."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_sets import make_set

import shards
from shards.errors import ShardError
from shards.format.columns import Shard
from shards.format.mapping import Bytes
from shards.read import stream as stream_module
from shards.read.files import Folder
from shards.read.images import Images
from shards.read.mapped import Ints
from shards.read.stream import AHEAD


class Numbered(Images):
    """Images of one pixel whose three bytes hold their own number: no files, any size."""

    def __init__(self, sizes: list[int]) -> None:
        self.height, self.width, self.channels = 1, 1, 3
        self.shards = [Shard(f"{i}.tar", "train", size, 0, "") for i, size in enumerate(sizes)]
        self.firsts = np.cumsum([0, *sizes])
        self.split, self.files, self.version = "train", Folder(Path()), 2

    def gather_at(self, places: Ints) -> Bytes:
        return places.astype("<i8").view(np.uint8).reshape(-1, 1, 1, 8)[..., :3].copy()

    def keys(self, indices: Ints) -> list[str]:
        return [str(number) for number in indices]


def numbers(batch: torch.Tensor) -> list[int]:
    rows = batch.permute(0, 2, 3, 1).reshape(-1, 3).long()
    return (rows[:, 0] + 256 * rows[:, 1] + 65536 * rows[:, 2]).tolist()


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], int, dict[str, Any]]:
    """Sizes of shards, a number of ranks that divides the batch, and the options of a stream."""
    sizes = draw(st.lists(st.integers(0, 60), min_size=1, max_size=9).filter(any))
    world, share = draw(st.sampled_from([1, 2, 3, 4])), draw(st.integers(1, 5))
    streams = draw(st.integers(1, 6))
    options: dict[str, Any] = {"batch_size": math.lcm(streams, world) * share, "seed": draw(st.integers(0, 2**32))}
    if draw(st.booleans()):
        options |= {"order": "window", "streams": streams, "window": draw(st.integers(1, 3))}
    return sizes, world, options


@given(runs(), st.integers(0, 40))
@settings(max_examples=120, deadline=None)
def test_the_global_batches_do_not_depend_on_the_ranks(
    run: tuple[list[int], int, dict[str, Any]], skip: int
) -> None:
    sizes, world, options = run
    images, start = Numbered(sizes), skip * options["batch_size"]
    alone = shards.Stream(images, **options)
    alone.seek(start)
    ranks = [shards.Stream(images, rank=rank, world=world, nimg=start, **options) for rank in range(world)]
    for _ in range(4):
        together = [number for rank in ranks for number in numbers(next(rank))]
        positions = np.arange(alone.nimg, alone.nimg + options["batch_size"])
        assert together == numbers(next(alone)) == [int(key) for key in ranks[0].keys_at(positions)]


@given(runs())
@settings(max_examples=80, deadline=None)
def test_every_epoch_reads_every_sample_once_across_the_batches(run: tuple[list[int], int, dict[str, Any]]) -> None:
    sizes, _, options = run
    stream, n, read = shards.Stream(Numbered(sizes), **options), sum(sizes), []
    while len(read) < 3 * n:
        read += numbers(next(stream))
    assert all(sorted(read[epoch * n : (epoch + 1) * n]) == list(range(n)) for epoch in range(3))


@given(runs(), st.integers(0, 30), st.sampled_from([1, 2, 4]))
@settings(max_examples=80, deadline=None)
def test_a_stream_resumed_on_other_ranks_continues_exactly(
    run: tuple[list[int], int, dict[str, Any]], batches: int, other: int
) -> None:
    sizes, world, options = run
    if options["batch_size"] % other:
        other = 1
    images = Numbered(sizes)
    whole = shards.Stream(images, **options)
    expected = [numbers(next(whole)) for _ in range(batches + 3)]
    first = [shards.Stream(images, rank=rank, world=world, **options) for rank in range(world)]
    log = [[number for rank in first for number in numbers(next(rank))] for _ in range(batches)]
    state = first[0].nimg
    second = [shards.Stream(images, rank=rank, world=other, nimg=state, **options) for rank in range(other)]
    log += [[number for rank in second for number in numbers(next(rank))] for _ in range(3)]
    assert log == expected


BEFORE_VERSION_2 = "66d68f878a29835ea6beaa85452ceb187516913f3e26620c23c9caf9bea6a409"  # by the code of that time


class Watched(Numbered):
    """Fails where a sample is read whose shard was not announced."""

    announced: frozenset[int] = frozenset()

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(sizes)
        self.files.partial = True

    def expect(self, now: Ints, then: Ints) -> None:
        self.announced = frozenset(now.tolist())

    def gather_at(self, places: Ints) -> Bytes:
        assert self.announced.issuperset(self.locate(places)[0].tolist())
        return super().gather_at(places)


@pytest.mark.parametrize("world", [1, 3, 5, 12, 60])
def test_any_number_of_ranks_that_divides_the_batch_shares_the_streams(world: int) -> None:
    sizes = [7, 3, 9, 0, 5, 8, 11, 2] * 3
    options: dict[str, Any] = {"batch_size": 60, "seed": 1, "streams": 4, "window": 2}
    alone = shards.Stream(Numbered(sizes), **options)
    ranks = [shards.Stream(Watched(sizes), rank=rank, world=world, **options) for rank in range(world)]
    for _ in range(12):
        assert [number for rank in ranks for number in numbers(next(rank))] == numbers(next(alone))


def test_a_set_of_version_1_keeps_the_order_that_its_runs_began_with() -> None:
    images = Numbered([10] * 1200)
    images.version = 1
    old = shards.Stream(images, batch_size=192, seed=4, order="window")
    assert (old.order.name, old.order.streams) == ("window", 64)
    digest = hashlib.sha256(old.order.at(np.arange(30_000)).astype("<i8").tobytes()).hexdigest()
    assert (
        digest == "66d68f878a29835ea6beaa85452ceb187516913f3e26620c23c9caf9bea6a409"
    )  # computed by the code before version 2
    images.version = 2
    new = shards.Stream(images, batch_size=192, seed=4, order="window")
    assert (new.order.name, new.order.streams) == ("window of 96 streams", 96)
    assert shards.Stream(images, batch_size=192, seed=4, streams=64).order.name == "window of 64 streams"


def test_the_state_is_the_number_of_images_read_over_all_ranks() -> None:
    stream = shards.Stream(Numbered([100]), batch_size=12, seed=0, rank=1, world=3)
    assert [tuple(next(stream).shape), stream.nimg, stream.samples] == [(4, 3, 1, 1), 12, 100]
    stream.seek(10**15)
    assert len(numbers(next(stream))) == 4
    assert stream.nimg == 10**15 + 12


def test_seeds_give_other_orders_and_the_same_seed_the_same() -> None:
    orders = [numbers(next(shards.Stream(Numbered([500]), batch_size=64, seed=seed))) for seed in (1, 2, 1)]
    assert orders[0] == orders[2] != orders[1]


def test_blocks_of_positions_computed_ahead_join_without_a_seam() -> None:
    stream = shards.Stream(Numbered([70_000]), batch_size=48, seed=3)
    read = [number for _ in range(2 * AHEAD // 48 + 3) for number in numbers(next(stream))]
    assert read == [int(key) for key in stream.keys_at(np.arange(stream.nimg))]


def test_a_billion_samples_stream_in_constant_memory() -> None:
    import tracemalloc

    class Huge(Numbered):
        def gather_at(self, places: Ints) -> Bytes:
            return np.zeros((len(places), 1, 1, 3), np.uint8)

    for order in ("global", "window"):
        stream = shards.Stream(Huge([10**5] * 10**4), batch_size=256, seed=0, order=order)  # type: ignore[arg-type]
        tracemalloc.start()
        for start in range(0, 10**9, 10**8):
            stream.seek(start // 256 * 256)
            next(stream)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10, "world": 4}, "batch size 10: not a multiple of the 4 ranks"),
        ({"batch_size": 8, "rank": 2, "world": 2}, "rank 2 of 2"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 8, "streams": 3}, "batch size 8 is not a multiple of the 3 streams"),
        ({"batch_size": 8, "order": "window", "nimg": 4}, "nimg 4: a whole number of batches of 8"),
        ({"batch_size": 8, "nimg": -8}, "nimg -8"),
    ],
)
def test_impossible_streams_say_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        shards.Stream(Numbered([64]), seed=0, **options)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any), world=st.sampled_from([1, 2]))
def test_real_shards_stream_the_pixels_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], world: int
) -> None:
    folder = tmp_path_factory.mktemp("set")
    written = make_set(folder, {"train": sizes}, 4, 6)["train"]
    images = shards.open_set(folder).split("train")
    ranks = [shards.Stream(images, batch_size=6, seed=5, rank=rank, world=world) for rank in range(world)]
    for batch in range(3):
        pixels = torch.cat([next(rank) for rank in ranks]).permute(0, 2, 3, 1).numpy()
        keys = ranks[0].keys_at(np.arange(6 * batch, 6 * batch + 6))
        assert np.array_equal(pixels, written[[int(key[1:]) for key in keys]])


def test_where_batches_come_slowly_the_next_one_is_announced_and_the_images_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_set(tmp_path, {"train": [5] * 6})
    images = shards.open_set(tmp_path).split("train")
    monkeypatch.setattr(stream_module, "COLD", 1e-9)  # as from memory
    monkeypatch.setattr(images, "will_need", lambda places: pytest.fail("announced"))
    expected = [batch.clone() for batch, _ in zip(shards.Stream(images, 4, seed=1), range(6), strict=False)]
    announced: list[np.ndarray] = []
    images = shards.open_set(tmp_path).split("train")
    images.mapped.limit = 4  # type: ignore[attr-defined]
    announce, gathered = images.will_need, []
    monkeypatch.setattr(stream_module, "COLD", 1e30)  # as from a disk
    monkeypatch.setattr(images, "will_need", lambda places: (announced.append(places), announce(places)))
    gather = images.batch_at
    monkeypatch.setattr(images, "batch_at", lambda places: (gathered.append(places), gather(places))[1])
    found = [batch.clone() for batch, _ in zip(shards.Stream(images, 4, seed=1), range(6), strict=False)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert [list(places) for places in announced[:5]] == [list(places) for places in gathered[1:6]]
