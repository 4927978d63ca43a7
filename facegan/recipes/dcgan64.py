"""`dcgan-64`: Radford, Metz and Chintala 2016 (arXiv:1511.06434) as pytorch/examples writes it."""

from dataclasses import dataclass
from typing import ClassVar

from facegan.recipes.base import Range, Recipe, Size, cite

PAPER = "Radford et al. 2016, arXiv:1511.06434, section 4"
CODE = "pytorch/examples dcgan/main.py"


@dataclass(frozen=True)
class Dcgan64(Recipe):
    """DCGAN at 64 px, kernel 4, no biases: the reference point of the field."""

    name = "dcgan-64"
    reference = "Radford et al. 2016 as in pytorch/examples"
    summary = "DCGAN, kernel 4, BCE; CelebA crop 150, 64 px"
    notes: ClassVar[tuple[str, ...]] = (
        "The crop of 150 is this project's; the paper crops by a face detector, the code takes 64 px squares.",
    )

    resolution: Size = cite(Size(64, 64), PAPER)
    crop: str = cite("150", "ours: the crop of Noe & Thapa, shared by all CelebA sets here")
    value_range: str = cite("tanh", PAPER)
    network: str = cite("dcgan", CODE)
    latent_dim: int = cite(100, PAPER)
    ngf: int = cite(64, CODE)
    ndf: int = cite(64, CODE)
    kernel: int = cite(4, CODE)
    upsample: str = cite("deconv", PAPER, "generator upsampling: deconv, or nearest (then convolution)")
    critic_norm: str = cite("batch", PAPER)
    g_slope: float = cite(0.0, f"{PAPER}: ReLU")
    d_slope: float = cite(0.2, PAPER)
    bn_momentum: float = cite(0.1, "PyTorch default, used by pytorch/examples")
    bn_eps: float = cite(1e-5, "PyTorch default, used by pytorch/examples")
    init: str = cite("dcgan", CODE)
    loss: str = cite("bce", PAPER)
    real_labels: Range = cite(Range(1.0, 1.0), CODE)
    fresh_latents: bool = cite(False, CODE)
    g_optimizer: str = cite("adam", PAPER)
    d_optimizer: str = cite("adam", PAPER)
    g_lr: float = cite(2e-4, PAPER)
    d_lr: float = cite(2e-4, PAPER)
    beta1: float = cite(0.5, PAPER)
    beta2: float = cite(0.999, CODE)
    adam_eps: float = cite(1e-8, "PyTorch default, used by pytorch/examples")
    batch_size: int = cite(128, PAPER)
    epochs: float = cite(25.0, "pytorch/examples dcgan/main.py, --niter")
    flip: bool = cite(False, "off in the reference")
    ema_kimg: float = cite(10.0, "ours: samples come from the averaged generator; training is untouched")
