"""Every metric against an oracle: closed forms, identical sets, monotone under blur and noise, torchmetrics."""

import json
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from facegan.errors import FaceganError, UsageError
from facegan.metrics import (
    Comparison,
    Measurement,
    Ranks,
    Reals,
    Subject,
    evaluate,
    fidelity,
    inception,
    msssim,
    protocol,
    require_same,
    row,
    swd,
)
from facegan.metrics.comparison import short_count
from facegan.metrics.features import RandomNet, randomnet
from facegan.metrics.fidelity import frechet_distance, inception_score, kernel_distance
from facegan.metrics.memorisation import memorisation, nearest
from facegan.metrics.overfit import overfit
from facegan.metrics.precision_recall import density_coverage, precision_recall


@pytest.fixture(autouse=True)
def less_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swd, "DIRECTIONS_PER_REPEAT", 4)
    monkeypatch.setattr(fidelity, "KERNEL_SUBSETS", 20)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_pictures(n: int, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth random pictures: (n, 3, size, size) uint8."""
    smooth = F.interpolate(random(n, 3, 5, 5, seed=seed), size=size, mode="bicubic", antialias=True)
    return (127.5 + 60 * smooth).clamp(0, 255).to(torch.uint8)


class Array:
    """Images (n, C, H, W) uint8 behind the interface of a split."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.asked = 0

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        self.asked += len(indices)
        found: NDArray[np.uint8] = self.images[indices]
        return found


def decode(z: Tensor) -> Tensor:
    """A generator: smooth pictures from latents (n, 75)."""
    smooth = F.interpolate(z.view(-1, 3, 5, 5), size=32, mode="bicubic", antialias=True)
    return (127.5 + 60 * smooth).clamp(0, 255).to(torch.uint8)


def comparison(n: int = 64, **changes: object) -> Comparison:
    reals = Reals(Array(make_pictures(100)), "test", "f" * 64, "150", "bicubic")
    options = {"subject": Subject(decode, 75, 64_000, "abc"), "reals": reals, "n": n} | changes
    return Comparison(**options)  # type: ignore[arg-type]


# Frechet, kernel, Inception score


def test_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Independent coordinates: |m1 - m2|^2 + sum (s1 - s2)^2."""
    a, b = (
        random(200_000, 3),
        random(200_000, 3, seed=1) * torch.tensor([2.0, 1.0, 0.5]) + torch.tensor([1.0, 0, 0]),
    )
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 0.25, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_correlated_sets_matches_a_matrix_square_root() -> None:
    a, b = random(500, 6) @ random(6, 6, seed=2), random(400, 6, seed=1) @ random(6, 6, seed=3) + 0.5
    (ma, ca), (mb, cb) = ((x.double().mean(0), torch.cov(x.double().T)) for x in (a, b))
    values, vectors = torch.linalg.eigh(ca)
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(root @ cb @ root).clamp_min(0).sqrt().sum()
    expected = ((ma - mb) ** 2).sum() + ca.trace() + cb.trace() - 2 * inner
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_kernel_distance_is_the_unbiased_mmd() -> None:
    """All pairs of one subset by hand; and about zero where both sides have one distribution."""
    a, b = random(400, 8).double(), (random(400, 8, seed=1) + 0.5).double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / 8 + 1) ** 3

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    expected = off_diagonal(kernel(a, a)) + off_diagonal(kernel(b, b)) - 2 * kernel(a, b).mean()
    assert kernel_distance(a, b) == pytest.approx(float(expected), rel=0.1)
    assert abs(kernel_distance(a, random(400, 8, seed=5).double())) < float(expected) / 20


def test_kernel_distance_is_seeded_and_leaves_the_global_generator_alone() -> None:
    a, b = random(100, 4), random(100, 4, seed=1)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    assert kernel_distance(a, b) == kernel_distance(a, b)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_inception_score_of_sure_and_varied_predictions_is_the_number_of_classes() -> None:
    one_hot = torch.eye(5).repeat(2000, 1)
    assert inception_score(one_hot) == pytest.approx(5, rel=0.01)
    assert inception_score(torch.full((200, 5), 0.2)) == pytest.approx(1)


# Precision and recall


def test_precision_and_recall_of_equal_sets_are_one_and_of_far_ones_zero() -> None:
    a = random(300, 4)
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, a + 100) == (0, 0)


def test_density_and_coverage_are_counted_by_hand() -> None:
    """Reals at 0, 1, 3, 6 on a line, k = 1: neighbourhoods [-1, 1], [0, 2], [1, 5], [3, 9]."""
    real, fake = torch.tensor([[0.0], [1.0], [3.0], [6.0]]), torch.tensor([[0.5], [1.5], [20.0]])
    assert density_coverage(real, fake, k=1) == ((2 + 2 + 0) / 3, 3 / 4)


def test_density_and_coverage_of_one_distribution_are_what_naeem_et_al_derive() -> None:
    """Density 1, coverage 1 - (n-1)...(n-k) / (2n-1)...(2n-k) whatever the distribution (their equation 9)."""
    n, k = 1000, 5
    found = density_coverage(random(n, 8), random(n, 8, seed=1), k)
    expected = 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])
    assert found.coverage == pytest.approx(expected, abs=0.02)
    assert found.density == pytest.approx(1, abs=0.08)


def test_one_outlier_among_the_reals_lifts_precision_and_not_density() -> None:
    real, fake = torch.cat([random(300, 2), torch.tensor([[40.0, 0.0]])]), random(300, 2, seed=1) + 15
    assert precision_recall(real, fake).precision == 1
    assert density_coverage(real, fake).density < 0.3


def test_missing_variety_lowers_recall_and_not_precision() -> None:
    """Two clusters of reals; the fakes know one."""
    reals = torch.cat([random(200, 3), random(200, 3, seed=1) + 20])
    found = precision_recall(reals, random(200, 3, seed=2))
    assert found.precision > 0.8
    assert 0.3 < found.recall < 0.55


def test_a_point_is_inside_where_the_kth_neighbour_reaches() -> None:
    """Reals at 0, 1, 2, 3, 4 on a line, k = 1: each reaches 1 to both sides."""
    reals = torch.arange(5.0)[:, None]
    assert precision_recall(reals, torch.tensor([[-0.9], [-1.1], [5.1], [2.5]]), k=1).precision == 0.5


# MS-SSIM


def test_ms_ssim_of_an_image_with_itself_is_one_and_falls_with_noise_and_blur() -> None:
    images = make_pictures(8, 64)
    assert torch.allclose(msssim.ms_ssim(images, images), torch.ones(8))
    noise = [float(msssim.ms_ssim(images, images + std * random(8, 3, 64, 64)).mean()) for std in (5, 20, 60)]
    blur = [
        float(
            msssim.ms_ssim(
                images, F.avg_pool2d(F.pad(images.float(), (k,) * 4, mode="reflect"), 2 * k + 1, 1)
            ).mean()
        )
        for k in (1, 3, 6)
    ]
    assert noise == sorted(noise, reverse=True)
    assert blur == sorted(blur, reverse=True)


def test_ms_ssim_is_torchmetrics_own_where_that_takes_the_size() -> None:
    """From 176 pixels on no filter shrinks; torchmetrics pads each scale, so borders differ a little."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    images = make_pictures(2, 256).float()
    worse = (images + 20 * random(*images.shape)).clamp(0, 255)
    expected = theirs(worse, images, data_range=255.0)
    assert float(msssim.ms_ssim(images, worse).mean()) == pytest.approx(float(expected), abs=0.005)


def test_less_variety_means_more_similar_pairs() -> None:
    varied = make_pictures(64)
    alike = (varied.float() * 0.2 + varied[:1].float() * 0.8).to(torch.uint8)
    assert msssim.pair_similarity(alike) > msssim.pair_similarity(varied) + 0.2


def test_ms_ssim_takes_every_size_of_the_recipes_and_refuses_smaller_ones() -> None:
    for height, width in ((28, 28), (62, 47), (128, 128)):
        images = torch.randint(0, 256, (4, 1, height, width), dtype=torch.uint8)
        assert 0 <= msssim.pair_similarity(images) <= 1
    with pytest.raises(FaceganError, match="16 pixels"):
        msssim.pair_similarity(torch.zeros(4, 3, 15, 64, dtype=torch.uint8))


# Random features


def test_random_features_are_the_same_everywhere_and_named_as_what_they_are() -> None:
    extractor = randomnet(3)
    assert extractor.name == "randomnet"
    assert extractor.sha256 == randomnet(3).sha256 != randomnet(1).sha256
    assert extractor.sha256.startswith("5fd74e6af8237698")
    images = make_pictures(6)
    whole, parts = extractor([images]), extractor([images[:1], images[1:]])
    assert whole.shape == (6, RandomNet(3)(images).shape[1])
    torch.testing.assert_close(whole, parts)


def test_distances_on_random_features_grow_with_blur_and_with_noise() -> None:
    reals, others = make_pictures(96), make_pictures(96, seed=1).float()
    real = randomnet(3)([reals])
    noisy = [others + std * random(*others.shape, seed=2) for std in (0, 15, 40)]
    blurred = [F.avg_pool2d(F.pad(others, (k,) * 4, mode="reflect"), 2 * k + 1, 1) for k in (0, 3, 6)]
    for worse in (noisy, blurred):
        found = [kernel_distance(real, randomnet(3)([w.clamp(0, 255).to(torch.uint8)])) for w in worse]
        assert found == sorted(found)


# Memorisation and overfitting


def test_copies_of_training_images_are_found_and_new_images_are_not() -> None:
    training, held_out, new = (make_pictures(200, seed=seed) for seed in (0, 1, 2))
    chunks = [training[:70], training[70:]]
    copied = (training[100:150].float() + 4 * random(50, 3, 32, 32)).clamp(0, 255).to(torch.uint8)
    reals = nearest(held_out, chunks)
    assert torch.equal(nearest(copied, chunks).indices, torch.arange(100, 150))
    assert memorisation(nearest(copied, chunks), reals).copies == 1
    assert memorisation(nearest(copied, chunks), reals).ratio < 0.2
    fresh = memorisation(nearest(new, chunks), reals)
    assert fresh.copies < 0.05
    assert fresh.ratio == pytest.approx(1, abs=0.1)


def test_overfit_is_the_mann_whitney_statistic() -> None:
    assert overfit(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0])).auc == 1
    assert overfit(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])).auc == 0.5
    assert overfit(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 4.0])).auc == pytest.approx(0.5)
    shifted = overfit(random(5000) + 1, random(5000, seed=1))
    assert shifted.gap == pytest.approx(1, abs=0.06)
    assert shifted.auc == pytest.approx(0.760, abs=0.01)  # Phi(1 / sqrt 2)


