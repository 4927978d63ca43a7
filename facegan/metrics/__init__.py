"""How good the generated faces are. `evaluate` measures a `Comparison`; each metric is also a pure function.

reals = Reals(images, split="test", fingerprint=fingerprint, crop="150", filter="bicubic")
subject = Subject(generate, latent_dim=100, nimg=64_000)
found = evaluate(Comparison(subject, reals, n=1024), ["swd", "msssim"])
row(found)  # {"metrics/swd1k": ..., "metrics/swd1k_64": ..., "metrics/msssim1k": ..., ...}
"""

from facegan.metrics.evaluation import Comparison, Pictures, Reals, Subject, evaluate, row
from facegan.metrics.protocol import Measurement, record, require_same
from facegan.metrics.swd import sliced_wasserstein
from facegan.metrics.team import Team

__all__ = [
    "Comparison",
    "Measurement",
    "Pictures",
    "Reals",
    "Subject",
    "Team",
    "evaluate",
    "record",
    "require_same",
    "row",
    "sliced_wasserstein",
]
