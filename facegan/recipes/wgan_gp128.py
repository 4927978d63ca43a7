"""`wgan-gp-128`: ours, the generator of Noe & Thapa against a critic without BatchNorm."""

from dataclasses import dataclass

from facegan.recipes.base import Range, cite
from facegan.recipes.dcgan128 import CODE, Dcgan128

PAPER = "Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1"


@dataclass(frozen=True)
class WganGp128(Dcgan128):
    """WGAN-GP at 128 px: what the references leave open between their WGAN-GP at 64 and their DCGAN at 128 px."""

    name = "wgan-gp-128"
    reference = "ours"
    summary = "WGAN-GP on dcgan-128's generator, critic without BatchNorm; CelebA crop 150, 128 px"
    notes = (
        "Ours: no reference published a WGAN-GP at 128 px.",
        "Generator, crop and initialisation are those of dcgan-128; loss and steps those of Gulrajani et al. 2017.",
        "The length is that of the paper's code at 64 px, 200,000 generator updates; it has none at 128 px.",
    )

    critic_norm: str = cite("none", "Gulrajani et al. 2017, section 4: no BatchNorm in the critic")
    loss: str = cite("wasserstein", PAPER)
    real_labels: Range = cite(Range(1.0, 1.0), "a Wasserstein loss has no targets")
    gp_weight: float = cite(10.0, PAPER)
    n_critic: int = cite(5, PAPER)
    split_updates: bool = cite(False, PAPER)
    fresh_latents: bool = cite(True, PAPER)
    g_lr: float = cite(1e-4, PAPER)
    d_lr: float = cite(1e-4, PAPER)
    beta1: float = cite(0.0, PAPER)
    beta2: float = cite(0.9, PAPER)
    adam_eps: float = cite(1e-8, "PyTorch default")
    batch_size: int = cite(64, f"{PAPER}; {CODE} too")
    epochs: float = cite(0.0, "kimg decides")
    kimg: float = cite(64_000.0, "igul222/improved_wgan_training, gan_64x64.py: 200,000 x 5 batches x 64 images")
