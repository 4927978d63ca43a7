"""Measure a generator against real images: the metrics by name, each number with how it was made."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facegan.errors import FaceganError, UsageError
from facegan.metrics import detector, fidelity, memorisation, msssim, overfit, precision_recall, swd
from facegan.metrics.comparison import CHUNK, Comparison, chunks, common_protocol, draw, short_count
from facegan.metrics.features import Extractor
from facegan.metrics.protocol import Measurement

Values = dict[str, float]
Result = tuple[Values, dict[str, Any]]  # numbers by name without prefix, and the metric's own protocol


def _swd(c: Comparison) -> Result:
    levels = swd.sliced_wasserstein(c.real, c.fake, c.seed, c.ranks)
    values = {f"swd{c.count}": levels.pop("mean")} | {f"swd{c.count}_{name}": v for name, v in levels.items()}
    return values, {
        "protocol": "Karras et al. 2018",
        "levels": "mean over " + ", ".join(levels),
        "patches": swd.PATCHES_PER_IMAGE,
        "directions": swd.REPEATS * swd.DIRECTIONS_PER_REPEAT,
    }


def _msssim(c: Comparison) -> Result:
    order = np.random.Generator(np.random.Philox(key=c.seed)).permutation(c.n)  # neighbours may be one person
    fake, real = msssim.pair_similarity(c.fake, c.ranks), msssim.pair_similarity(c.real[order], c.ranks)
    return {f"msssim{c.count}": fake, f"msssim{c.count}_real": real}, {"pairs": c.n // 2}


def _randomnet(c: Comparison) -> Result:
    real, fake = c.features(c.randomnet)
    values = {f"randomnet_kd{c.count}": fidelity.kernel_distance(real, fake, c.seed)}
    return values | _manifolds("randomnet", real, fake), _feature_protocol(c, c.randomnet)


def _manifolds(name: str, real: Tensor, fake: Tensor) -> Values:
    """Precision, recall, density and coverage on one network's features, as many on each side; named by it."""
    shares = precision_recall.precision_recall(real, fake)._asdict()
    shares |= precision_recall.density_coverage(real, fake)._asdict()
    return {f"{name}_{key}{short_count(len(fake))}": value for key, value in shares.items()}


def _faces(c: Comparison) -> Result:
    cascades = detector.detector()
    real, fake = (detector.FaceShares(*side.double().mean(dim=0).tolist()) for side in c.features(cascades))
    key = f"faces{c.count}"
    values = {key: fake.face, f"{key}_real": real.face, f"{key}_eyes": fake.eyes, f"{key}_eyes_real": real.eyes}
    return values, {"extractor": cascades.name, "extractor_sha256": cascades.sha256, "looked_at": detector.SIDE}


def _inception(c: Comparison) -> Result:
    from facegan.metrics.inception import FEATURES

    if c.inception is None:
        raise UsageError("the metric inception needs a local file: --inception FILE or $FACEGAN_INCEPTION")
    reals, fakes = c.features(c.inception, all_reals=True)
    real, fake = reals[:, :FEATURES], fakes[:, :FEATURES]
    some = torch.from_numpy(draw(len(real), min(c.n, len(real)), c.seed))
    values = {
        f"fid{c.count}_full": fidelity.frechet_distance(real, fake),
        f"kid{c.count}_full": fidelity.kernel_distance(real, fake, c.seed),
        f"is{c.count}": fidelity.inception_score(fakes[:, FEATURES:], c.seed),
    }
    if len(some) == c.n:
        values[f"fid{c.count}"] = fidelity.frechet_distance(real[some], fake)
    own = {"reals": len(real), "splits": fidelity.SCORE_SPLITS}
    values |= _manifolds("inception", real[some], fake[: len(some)])
    return values, _feature_protocol(c, c.inception) | own


def _nearest(c: Comparison) -> Result:
    fakes, held_out = c.nearest
    result = memorisation.memorisation(fakes, held_out)
    key = short_count(len(fakes.distances))
    return {f"nearest_ratio{key}": result.ratio, f"nearest_copies{key}": result.copies}, {
        "thumbnail": memorisation.THUMBNAIL,
        "training_images": len(c.train or ()),
        "queries": len(fakes.distances),
    }


