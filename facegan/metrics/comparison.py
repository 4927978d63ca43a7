"""The two sides that a metric compares: generated and real images, read and made when a metric asks for them."""

import hashlib
import os
import platform
from collections.abc import Callable, Iterator
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
from facegan.errors import UsageError
from facegan.files import home, whole_file
from facegan.metrics import memorisation
from facegan.metrics.features import Extractor, randomnet
from facegan.metrics.ranks import Ranks
from facegan.randomness import normal

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
    features: dict[str, Tensor] = field(default_factory=dict)  # computed so far, by what they are of


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
    ranks: Ranks = field(default_factory=Ranks)

    @cached_property
    def count(self) -> str:
        """The sample count as it stands in a key: 1024 is 1k, 16384 16k, 50000 50k, 1000 stays 1000."""
        return short_count(self.n)

    @cached_property
    def picked(self) -> NDArray[np.int64]:
        """Numbers of the real images: n of the split drawn without replacement by the seed, in order."""
        return draw(len(self.reals.images), self.n, self.seed)

    @cached_property
    def real(self) -> Tensor:
        """The n real images: (n, C, H, W) uint8."""
        return torch.cat(list(chunks(self.reals.images, self.picked)))

    @cached_property
    def fake(self) -> Tensor:
        """n generated images: (n, C, H, W) uint8, each rank making its share."""
        return self.ranks.gather(torch.cat(list(self._made())), self.n)

    @cached_property
    def nearest(self) -> tuple[memorisation.Nearest, memorisation.Nearest]:
        """The nearest training images of the first generated images, and of as many held-out real ones."""
        if self.train is None:
            raise UsageError("the metric nearest compares with training images: the set has no split train")
        some = min(self.n, NEAREST_QUERIES)
        queries = torch.cat([self.fake[:some], self.real[:some]])
        both = memorisation.nearest(queries, chunks(self.train, np.arange(len(self.train))))
        fakes, held_out = (memorisation.Nearest(*(torch.split(part, some)[k] for part in both)) for k in (0, 1))
        return fakes, held_out

    @cached_property
    def randomnet(self) -> Extractor:
        """The random feature network for these images."""
        return randomnet(self.reals.images.gather(np.zeros(1, np.int64)).shape[3])

    def features(self, extractor: Extractor, *, all_reals: bool = False) -> tuple[Tensor, Tensor]:
        """Features of the n picked real images, or of all of the split, and of the n generated ones, float32."""
        picked = np.arange(len(self.reals.images)) if all_reals else self.picked
        mine = picked[list(self.ranks.share(len(picked)))]

        def of_reals() -> Tensor:
            return self.ranks.gather(extractor(chunks(self.reals.images, mine)), len(picked))

        identity = f"{self.reals.fingerprint} {self.reals.split} {extractor.sha256} ".encode() + picked.tobytes()
        key, kept = hashlib.sha256(identity).hexdigest()[:32], self.reals.features
        if key not in kept:  # a training measures again and again with the same reals
            kept[key] = _cached(self._feature_file(key), of_reals, len(picked))
        return kept[key], self.ranks.gather(extractor(self._made()), self.n)

    def _made(self) -> Iterator[Tensor]:
        share = self.ranks.share(self.n)
        for first in range(share.start, share.stop, CHUNK):
            count = min(CHUNK, share.stop - first)
            yield self.subject.generate(normal(self.seed, "evaluate", first, count, (self.subject.latent_dim,)))

    def _feature_file(self, key: str) -> Path | None:
        if self.cache is None or not self.reals.fingerprint or self.ranks.world > 1:
            return None  # ranks that found and ranks that missed a file would wait for each other
        return self.cache / f"{key}.npy"


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
    folder = os.environ.get("XDG_CACHE_HOME") or home() / ".cache"
    return Path(os.environ.get("FACEGAN_FEATURES") or Path(folder) / "facegan" / "features")


def short_count(n: int) -> str:
    """1024 as 1k, 16384 as 16k, 50000 as 50k; anything else in full."""
    if n >= 1024 and n & (n - 1) == 0:
        return f"{n // 1024}k"
    return f"{n // 1000}k" if n and n % 10_000 == 0 else str(n)


def draw(available: int, n: int, seed: int) -> NDArray[np.int64]:
    generator = np.random.Generator(np.random.Philox(key=seed))
    return np.sort(generator.permutation(available)[:n]).astype(np.int64)


def chunks(images: Pictures, indices: NDArray[np.int64]) -> Iterator[Tensor]:
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
