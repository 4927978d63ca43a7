"""Weighted mixtures of sets: shares, each set's own order, ranks, continuing, and what is refused."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_sets import make_set

import shards
from facegan.errors import UsageError
from facegan.export.terms import data_of, restriction, samples_of
from facegan.run.checkpoint import newest_checkpoint
from facegan.run.snapshot import load_snapshot
from jobs.cli import main
from jobs.values import parse_mix
from shards.errors import ShardError
from shards.format.columns import Ints
from shards.format.mapping import Bytes
from shards.read import mixture
from shards.read.device import DeviceImages
from shards.read.images import Images
from shards.read.labels import Labels, Subset, join_labels
from shards.read.mixture import MixedImages, MixtureInStreams, MixtureOrder
from shards.read.order import GlobalOrder, WindowOrder
from shards.read.stage import share_room

TINY = ("--resolution", "16", "--ngf", "4", "--ndf", "4", "--batch-size", "6", "--samples", "4", "--wandb", "off")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of 16 px, of 48 and of 10 images, and one of 8 px."""
    where = tmp_path_factory.mktemp("sets")
    make_set(where / "many" / "16", {"train": [40, 8]}, 16, 16)
    make_set(where / "few" / "16", {"train": [10]}, 16, 16)
    make_set(where / "small" / "8", {"train": [4]})
    make_set(where / "empty" / "16", {"train": [0], "val": [3]}, 16, 16)
    (where / "few" / "terms.txt").write_text("for research only")
    return where


@pytest.fixture(scope="module")
def parts(folder: Path) -> list[Images]:
    return [shards.open_set(folder / name).split("train") for name in ("many", "few")]


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [([48, 10], [3, 1]), ([7, 9], [Fraction(2, 3), Fraction(1, 3)]), ([50, 1, 13], [Fraction("0.7"), 1, 2])],
)
def test_each_set_has_its_share_of_each_period_and_is_read_in_its_own_order(
    sizes: list[int], shares: list[Fraction | int]
) -> None:
    order, firsts = MixtureOrder(sizes, shares, seed=5), np.cumsum([0, *sizes])
    found = order.at(np.arange(order.period * 40))
    which = np.searchsorted(firsts, found, side="right") - 1
    turns = set()
    for block in which.reshape(-1, order.period):
        assert np.bincount(block, minlength=len(sizes)).tolist() == order.weights
        turns.add(tuple(block.tolist()))
    assert len(turns) > 1
    for number, size in enumerate(sizes):
        mine = found[which == number] - firsts[number]
        assert np.array_equal(mine, GlobalOrder(size, 5).at(np.arange(len(mine))))
        assert sorted(mine[:size].tolist()) == list(range(size))
    anywhere = np.random.default_rng(0).permutation(order.period * 40)[:200]
    assert np.array_equal(order.at(anywhere), found[anywhere])
    assert not np.array_equal(MixtureOrder(sizes, shares, seed=6).at(np.arange(40)), found[:40])
    assert order.at(np.array([10**15])).shape == (1,)


SIZES = [np.array(sizes) for sizes in ([7, 3, 9, 0, 5, 8, 11, 2] * 2, [30], [6, 5, 6, 5])]


def test_in_streams_each_set_is_read_in_the_order_that_it_has_alone_with_these_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mixture, "FEW", 1)
    order = MixtureInStreams(
        SIZES, [Fraction(1, 2), Fraction(1, 8), Fraction(3, 8)], seed=3, batch_size=12, streams=4
    )
    assert (order.name, order.weights) == ("mixture of 4:1:3 in 4 streams", [4, 1, 3])
    batches = 80  # of three places a stream: thirty periods of eight
    found = order.at(np.arange(12 * batches)).reshape(batches, 4, 3)
    which = np.searchsorted(order.firsts, found, side="right") - 1
    alone = [WindowOrder(sizes, 3, 4 * w, 4, 2) for sizes, w in zip(SIZES, order.weights, strict=True)]
    for stream in range(4):
        read, of_set = found[:, stream].reshape(-1), which[:, stream].reshape(-1, 8)
        for number, weight in enumerate(order.weights):
            assert (np.count_nonzero(of_set == number, axis=1) == weight).all()
            mine = read[of_set.reshape(-1) == number] - order.firsts[number]
            places = (np.arange(30)[:, None] * 4 + stream) * weight + np.arange(weight)
            assert np.array_equal(mine, alone[number].at(places.reshape(-1)))
    anywhere = np.random.default_rng(0).permutation(12 * batches)[:200]
    assert np.array_equal(order.at(anywhere), found.reshape(-1)[anywhere])