def _overfit(c: Comparison) -> Result:
    if c.train is None or c.subject.critic is None:
        raise UsageError("the metric overfit needs a checkpoint's discriminator and the split train")
    n = min(c.n, len(c.train))
    drawn = chunks(c.train, draw(len(c.train), n, c.seed))
    training = torch.cat([c.subject.critic(images) for images in drawn])
    held_out = torch.cat([c.subject.critic(images) for images in torch.split(c.real, CHUNK)])
    result = overfit.overfit(training, held_out)
    key = short_count(n)
    return {f"overfit_auc{key}": result.auc, f"overfit_gap{key}": result.gap}, {"training_images": n}


FEWEST = 8  # images a side that a comparison needs
METRICS: dict[str, Callable[[Comparison], Result]] = {
    "swd": _swd,
    "msssim": _msssim,
    "randomnet": _randomnet,
    "faces": _faces,
    "nearest": _nearest,
    "overfit": _overfit,
    "inception": _inception,
}


# How the numbers of each metric begin, so that one can be named before it is measured.
KEYS = {"inception": ("fid", "kid", "is", "inception_")}


def require_metrics(metrics: Sequence[str], best: str = "") -> None:
    """Raise UsageError for an unknown metric, or a number to be the best by that none of them gives."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise UsageError(f"unknown metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    beginnings = [start for name in metrics for start in KEYS.get(name, (name,))]
    if best and not best.startswith(tuple(beginnings)):
        raise UsageError(f"--best-metric {best}: none of {', '.join(metrics)} gives such a number; such as swd1k")


def evaluate(comparison: Comparison, metrics: Sequence[str] = ("swd", "msssim")) -> list[Measurement]:
    """Measure; every rank calls it and gets the same numbers.

    Raises UsageError for an unknown metric or one whose means are missing, FaceganError for too few images.
    """
    check(comparison, metrics)
    measured = []
    for name in metrics:
        values, own = METRICS[name](comparison)
        keyed = {f"metrics/{key}": value for key, value in values.items()}
        protocol = common_protocol(comparison) | own
        measured.append(Measurement(name, comparison.subject.nimg, keyed, protocol))
    return measured


def find_done(stored: Sequence[Measurement], comparison: Comparison, metric: str) -> Measurement | None:
    """The stored measurement of the same snapshot by the same protocol, if this was measured before."""
    wanted = {name: value for name, value in common_protocol(comparison).items() if name != "versions"}
    if metric == "inception" and comparison.inception is not None:
        wanted["extractor_sha256"] = comparison.inception.sha256
    alike = (m for m in stored if (m.metric, m.nimg) == (metric, comparison.subject.nimg))
    return next((m for m in alike if wanted.items() <= m.protocol.items()), None)


def row(measurements: Sequence[Measurement]) -> Values:
    """All numbers of some measurements by key, for `stats.jsonl` and W&B."""
    return {key: value for m in measurements for key, value in m.values.items()}


def check(comparison: Comparison, metrics: Sequence[str]) -> None:
    """Refuse at once what would fail later."""
    require_metrics(metrics)
    available = len(comparison.reals.images)
    all_are_used = set(metrics) == {"inception"}
    if comparison.n < FEWEST or (comparison.n > available and not all_are_used):
        raise FaceganError(
            f"{comparison.n} images a side asked for; split {comparison.reals.split!r} has {available}, "
            f"and a comparison needs at least {FEWEST}"
        )


def _feature_protocol(c: Comparison, extractor: Extractor) -> dict[str, Any]:
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "neighbours": precision_recall.NEIGHBOURS,
        "density_neighbours": precision_recall.DENSITY_NEIGHBOURS,
        "kernel_subsets": f"{fidelity.KERNEL_SUBSETS} of {fidelity.kernel_subset(c.n)}",
    }
