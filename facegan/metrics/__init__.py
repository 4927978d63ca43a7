"""How good the generated faces are. `evaluate` measures a `Comparison`; each metric is also a pure function.

reals = Reals(images, split="test", fingerprint=fingerprint, crop="150", filter="bicubic")
subject = Subject(generate, latent_dim=100, nimg=64_000)
measured = evaluate(Comparison(subject, reals, n=1024), ["swd", "msssim"])
row(measured)  # {"metrics/swd1k": ..., "metrics/swd1k_64": ..., "metrics/msssim1k": ..., ...}
"""

from facegan.metrics.comparison import Comparison, Pictures, Reals, Subject
from facegan.metrics.evaluation import evaluate, row
from facegan.metrics.protocol import Measurement, record, require_same
from facegan.metrics.ranks import Ranks
from facegan.metrics.swd import sliced_wasserstein

__all__ = [
    "Comparison",
    "Measurement",
    "Pictures",
    "Ranks",
    "Reals",
    "Subject",
    "evaluate",
    "record",
    "require_same",
    "row",
    "sliced_wasserstein",
]
