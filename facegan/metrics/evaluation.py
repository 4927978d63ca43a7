"""Measure a generator against real images: pick both sides, run the metrics, write down how it was done."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan import __version__
from facegan.errors import FaceganError, UsageError
from facegan.files import whole_file
from facegan.metrics import fidelity, memorisation, msssim, overfit, precision_recall, swd
from facegan.metrics.features import Extractor, randomnet
from facegan.metrics.protocol import Measurement
from facegan.metrics.team import Team
from facegan.randomness import normal

MOST_IMAGES = 16_384  # of the published SWD protocol
NEAREST_QUERIES = 1024
CHUNK = 512


class Pictures(Protocol):
    """Images by number, such as a split of a set of shards."""

    def __len__(self) -> int: ...

    def gather(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images at `indices`: (n, H, W, C) uint8."""
        ...


@dataclass(frozen=True)
class Reals:
    """One split of a set, and what has to be known of it beside a number."""

    images: Pictures
    split: str = "test"
    fingerprint: str = ""
    crop: str = ""
    filter: str = ""


@dataclass(frozen=True)
class Subject:
    """What is measured: a generator and, where it is at hand, its discriminator."""

    generate: Callable[[Tensor], Tensor]  # z (n, latent_dim) -> (n, C, H, W) uint8 on the CPU
    latent_dim: int
    nimg: int
    identity: str = ""  # hash of the snapshot's weights
    critic: Callable[[Tensor], Tensor] | None = None  # (n, C, H, W) uint8 -> scores (n,) on the CPU


@dataclass(frozen=True)
class Comparison:
    """Generated and real images of one evaluation, read and made when a metric asks for them.

    n: images on each side. train: the images the generator was trained on, for memorisation and overfitting.
    inception: extractor of `facegan.metrics.inception`. cache: folder for features of the reals, or None.
    """

    subject: Subject
    reals: Reals
    n: int
    seed: int = 0
    train: Pictures | None = None
    inception: Extractor | None = None
    cache: Path | None = None
    team: Team = field(default_factory=Team)

    @cached_property
    def count(self) -> str:
        """The sample count as it stands in a key: 1024 is 1k, 16384 16k, 50000 50k, 1000 stays 1000."""
        return short_count(self.n)

    @cached_property
    def picked(self) -> NDArray[np.int64]:
        """Numbers of the real images: n of the split drawn without replacement by the seed, in order."""
        return _draw(len(self.reals.images), self.n, self.seed)

    @cached_property
    def real(self) -> Tensor:
        """The n real images: (n, C, H, W) uint8."""
        return torch.cat(list(_chunks(self.reals.images, self.picked)))

    @cached_property
    def fake(self) -> Tensor:
        """n generated images: (n, C, H, W) uint8, each rank making its share."""
        return self.team.gather(torch.cat(list(self._made())), self.n)

    @cached_property
    def nearest(self) -> tuple[memorisation.Nearest, memorisation.Nearest]:
        """The nearest training images of the first generated images, and of as many held-out real ones."""
        if self.train is None:
            raise UsageError("the metric nearest compares with training images: the set has no split train")
        some = min(self.n, NEAREST_QUERIES)
        queries = torch.cat([self.fake[:some], self.real[:some]])
        found = memorisation.nearest(queries, _chunks(self.train, np.arange(len(self.train))))
        fakes, held_out = (memorisation.Nearest(*(torch.split(part, some)[k] for part in found)) for k in (0, 1))
        return fakes, held_out

    @cached_property
    def randomnet(self) -> Extractor:
        """The random feature network for these images."""
        return randomnet(self.reals.images.gather(np.zeros(1, np.int64)).shape[3])

    def features(self, extractor: Extractor) -> tuple[Tensor, Tensor]:
        """Features of the real and of the generated images: (n, D), (n, D) float32."""
        mine = self.picked[list(self.team.share(self.n))]

        def of_reals() -> Tensor:
            return self.team.gather(extractor(_chunks(self.reals.images, mine)), self.n)

        real = _cached(self._feature_file(extractor), of_reals, self.n)
        return real, self.team.gather(extractor(self._made()), self.n)

    def _made(self) -> Iterator[Tensor]:
        share = self.team.share(self.n)
        for first in range(share.start, share.stop, CHUNK):
            count = min(CHUNK, share.stop - first)
            yield self.subject.generate(normal(self.seed, "evaluate", first, count, (self.subject.latent_dim,)))

    def _feature_file(self, extractor: Extractor) -> Path | None:
        if self.cache is None or not self.reals.fingerprint or self.team.world > 1:
            return None  # ranks that found and ranks that missed a file would wait for each other
        identity = [self.reals.fingerprint, self.reals.split, self.n, self.seed, extractor.sha256]
        return self.cache / f"{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]}.npy"


Values = dict[str, float]
Found = tuple[Values, dict[str, Any]]  # numbers by name without prefix, and the metric's own protocol


def _swd(c: Comparison) -> Found:
    levels = swd.sliced_wasserstein(c.real, c.fake, c.seed, c.team)
    values = {f"swd{c.count}": levels.pop("mean")} | {f"swd{c.count}_{name}": v for name, v in levels.items()}
    return values, {
        "protocol": "Karras et al. 2018",
        "levels": "mean over " + ", ".join(levels),
        "patches": swd.PATCHES_PER_IMAGE,
        "directions": swd.REPEATS * swd.DIRECTIONS_PER_REPEAT,
    }