# Evaluations


def test_every_number_carries_its_count_in_its_key_and_its_protocol_beside_it() -> None:
    found = evaluate(comparison(), ["swd", "msssim", "randomnet"])
    keys = row(found)
    assert {"metrics/swd64", "metrics/swd64_32", "metrics/msssim64_real", "metrics/randomnet_kd64"} <= keys.keys()
    for measurement in found:
        assert {
            "n",
            "set",
            "split",
            "size",
            "crop",
            "filter",
            "seed",
            "snapshot",
            "versions",
        } <= measurement.protocol.keys()
    assert found[0].protocol["size"] == "32x32x3"
    assert found[2].protocol["extractor"] == "randomnet"
    assert [short_count(n) for n in (1000, 1024, 6000, 16_384, 50_000)] == [
        "1000",
        "1k",
        "6000",
        "16k",
        "50k",
    ]


def test_an_evaluation_is_a_function_of_its_seed() -> None:
    one, two = (row(evaluate(comparison(), ["swd", "randomnet"])) for _ in range(2))
    assert one == two
    assert row(evaluate(comparison(seed=1), ["swd", "randomnet"])) != one


def test_the_reals_are_drawn_over_the_whole_split_without_repetition() -> None:
    picked = comparison(n=50).picked
    assert len(set(picked.tolist())) == 50
    assert picked.max() > 90
    assert np.all(np.diff(picked) > 0)


