"""Measure a generator against real images: the metrics by name, each number with how it was made."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

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
    shares = precision_recall.precision_recall(real, fake)
    values = {
        f"randomnet_kd{c.count}": fidelity.kernel_distance(real, fake, c.seed),
        f"randomnet_precision{c.count}": shares.precision,
        f"randomnet_recall{c.count}": shares.recall,
    }
    return values, _feature_protocol(c, c.randomnet)


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
    both_real, both_fake = c.features(c.inception)
    real, fake = both_real[:, :FEATURES], both_fake[:, :FEATURES]
    shares = precision_recall.precision_recall(real, fake)
    values = {
        f"fid{c.count}": fidelity.frechet_distance(real, fake),
        f"kid{c.count}": fidelity.kernel_distance(real, fake, c.seed),
        f"is{c.count}": fidelity.inception_score(both_fake[:, FEATURES:], c.seed),
        f"precision{c.count}": shares.precision,
        f"recall{c.count}": shares.recall,
    }
    return values, _feature_protocol(c, c.inception) | {"splits": fidelity.SCORE_SPLITS}


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


METRICS: dict[str, Callable[[Comparison], Result]] = {
    "swd": _swd,
    "msssim": _msssim,
    "randomnet": _randomnet,
    "faces": _faces,
    "nearest": _nearest,
    "overfit": _overfit,
    "inception": _inception,
}


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
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise UsageError(f"unknown metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    available = len(comparison.reals.images)
    if not 8 <= comparison.n <= available:
        raise FaceganError(
            f"{comparison.n} images a side asked for; split {comparison.reals.split!r} has {available}, "
            "and a comparison needs at least 8"
        )


def _feature_protocol(c: Comparison, extractor: Extractor) -> dict[str, Any]:
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "neighbours": precision_recall.NEIGHBOURS,
        "kernel_subsets": f"{fidelity.KERNEL_SUBSETS} of {fidelity.kernel_subset(c.n)}",
    }