def _msssim(c: Comparison) -> Found:
    order = np.random.Generator(np.random.Philox(key=c.seed)).permutation(c.n)  # neighbours may be one person
    fake, real = msssim.pair_similarity(c.fake, c.team), msssim.pair_similarity(c.real[order], c.team)
    return {f"msssim{c.count}": fake, f"msssim{c.count}_real": real}, {"pairs": c.n // 2}


def _randomnet(c: Comparison) -> Found:
    real, fake = c.features(c.randomnet)
    shares = precision_recall.precision_recall(real, fake)
    values = {
        f"randomnet_kd{c.count}": fidelity.kernel_distance(real, fake, c.seed),
        f"randomnet_precision{c.count}": shares.precision,
        f"randomnet_recall{c.count}": shares.recall,
    }
    return values, _feature_protocol(c, c.randomnet)


def _inception(c: Comparison) -> Found:
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


def _nearest(c: Comparison) -> Found:
    fakes, held_out = c.nearest
    result = memorisation.memorisation(fakes, held_out)
    key = short_count(len(fakes.distances))
    return {f"nearest_ratio{key}": result.ratio, f"nearest_copies{key}": result.copies}, {
        "thumbnail": memorisation.THUMBNAIL,
        "training_images": len(c.train or ()),
        "queries": len(fakes.distances),
    }


def _overfit(c: Comparison) -> Found:
    if c.train is None or c.subject.critic is None:
        raise UsageError("the metric overfit needs a checkpoint's discriminator and the split train")
    n = min(c.n, len(c.train))
    drawn = _chunks(c.train, _draw(len(c.train), n, c.seed))
    training = torch.cat([c.subject.critic(images) for images in drawn])
    held_out = torch.cat([c.subject.critic(images) for images in torch.split(c.real, CHUNK)])
    result = overfit.overfit(training, held_out)
    key = short_count(n)
    return {f"overfit_auc{key}": result.auc, f"overfit_gap{key}": result.gap}, {"training_images": n}


METRICS: dict[str, Callable[[Comparison], Found]] = {
    "swd": _swd,
    "msssim": _msssim,
    "randomnet": _randomnet,
    "nearest": _nearest,
    "overfit": _overfit,
    "inception": _inception,
}


def evaluate(comparison: Comparison, metrics: Sequence[str] = ("swd", "msssim")) -> list[Measurement]:
    """Measure; every rank of the comparison's team calls it and gets the same numbers.

    Raises UsageError for an unknown metric or one whose means are missing, FaceganError for too few images.
    """
    check(comparison, metrics)
    found = []
    for name in metrics:
        values, own = METRICS[name](comparison)
        keyed = {f"metrics/{key}": value for key, value in values.items()}
        protocol = common_protocol(comparison) | own
        found.append(Measurement(name, comparison.subject.nimg, keyed, protocol))
    return found


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


def common_protocol(c: Comparison) -> dict[str, Any]:
    """What holds for all metrics of a comparison."""
    height, width, channels = c.reals.images.gather(np.zeros(1, np.int64)).shape[1:]
    return {
        "n": c.n,
        "set": c.reals.fingerprint,
        "split": c.reals.split,
        "size": f"{height}x{width}x{channels}",
        "crop": c.reals.crop,
        "filter": c.reals.filter,
        "seed": c.seed,
        "snapshot": c.subject.identity,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The software that measured."""
    packages = {name: version(name) for name in ("torch", "torchmetrics", "numpy")}
    return {"facegan": __version__, "python": platform.python_version(), **packages}


def default_cache() -> Path:
    """Where features of real images are kept: $FACEGAN_FEATURES, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("FACEGAN_FEATURES") or Path(home) / "facegan" / "features")


def short_count(n: int) -> str:
    """1024 as 1k, 16384 as 16k, 50000 as 50k; anything else in full."""
    if n >= 1024 and n & (n - 1) == 0:
        return f"{n // 1024}k"
    return f"{n // 1000}k" if n and n % 10_000 == 0 else str(n)


def _feature_protocol(c: Comparison, extractor: Extractor) -> dict[str, Any]:
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "neighbours": precision_recall.NEIGHBOURS,
        "kernel_subsets": f"{fidelity.KERNEL_SUBSETS} of {fidelity.kernel_subset(c.n)}",
    }


def _draw(available: int, n: int, seed: int) -> NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(key=seed))
    return np.sort(generator.permutation(available)[:n]).astype(np.int64)


def _chunks(images: Pictures, indices: NDArray[np.int64]) -> Iterator[Tensor]:
    for first in range(0, len(indices), CHUNK):
        yield torch.from_numpy(images.gather(indices[first : first + CHUNK])).permute(0, 3, 1, 2)


def _cached(path: Path | None, make: Callable[[], Tensor], n: int) -> Tensor:
    """`make()`, kept in `path` for the next time; a file that is no (n, D) array of floats is made anew."""
    if path is None:
        return make()
    try:
        kept = np.load(path, allow_pickle=False)
        if kept.dtype == np.float32 and kept.ndim == 2 and len(kept) == n:
            return torch.from_numpy(kept)
    except (OSError, ValueError, EOFError):
        pass
    made = make()
    with whole_file(path) as part, part.open("wb") as file:
        np.save(file, made.numpy(), allow_pickle=False)
    return made
