"""`wgan-64`: ours, the original WGAN (weight clipping) on the networks of dcgan-64."""

from dataclasses import dataclass

from facegan.recipes.base import Range, cite
from facegan.recipes.dcgan64 import Dcgan64

PAPER = "Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1"


@dataclass(frozen=True)
class Wgan64(Dcgan64):
    """WGAN with weight clipping at 64 px, as Arjovsky et al. 2017 trained DCGAN's networks."""

    name = "wgan-64"
    reference = "ours"
    summary = "WGAN, weights clipped to 0.01, RMSprop; CelebA crop 150, 64 px"
    notes = (
        "Ours: the references clip no weights; the numbers are those of Arjovsky et al. 2017.",
        "The length is their code's in images, 374 passes over CelebA: some 237,000 generator updates.",
        "BatchNorm stays in the critic: the paper's DCGAN has it, and clipping, unlike a penalty, allows it.",
        "Clipping holds BatchNorm's scales too, as the paper's code does.",
    )

    loss: str = cite("wasserstein", PAPER)
    real_labels: Range = cite(Range(1.0, 1.0), "a Wasserstein loss has no targets")
    clip: float = cite(0.01, PAPER)
    n_critic: int = cite(5, PAPER)
    fresh_latents: bool = cite(True, PAPER)
    g_optimizer: str = cite("rmsprop", PAPER)
    d_optimizer: str = cite("rmsprop", PAPER)
    g_lr: float = cite(5e-5, PAPER)
    d_lr: float = cite(5e-5, PAPER)
    batch_size: int = cite(64, PAPER)
    epochs: float = cite(0.0, "kimg decides")
    kimg: float = cite(75_826.0, "martinarjovsky/WassersteinGAN, --niter: 25 epochs of LSUN's 3,033,042 bedrooms")
