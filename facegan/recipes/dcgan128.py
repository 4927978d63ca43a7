"""`dcgan-128`: Noe & Thapa, a DCGAN of kernel 5 that they grew from 32 over 64 to 128 px."""

from dataclasses import dataclass
from typing import ClassVar

from facegan.recipes.base import Range, Recipe, Size, cite

CODE = "Noe & Thapa, code"
KERAS = "Keras default, used by Noe & Thapa"


@dataclass(frozen=True)
class Dcgan128(Recipe):
    """DCGAN at 128 px, kernel 5, labels 0.9, a discriminator five times faster; `--resolution 32` and `64` too."""

    name = "dcgan-128"
    reference = "Noe & Thapa"
    summary = "DCGAN, kernel 5, BCE, labels 0.9; CelebA crop 150, 128 px"
    notes: ClassVar[tuple[str, ...]] = (
        "The crop is a true 150 x 150 square (rows 34..184, columns 14..164); the published code cut 150 x 130 by "
        "mistake, which squeezed the faces: not kept.",
        "The first convolution has stride 2, as in the code; the text's sizes 32, 16, 8, 4 are --first-stride 4.",
        "Each batch makes two discriminator updates, one on reals and then one on fakes, as published.",
        "The last convolution of the discriminator has no activation before the dense layer, as published.",
        "The layers at 32 and 64 px are not published: here the first stages of the generator are left out.",
        "The reference saved no weights; every run here does.",
    )

    resolution: Size = cite(Size(128, 128), f"{CODE}; 32 and 64 were its smaller steps")
    crop: str = cite("150", "Noe & Thapa, text: rows 34..184, columns 14..164; the code cut 150 x 130 by mistake")
    value_range: str = cite("tanh", CODE)
    network: str = cite("dcgan_dense", CODE)
    latent_dim: int = cite(100, CODE)
    ngf: int = cite(64, f"{CODE}: maps of 512, 512, 256, 128 and 64")
    ndf: int = cite(64, f"{CODE}: maps of 64, 128, 256 and 512")
    kernel: int = cite(5, f"{CODE}; 3 was tried")
    first_stride: int = cite(2, f"{CODE}; the text's sizes need 4")
    upsample: str = cite("deconv", CODE)
    critic_norm: str = cite("batch", CODE)
    g_slope: float = cite(0.2, CODE)
    d_slope: float = cite(0.2, CODE)
    bn_momentum: float = cite(0.1, f"{CODE}: Keras momentum 0.9")
    bn_eps: float = cite(1e-3, KERAS)
    init: str = cite("normal", f"{CODE}: RandomNormal, standard deviation 0.02")
    loss: str = cite("bce", CODE)
    real_labels: Range = cite(Range(0.9, 0.9), f"{CODE}; better than 0.8, both better than 1")
    split_updates: bool = cite(True, CODE)
    fresh_latents: bool = cite(False, CODE)
    g_optimizer: str = cite("adam", CODE)
    d_optimizer: str = cite("adam", CODE)
    g_lr: float = cite(1e-4, f"{CODE}; 1e-3 diverged at 128 px")
    d_lr: float = cite(5e-4, CODE)
    beta1: float = cite(0.5, f"{CODE}; outside 0.4..0.6 bad")
    beta2: float = cite(0.999, KERAS)
    adam_eps: float = cite(1e-7, KERAS)
    batch_size: int = cite(64, f"{CODE}; 16 too slow, 128 and 256 diverged")
    epochs: float = cite(3.0, f"{CODE}: of 201,599 training images")