def test_real_pairs_are_not_neighbours_in_the_set() -> None:
    """A set that lists each person twice in a row: its pairs must not be of one person."""
    twice = Reals(Array(make_pictures(50).repeat_interleave(2, dim=0)))
    mixed = row(evaluate(comparison(100, reals=twice), ["msssim"]))["metrics/msssim100_real"]
    assert mixed < 0.5 < msssim.pair_similarity(make_pictures(50).repeat_interleave(2, dim=0))


def test_features_of_the_reals_are_kept_by_fingerprint_and_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    first = comparison(cache=tmp_path)
    expected = row(evaluate(first, ["randomnet"]))
    (file,) = tmp_path.iterdir()
    again = comparison(cache=tmp_path)
    assert row(evaluate(again, ["randomnet"])) == expected
    assert again.reals.images.asked < first.reals.images.asked  # type: ignore[attr-defined]
    file.write_bytes(b"\x93NUMPY rubbish")
    assert row(evaluate(comparison(cache=tmp_path), ["randomnet"])) == expected
    other = Reals(Array(make_pictures(100, seed=9)), "test", "e" * 64)
    evaluate(comparison(cache=tmp_path, reals=other), ["randomnet"])
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_measured_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="unknown metric 'fid'; there are swd"):
        evaluate(comparison(), ["fid"])
    with pytest.raises(FaceganError, match="500 images a side asked for; split 'test' has 100"):
        evaluate(comparison(n=500), ["swd"])
    for metric, needs in (
        ("inception", "FACEGAN_INCEPTION"),
        ("nearest", "split train"),
        ("overfit", "discriminator"),
    ):
        with pytest.raises(UsageError, match=needs):
            evaluate(comparison(), [metric])


