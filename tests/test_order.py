"""The order of samples: exact epochs, a real shuffle, the same batches on any number of ranks."""

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.read.order import GlobalOrder, Order, Permutation, WindowOrder, window_shape


@st.composite
def window_orders(draw: st.DrawFn) -> WindowOrder:
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any))
    streams = draw(st.sampled_from([1, 2, 3, 4, 8]))
    batch_size = streams * draw(st.integers(1, 6))
    return WindowOrder(sizes, draw(st.integers(0, 99)), batch_size, streams, draw(st.integers(1, 5)))


def orders() -> st.SearchStrategy[Order]:
    return st.builds(GlobalOrder, st.integers(1, 400), st.integers(0, 2**40)) | window_orders()


@given(st.integers(1, 20_000), st.integers(0, 2**63), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_permutation_hits_every_entry_once(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(Permutation(n, seed, epoch)(np.arange(n))), np.arange(n))


@given(orders(), st.integers(0, 4))
@settings(max_examples=150, deadline=None)
def test_every_epoch_holds_every_sample_once(order: Order, epoch: int) -> None:
    n = order.samples
    read = order.at(np.arange(epoch * n, (epoch + 1) * n))
    assert np.array_equal(np.sort(read), np.arange(n))


@given(orders(), st.integers(0, 10**7), st.data())
@settings(max_examples=100, deadline=None)
def test_a_position_reads_the_same_sample_whoever_asks_and_in_whatever_company(
    order: Order, start: int, data: st.DataObject
) -> None:
    positions = np.arange(start, start + 3 * order.samples)
    chosen = np.array(data.draw(st.lists(st.sampled_from(positions.tolist()), min_size=1, max_size=20)))
    assert np.array_equal(order.at(positions)[chosen - start], order.at(chosen))


@given(window_orders(), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_a_stream_reads_only_the_shards_of_its_windows(order: WindowOrder, batch: int) -> None:
    turn = order.batch_size // order.streams
    for stream in range(order.streams):
        start = batch * order.batch_size + stream * turn
        shard = np.searchsorted(order.firsts, order.at(np.array([start])), side="right") - 1
        now, _ = order.shards(start, range(stream, stream + 1))
        assert shard[0] in now
        assert len(now) <= order.window


def test_streams_share_no_shard_but_those_at_their_borders() -> None:
    order = WindowOrder([100] * 64, seed=1, batch_size=64, streams=4, window=2)
    read = order.at(np.arange(3 * order.samples))
    stream = np.arange(3 * order.samples) % 64 // 16
    shards = [set((read[stream == s] // 100).tolist()) for s in range(4)]
    assert all(16 <= len(mine) <= 18 for mine in shards)
    assert len(shards[0] & shards[1]) <= 2
    assert not shards[0] & shards[2]


def test_the_shards_of_the_next_window_are_known_before_it_begins() -> None:
    order = WindowOrder([10] * 12, seed=5, batch_size=4, streams=2, window=2)
    announced: set[int] = set()
    for position in range(0, 4 * order.samples, 4):
        now, then = (set(part.tolist()) for part in order.shards(position, range(2)))
        assert now <= announced | now if position == 0 else now <= announced
        announced = now | then


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_all_orders_of_a_small_set_are_equally_likely(n: int) -> None:
    draws = 20 * math.factorial(n)
    seen = Counter(tuple(Permutation(n, 11, epoch)(np.arange(n)).tolist()) for epoch in range(draws))
    assert len(seen) == math.factorial(n)
    assert chi_square_z(np.array(list(seen.values()))) < 5


@pytest.mark.parametrize("n", [4097, 202_599])
def test_the_shuffle_of_a_large_set_looks_uniform(n: int) -> None:
    """Places, steps between neighbours and the two orders of a pair, against their expected counts."""
    orders = np.stack([Permutation(n, 3, epoch)(np.arange(2048)) for epoch in range(40)])
    assert chi_square_z(np.bincount(orders.ravel() * 64 // n, minlength=64)) < 5
    steps = (np.diff(orders, axis=1) % n) * 64 // n
    assert chi_square_z(np.bincount(steps.ravel(), minlength=64)) < 5
    firsts = np.stack([Permutation(n, 3, epoch)(np.arange(2)) for epoch in range(4000)])
    assert chi_square_z(np.bincount(firsts[:, 0] * 16 // n * 16 + firsts[:, 1] * 16 // n, minlength=256)) < 5
    assert abs(int((firsts[:, 0] < firsts[:, 1]).sum()) - 2000) < 5 * math.sqrt(1000)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 5000])
def test_many_epochs_at_once_are_read_as_each_alone(n: int) -> None:
    positions = np.random.default_rng(0).integers(0, 40 * n, 500)
    each = [divmod(position, n) for position in positions.tolist()]
    alone = [int(Permutation(n, 6, epoch)(np.array([entry]))[0]) for epoch, entry in each]
    assert GlobalOrder(n, 6).at(positions).tolist() == alone


def test_epochs_and_seeds_are_unrelated() -> None:
    """Two random permutations agree at one entry on average (Poisson with mean 1)."""
    n = 50_000
    shuffles = [Permutation(n, seed, epoch)(np.arange(n)) for seed in range(2) for epoch in range(3)]
    agreements = [int((a == b).sum()) for i, a in enumerate(shuffles) for b in shuffles[:i]]
    assert max(agreements) <= 8
    assert abs(np.corrcoef(shuffles[0], shuffles[1])[0, 1]) < 5 / math.sqrt(n)


def test_a_window_shuffles_across_its_shards() -> None:
    order = WindowOrder([1000] * 16, seed=2, batch_size=32, streams=2, window=4)
    read = order.at(np.arange(2000))[np.arange(2000) % 32 < 16]  # the first stream's first window, in part
    shards, counts = np.unique(read // 1000, return_counts=True)
    assert len(shards) == 4
    assert chi_square_z(counts) < 5
    assert abs(np.corrcoef(np.arange(len(read)), read)[0, 1]) < 0.2


@pytest.mark.parametrize("kind", ["global", "window"])
def test_a_billion_samples_cost_no_memory(kind: str) -> None:
    """Two million positions of a set of 10^9, spread over an epoch: no repeats, a few MB."""
    n, shards = 10**9, 10_000
    order: Order = GlobalOrder(n, 9)
    if kind == "window":
        order = WindowOrder([n // shards] * shards, 9, 128, *window_shape(shards, 128))
    read = []
    tracemalloc.start()
    for start in np.linspace(7 * n, 8 * n, 64, endpoint=False, dtype=np.int64):
        read.append(order.at(np.arange(start, start + 8192)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    samples = np.concatenate(read)
    assert samples.min() >= 0 and samples.max() < n
    assert len(np.unique(samples)) == len(samples)
    assert peak < 32 << 20


@pytest.mark.parametrize("shards", [1, 2, 8, 20, 200, 1600, 100_000])
@pytest.mark.parametrize("batch_size", [1, 24, 100, 128])
def test_the_shape_of_the_windows_fits_the_set_and_the_batch(shards: int, batch_size: int) -> None:
    streams, window = window_shape(shards, batch_size)
    assert batch_size % streams == 0
    assert 1 <= streams <= 4096 and 2 <= window <= 8
    assert streams == 1 or 2 * streams * window <= shards


def test_a_set_of_a_million_shards_has_streams_for_thousands_of_ranks() -> None:
    assert window_shape(10**6, 65_536) == (4096, 8)
    assert window_shape(10**6, 96 * 12)[0] == 1152  # any divisor, not only powers of two
    assert window_shape(10**6, 65_536, version=1)[0] == 64
    assert window_shape(10**6, 96, streams=12) == (12, 8)


def test_impossible_orders_say_why() -> None:
    with pytest.raises(ShardError, match="empty"):
        GlobalOrder(0, 1)
    with pytest.raises(ShardError, match="not a multiple of the 3 streams"):
        WindowOrder([5, 5], 1, 8, 3, 2)


def chi_square_z(counts: np.ndarray) -> float:
    """How many standard deviations the chi-square statistic of equal bins lies above its mean."""
    expected = counts.sum() / len(counts)
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return float((statistic - freedom) / math.sqrt(2 * freedom))