@pytest.mark.parametrize("few", [1, 10, 64])
def test_in_streams_a_set_s_passes_are_exact_whether_it_is_shuffled_as_one_or_not(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "FEW", few)
    order = MixtureInStreams(SIZES[:2], [1, 1], seed=3, batch_size=8, streams=4)
    assert [each.name for each in order.orders].count("window") == {1: 2, 10: 1, 64: 0}[few]
    found = order.at(np.arange(8 * 90))
    for number, size in enumerate((90, 30)):
        mine = found[(found >= order.firsts[number]) & (found < order.firsts[number + 1])]
        assert len(mine) == 360
        assert (np.bincount(mine - order.firsts[number], minlength=size) == 360 // size).all()


class Announced(MixedImages):
    """Fails where a sample is read whose shard was not announced, or one is announced that is not near."""

    now = frozenset[int]()

    def expect(self, now: Ints, then: Ints) -> None:
        self.now = frozenset(now.tolist())
        super().expect(now, then)

    def gather_at(self, places: Ints) -> Bytes:
        shards_read = self.locate(places)[0].tolist()
        assert self.now.issuperset(shards_read) and len(self.now) < 40
        return super().gather_at(places)


@pytest.mark.parametrize("world", [1, 2, 3, 12])
def test_ranks_of_a_mixture_in_streams_stage_only_what_they_read(tmp_path: Path, world: int) -> None:
    sizes = {"large": [6] * 40, "other": [6] * 24, "tiny": [4]}
    for seed, (name, counts) in enumerate(sizes.items()):
        make_set(tmp_path / name, {"train": counts}, seed=seed)
    counts = [np.array(each) for each in sizes.values()]
    order = MixtureInStreams(counts, [5, 2, 1], seed=1, batch_size=12, streams=2)
    plain = MixedImages([shards.open_set(tmp_path / name).split("train") for name in sizes])
    alone = shards.Stream(plain, 12, 1, nimg=240, order=order)
    ranks, folders = [], [tmp_path / f"node-{rank}" for rank in range(world)]
    for rank, folder in enumerate(folders):
        opened = [shards.open_set(tmp_path / name, stage=folder, stage_limit=1 << 20) for name in sizes]
        size = opened[0].index.shards[0].bytes
        share_room([each.files for each in opened], 46 * size)  # type: ignore[misc]
        assert [each.files.partial for each in opened] == [True, True, False]
        images = Announced([each.split("train") for each in opened])
        ranks.append(shards.Stream(images, 12, 1, rank, world, 240, order))
    for _ in range(60):
        assert torch.equal(torch.cat([next(rank) for rank in ranks]), next(alone))
    first = [path.name for path in folders[0].rglob("*.tar")]
    assert len(first) <= 46, "a part of the sets at a time"


def test_what_a_small_set_leaves_of_a_stage_the_larger_ones_have(tmp_path: Path) -> None:
    opened = []
    for name, count in (("large", 40), ("small", 1), ("middle", 24)):
        make_set(tmp_path / name, {"train": [4] * count}, seed=count)
        opened.append(shards.open_set(tmp_path / name, stage=tmp_path / "stage"))
    size = opened[0].index.shards[0].bytes
    for limit, shares in ((21, [10, 1, 10]), (57, [32, 1, 24]), (70, [40, 1, 24])):
        share_room([each.files for each in opened], limit * size)  # type: ignore[misc]
        assert [each.files.limit for each in opened] == [share * size for share in shares]  # type: ignore[attr-defined]


@pytest.mark.parametrize("world", [1, 2, 6])
def test_ranks_share_each_batch_and_any_of_them_goes_on_at_any_batch(parts: list[Images], world: int) -> None:
    images, order = MixedImages(parts), MixtureOrder([48, 10], [Fraction(3, 4), Fraction(1, 4)], seed=1)
    whole = np.concatenate([part.gather(np.arange(len(part))) for part in parts])
    streams = [shards.Stream(images, 6, 1, rank, world, nimg=60, order=order) for rank in range(world)]
    for batch in range(10, 40):
        read = torch.cat([next(stream) for stream in streams]).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(read, whole[order.at(np.arange(6 * batch, 6 * batch + 6))])
    assert streams[0].samples == 58
    assert streams[0].keys_at(np.arange(4)) == images.keys(order.at(np.arange(4)))


def test_a_mixture_is_read_from_a_device_s_memory_and_from_subsets_alike(parts: list[Images]) -> None:
    images = MixedImages([Subset(parts[0], np.arange(0, 48, 3)), parts[1]])
    order = MixtureOrder([16, 10], [1, 1], seed=2)
    batches = [
        next(shards.Stream(each, 8, 2, order=order)) for each in (images, DeviceImages(images, torch.device("cpu")))
    ]
    assert torch.equal(*batches)


def test_labels_of_sets_are_joined_with_identities_kept_apart() -> None:
    one = Labels(("Smiling",), np.array([[1], [0]], np.int16), np.array([0, -1]))
    two = Labels(("Smiling",), np.array([[0], [1]], np.int16), np.array([1, 0]))
    joined = join_labels([one, two])
    assert joined.identities.tolist() == [0, -1, 2, 1] and joined.values[:, 0].tolist() == [1, 0, 0, 1]
    with pytest.raises(ShardError, match="labels of Male do not go with those of Smiling"):
        join_labels([one, Labels(("Male",), two.values, two.identities)])


def test_sets_that_cannot_be_mixed_are_refused(folder: Path, parts: list[Images]) -> None:
    with pytest.raises(ShardError, match="sets of one size can be mixed, these are 16x16x3, 8x8x3"):
        MixedImages([parts[0], shards.open_set(folder / "small").split("train")])
    with pytest.raises(ShardError, match="batch size 6 is not a multiple of the 4 streams of shards"):
        MixtureInStreams([np.array([8]), np.array([8])], [1, 1], seed=0, batch_size=6, streams=4)
    with pytest.raises(ShardError, match=r"are 999:2 in whole numbers: expected such that add up to at most 1,000"):
        MixtureOrder([4, 4], [999, 2], seed=0)
    with pytest.raises(ShardError, match="shares of a mixture are above 0, got 1, 0"):
        MixtureOrder([4, 4], [1, 0], seed=0)


def test_what_to_mix_in_is_a_share_a_set() -> None:
    assert parse_mix("") == {}
    assert parse_mix("s3://bucket/a?v=2=1/3, data/own=0.25") == {
        "s3://bucket/a?v=2": Fraction(1, 3),
        "data/own": Fraction(1, 4),
    }
    for text in ("data/own", "=1/4", "data/own=0", "data/own=1/0", "data/own=-1", "a=0.1,a=0.1"):
        with pytest.raises(UsageError, match="expected SET=SHARE"):
            parse_mix(text)
    with pytest.raises(UsageError, match="add up to 1: nothing is left for --data"):
        parse_mix("a=1/2,b=1/2")


def train(folder: Path, run: Path, mix: str, *more: str) -> int:
    words = ["train", "dcgan-64", *TINY, "--data", str(folder / "many"), "--mix", mix, "--run-dir", str(run)]
    return int(main([*words, "--device", "cpu", "--threads", "1", *more], standalone_mode=False) or 0)


def test_a_mixed_training_continues_bit_exactly_and_only_with_its_own_mixture(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mix = f"{folder}/few=1/4"
    for run, lengths in {"once": ["0.048"], "twice": ["0.018", "0.048"]}.items():
        for kimg in lengths:
            assert train(folder, tmp_path / run, mix, "--kimg", kimg) == 0
    ends = [newest_checkpoint(tmp_path / run / "checkpoints", print) for run in ("once", "twice")]
    assert ends[0] and ends[1] and ends[0].tensors.keys() == ends[1].tensors.keys()
    assert all(torch.equal(value, ends[1].tensors[name]) for name, value in ends[0].tensors.items())

    data = json.loads((tmp_path / "once" / "config.json").read_text())["data"]
    few = shards.open_set(folder / "few").fingerprint
    assert (data["samples"], data["order"]) == (58, f"mixture of 3:1 with {few[:12]}")
    assert [(each["share"], each["fingerprint"]) for each in data["mixed"]] == [("1/4", few)]
    snapshot = load_snapshot(tmp_path / "once")
    assert restriction(snapshot) == "for research only"
    assert (data_of(snapshot), samples_of(snapshot)) == ("test", 58)
    snapshot.meta["data"]["mixed"][0]["source"]["name"] = "own"
    assert data_of(snapshot) == "test and own"

    for more, flags, words in (
        ("few=1/2", (), "stored 'mixture of 3:1 with"),
        ("many=1/2", (), "many is a set that is there already"),
        ("few=1/4", ("--streams", "2"), "streams: stored 0"),
        ("small=1/2", (), "no set of resolution 16"),
        ("few=1/4", ("--where", "Smiling=1"), f"{folder}/many/16: --where Smiling=1: expected ATTRIBUTE=NUMBER"),
        ("empty=1/4", (), "empty/16: split train is empty"),
        ("few=1/4", ("--stage", str(tmp_path / "stage"), "--stage-gb", "0.00001"), "the stage may hold 5,000 of"),
    ):
        assert train(folder, tmp_path / "once", f"{folder}/{more}", "--kimg", "0.06", *flags) > 0
        assert words in capfd.readouterr().err


def test_a_mixture_of_staged_sets_in_streams_stops_and_goes_on_exactly(folder: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        make_set(tmp_path / name / "16", {"train": [12] * 16}, 16, 16, seed=seed)
    limit = 24 * shards.open_set(tmp_path / "one").index.shards[0].bytes / 1e9
    mix, flags = f"{tmp_path}/two=1/3", ("--data", str(tmp_path / "one"), "--streams", "2")
    for run, lengths in {"once": ["0.096"], "staged": ["0.036", "0.096"]}.items():
        for kimg in lengths:  # a folder each: this process goes on reading what the first has staged
            stage = ("--stage", str(tmp_path / kimg), "--stage-gb", f"{limit:.9f}") if run == "staged" else ()
            assert train(folder, tmp_path / run, mix, "--kimg", kimg, *flags, *stage) == 0
    ends = [newest_checkpoint(tmp_path / run / "checkpoints", print) for run in ("once", "staged")]
    assert ends[0] and ends[1]
    assert all(torch.equal(value, ends[1].tensors[name]) for name, value in ends[0].tensors.items())
    data = json.loads((tmp_path / "staged" / "config.json").read_text())["data"]
    assert data["order"].startswith("mixture of 2:1 in 2 streams with ")
