"""`dcgan-28`: chrispmaag/gan_face_generation, MNIST as the smoke test and then CelebA at 28 px."""

from dataclasses import dataclass

from facegan.recipes.base import Range, Recipe, Size, cite

CODE = "chrispmaag/gan_face_generation"
TF1 = "TensorFlow 1 default, used by chrispmaag/gan_face_generation"
OURS = "ours: the reference's generator is not published"


@dataclass(frozen=True)
class Dcgan28(Recipe):
    """DCGAN at 28 px: CelebA in colour, or MNIST with `--channels 1 --crop none --epochs 2`."""

    name = "dcgan-28"
    reference = CODE
    summary = "DCGAN, kernel 5, BCE, labels 0.9; CelebA crop 108 or MNIST, 28 px"
    notes = (
        "The generator is not published: it mirrors the discriminator, with BatchNorm and the same slope.",
        "The published dropout call does nothing (its framework's default is evaluation), so dropout is 0 here.",
        "The discriminator's BatchNorm uses the batch's own statistics in evaluation too, as published.",
        "MNIST, the reference's first run, is --channels 1 --crop none --epochs 2; digits show after 2 epochs.",
        "Latents, optimizer and batch are not published; the numbers are those the comparison of references fixes.",
    )

    resolution: Size = cite(Size(28, 28), CODE)
    channels: int = cite(3, f"{CODE}: 3 for CelebA, 1 for MNIST")
    crop: str = cite("108", f"{CODE}: CelebA; none for MNIST")
    value_range: str = cite("tanh", OURS)
    network: str = cite("dcgan28", CODE)
    latent_dim: int = cite(100, OURS)
    ngf: int = cite(64, OURS, "generator width: its last map")
    ndf: int = cite(64, CODE, "discriminator width: its first map")
    kernel: int = cite(5, CODE)
    critic_norm: str = cite("batch", CODE)
    g_slope: float = cite(0.01, "ours: the discriminator's")
    d_slope: float = cite(0.01, CODE)
    dropout: float = cite(0.0, f"{CODE}: called, without effect", "dropout in the discriminator")
    bn_momentum: float = cite(0.1, "ours: the generator's; the discriminator keeps no running statistics")
    bn_eps: float = cite(1e-3, TF1)
    init: str = cite("glorot", f"{CODE}: Xavier")
    loss: str = cite("bce", CODE)
    real_labels: Range = cite(Range(0.9, 0.9), f"{CODE}: smoothing 0.1, of real labels only")
    fresh_latents: bool = cite(False, "ours, as in the other BCE references")
    g_optimizer: str = cite("adam", OURS)
    d_optimizer: str = cite("adam", OURS)
    g_lr: float = cite(2e-4, OURS)
    d_lr: float = cite(2e-4, OURS)
    beta1: float = cite(0.5, OURS)
    beta2: float = cite(0.999, TF1)
    adam_eps: float = cite(1e-8, TF1)
    batch_size: int = cite(64, OURS)
    epochs: float = cite(1.0, f"{CODE}: CelebA; 2 for MNIST")
