"""`mlp-64` and `mlp-64-improved`: SamSamhuns/ml_gan_human_face_synthesis, fully connected networks."""

from dataclasses import dataclass
from typing import ClassVar

from facegan.recipes.base import Range, Recipe, Size, cite

CODE = "SamSamhuns/ml_gan_human_face_synthesis, code"
TORCH = "PyTorch default, used by SamSamhuns/ml_gan_human_face_synthesis"


@dataclass(frozen=True)
class Mlp64(Recipe):
    """Fully connected GAN at 64 px with the plain BCE loss: the base version."""

    name = "mlp-64"
    reference = "SamSamhuns/ml_gan_human_face_synthesis"
    summary = "fully connected, BCE; CelebA crop 160, 64 px"
    notes: ClassVar[tuple[str, ...]] = (
        "LeakyReLU slope: 0.01 in the code (used), 0.2 in the text; --d-slope 0.2 gives the text's.",
        "Discriminator optimizer: Adam in the code (used); the text also names SGD: --d-optimizer sgd.",
        "The tiny-data run that shows the instability is this recipe on a set of 64 pictures, its 100 epochs.",
    )

    resolution: Size = cite(Size(64, 64), CODE)
    crop: str = cite("160", CODE)
    value_range: str = cite("tanh", CODE)
    network: str = cite("mlp", CODE)
    latent_dim: int = cite(100, CODE)
    ngf: int = cite(256, f"{CODE}: layers of 256, 512, 1024 and 1024", "generator width: its first layer")
    ndf: int = cite(256, f"{CODE}: layers of 256 and 512", "discriminator width: its first layer")
    critic_norm: str = cite("none", CODE, "none: this discriminator has no place for one")
    g_slope: float = cite(0.0, CODE)
    d_slope: float = cite(0.01, f"{CODE}; the text says 0.2")
    dropout: float = cite(0.0, CODE, "dropout after each hidden layer of the discriminator")
    init: str = cite("torch", TORCH)
    loss: str = cite("bce", CODE)
    real_labels: Range = cite(Range(1.0, 1.0), CODE)
    instance_noise: float = cite(0.0, "an option of the reference, after Sonderby et al. 2016; off")
    fresh_latents: bool = cite(False, f"{CODE}: the generator's step reuses the generated batch")
    g_lr: float = cite(2e-4, CODE)
    d_lr: float = cite(2e-4, CODE)
    g_optimizer: str = cite("adam", CODE)
    d_optimizer: str = cite("adam", f"{CODE}; the text also names sgd")
    beta1: float = cite(0.5, CODE)
    beta2: float = cite(0.999, TORCH)
    adam_eps: float = cite(1e-8, TORCH)
    batch_size: int = cite(64, CODE)
    epochs: float = cite(100.0, CODE)
    kimg: float = cite(0.0, "epochs decide")


@dataclass(frozen=True)
class Mlp64Improved(Mlp64):
    """The improved version: LeakyReLU in the generator, dropout, random label smoothing."""

    name = "mlp-64-improved"
    summary = "fully connected, dropout, BCE, labels 0.7..1.2; CelebA crop 160, 64 px"
    notes = (
        *Mlp64.notes[:2],
        "Dropout: 0.1 in the code (used), 0.4 in the text; --dropout 0.4 gives the text's.",
        "Labels of real images up to 1.2 are above 1: the loss is taken on logits, where that is defined.",
    )

    g_slope: float = cite(0.01, f"{CODE}; the text says 0.2")
    dropout: float = cite(0.1, f"{CODE}; the text says 0.4", "dropout after each hidden layer of the discriminator")
    real_labels: Range = cite(Range(0.7, 1.2), f"{CODE}: redrawn each step")
    epochs: float = cite(0.0, "kimg decides")
    kimg: float = cite(1792.0, f"{CODE}: 16 epochs x 1750 iterations x 64 images")
