"""`wgan-gp-64`: y-assylbekov/Human-Faces-with-WGAN-GP, BatchNorm and dropout in the critic included."""

from dataclasses import dataclass

from facegan.recipes.base import Recipe, Size, cite

CODE = "y-assylbekov/Human-Faces-with-WGAN-GP"
KERAS = "Keras default, used by y-assylbekov/Human-Faces-with-WGAN-GP"


@dataclass(frozen=True)
class WganGp64(Recipe):
    """WGAN-GP at 64 px as published, with BatchNorm in the critic under the gradient penalty.

    That is against Gulrajani et al. 2017 (arXiv:1704.00028, section 4): the penalty is on the gradient of each
    sample, and BatchNorm couples the samples of a batch. It is kept for this recipe alone; `--critic-norm layer`
    gives the correct one.
    """

    name = "wgan-gp-64"
    reference = CODE
    summary = "WGAN-GP, BatchNorm and dropout in the critic; CelebA crop 128, 64 px"
    notes = (
        "BatchNorm in a critic under a gradient penalty is against Gulrajani et al. 2017, section 4; published so "
        "and kept for this recipe alone. --critic-norm layer gives the correct one.",
        "Images are in [0, 1]: the generator ends in a sigmoid.",
        "The generator's step draws new latents (Gulrajani et al. 2017, algorithm 1); the reference does not say.",
    )

    resolution: Size = cite(Size(64, 64), CODE)
    crop: str = cite("128", f"{CODE}: rows 45:173, columns 25:153")
    value_range: str = cite("sigmoid", CODE)
    network: str = cite("dcgan_dropout", CODE)
    latent_dim: int = cite(128, CODE)
    ngf: int = cite(32, f"{CODE}: maps of 256, 128, 64 and 32")
    ndf: int = cite(32, f"{CODE}: maps of 32, 64, 128, 256 and 512")
    kernel: int = cite(5, CODE)
    upsample: str = cite("deconv", CODE)
    critic_norm: str = cite(
        "batch", CODE, "normalisation in the critic: batch (published), layer, instance or none"
    )
    g_slope: float = cite(0.3, KERAS)
    d_slope: float = cite(0.3, KERAS)
    dropout: float = cite(0.5, CODE, "dropout after each convolution of the critic")
    bn_momentum: float = cite(0.01, f"{KERAS}: 0.99 there")
    bn_eps: float = cite(1e-3, KERAS)
    init: str = cite("glorot", KERAS)
    loss: str = cite("wasserstein", CODE)
    gp_weight: float = cite(10.0, CODE)
    n_critic: int = cite(1, CODE)
    fresh_latents: bool = cite(True, "Gulrajani et al. 2017, algorithm 1")
    g_optimizer: str = cite("adam", CODE)
    d_optimizer: str = cite("adam", CODE)
    g_lr: float = cite(2e-4, CODE)
    d_lr: float = cite(2e-4, CODE)
    beta1: float = cite(0.5, CODE)
    beta2: float = cite(0.9, CODE)
    adam_eps: float = cite(1e-7, KERAS)
    batch_size: int = cite(64, CODE)
    kimg: float = cite(13107.2, f"{CODE}: 100 epochs x 2048 batches x 64 images")