def test_memorisation_and_overfitting_of_a_comparison() -> None:
    train = Array(make_pictures(600, seed=4))
    subject = Subject(decode, 75, 64_000, critic=lambda images: images.float().mean(dim=(1, 2, 3)))
    found = row(evaluate(comparison(train=train, subject=subject), ["nearest", "overfit"]))
    assert 0.7 < found["metrics/nearest_ratio64"] < 1.3
    assert 0.3 < found["metrics/overfit_auc64"] < 0.7


def _rank(rank: int, world: int, port: int, out: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    swd.DIRECTIONS_PER_REPEAT, fidelity.KERNEL_SUBSETS = 4, 20
    found = row(evaluate(comparison(n=33, ranks=Ranks.current()), ["swd", "msssim", "randomnet"]))
    Path(out, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_two_ranks_measure_what_one_measures(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (2, port, str(tmp_path)), nprocs=2)
    alone = row(evaluate(comparison(n=33), ["swd", "msssim", "randomnet"]))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(alone, rel=1e-4, abs=1e-6)


# Protocols


def measured(**changes: object) -> Measurement:
    fields = {"n": 64, "set": "f" * 64, "crop": "150", "seed": 0, "snapshot": "abc", "versions": {"torch": "2"}}
    return Measurement("swd", 64_000, {"metrics/swd64": 1.0}, fields | changes)


def test_runs_under_different_protocols_are_not_compared_and_the_difference_is_named() -> None:
    require_same({"a": measured(), "b": measured(snapshot="xyz", versions={})})
    with pytest.raises(FaceganError, match=r"swd of a and of b cannot be compared:\n  crop: 150 against 108"):
        require_same({"a": measured(), "b": measured(crop="108")})
    with pytest.raises(FaceganError, match="extractor: not given against randomnet"):
        require_same({"a": measured(), "b": measured(extractor="randomnet")})


def test_measurements_are_kept_in_order_and_replaced_by_their_like(tmp_path: Path) -> None:
    later = Measurement("swd", 128_000, {"metrics/swd64": 2.0}, measured().protocol)
    protocol.record(tmp_path, [later])
    protocol.record(tmp_path, [measured()])
    replaced = Measurement("swd", 64_000, {"metrics/swd64": 1.5}, measured(versions={"torch": "3"}).protocol)
    protocol.record(tmp_path, [replaced])
    assert protocol.read(tmp_path) == [replaced, later]
    (tmp_path / protocol.FILE).write_text('{"metric": "swd"}\n')
    with pytest.raises(FaceganError, match="line 1: not a measurement"):
        protocol.read(tmp_path)


# Inception from a local file


class Stub(nn.Module):
    """The published file's interface with two numbers inside."""

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        values = images.float().mean(dim=[2, 3])
        if return_features:
            return values.repeat(1, 683)[:, :2048]
        return torch.softmax(values[:, :3].repeat(1, 336), dim=1)


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FACEGAN_INCEPTION", raising=False)
    path = tmp_path / "inception.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Stub()).save(str(path))
    return path


def test_a_torchscript_file_is_loaded_only_after_its_hash_was_confirmed_once(stub: Path) -> None:
    asked: list[str] = []

    def answer(yes: bool) -> bool:
        return yes

    with pytest.raises(FaceganError, match=r"--trust-inception [0-9a-f]{64}"):
        inception.load(stub, lambda digest: answer(False))
    extractor = inception.load(stub, lambda digest: bool(asked.append(digest)) or answer(True))
    assert asked == [extractor.sha256]
    inception.load(stub, lambda digest: pytest.fail("asked again"))
    with stub.open("ab") as file:
        file.write(b"changed")
    with pytest.raises(FaceganError, match="nobody confirmed"):
        inception.load(stub, lambda digest: answer(False))


def test_inception_metrics_are_made_from_the_file_and_carry_its_hash(stub: Path) -> None:
    extractor = inception.load(stub, lambda digest: True)
    (found,) = evaluate(comparison(inception=extractor), ["inception"])
    shares = {f"metrics/inception_{name}64" for name in ("precision", "recall", "density", "coverage")}
    assert (
        found.values.keys()
        == {f"metrics/{name}" for name in ("fid64", "fid64_full", "kid64_full", "is64")} | shares
    )
    assert found.protocol["reals"] == 100
    assert found.protocol["extractor_sha256"] == extractor.sha256
    assert extractor([torch.zeros(2, 1, 28, 28, dtype=torch.uint8)]).shape == (2, 2048 + 1008)


def test_features_of_the_same_reals_are_computed_once_in_a_training() -> None:
    reals = Reals(Array(make_pictures(100)), "val", "f" * 64)
    asked = []
    for _ in range(2):
        evaluate(comparison(reals=reals), ["randomnet"])
        asked.append(reals.images.asked)  # type: ignore[attr-defined]
    assert asked[1] - asked[0] < 10  # their size is asked for, no more


def test_the_published_fid_compares_with_all_reals_and_may_generate_more_than_there_are(stub: Path) -> None:
    extractor = inception.load(stub, lambda digest: True)
    (few,) = evaluate(comparison(inception=extractor), ["inception"])
    (many,) = evaluate(comparison(n=128, inception=extractor), ["inception"])
    reals = extractor([make_pictures(100)])[:, : inception.FEATURES]
    fakes = extractor([torch.cat(list(comparison(n=64)._made()))])[:, : inception.FEATURES]
    assert few.values["metrics/fid64_full"] == pytest.approx(frechet_distance(reals, fakes), rel=1e-6)
    assert few.values["metrics/fid64_full"] != few.values["metrics/fid64"]
    assert "metrics/fid128_full" in many.values
    assert "metrics/fid128" not in many.values  # there are no 128 reals to take
    assert "metrics/inception_precision100" in many.values


def test_a_missing_or_foreign_inception_file_is_explained(
    tmp_path: Path, stub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inception.find("") is None
    monkeypatch.setenv("FACEGAN_INCEPTION", str(tmp_path / "absent.pt"))
    with pytest.raises(FaceganError, match="no such file"):
        inception.find("")
    (tmp_path / "foreign.pt").write_bytes(b"not a network")
    with pytest.raises(FaceganError, match="is no TorchScript file"):
        inception.load(tmp_path / "foreign.pt", lambda digest: True)
