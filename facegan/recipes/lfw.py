"""`wgan-gp-lfw`: rlronan/Tensorflow-GAN-Faces, a WGAN-GP with a diversity penalty on 13,233 small pictures."""

from dataclasses import dataclass

from facegan.recipes.base import Recipe, Size, cite

CODE = "rlronan/Tensorflow-GAN-Faces"
KERAS = "Keras default, used by rlronan/Tensorflow-GAN-Faces"


@dataclass(frozen=True)
class WganGpLfw(Recipe):
    """WGAN-GP on LFW at 62x47: upsample-and-convolve generator, augmented and noisy real images."""

    name = "wgan-gp-lfw"
    reference = CODE
    summary = "WGAN-GP, diversity penalty, upsample + conv; LFW slice, 62x47"
    notes = (
        "The reference leaves out the 49 pictures an epoch that fill no batch; here every picture counts and the "
        "length is its 200 x 103 batches.",
        "Its three critic steps share one real batch; the generator's step reuses the first one's latents.",
        "Shear 0.2 is read as a slope, about 11 degrees; Keras's ImageDataGenerator would read it as 0.2 degrees.",
        "Zoom is drawn for rows and columns apart, as Keras's ImageDataGenerator does.",
    )

    resolution: Size = cite(Size(62, 47), CODE)
    crop: str = cite("70:195,78:172", CODE)
    value_range: str = cite("tanh", CODE)
    network: str = cite("lfw", CODE)
    latent_dim: int = cite(128, CODE)
    ngf: int = cite(32, f"{CODE}: maps of 256, 128, 64, 32, 16 and 8", "generator width: its last full map")
    ndf: int = cite(32, f"{CODE}: maps of 256, 128, 64 and 32", "critic width: its last map")
    kernel: int = cite(5, CODE)
    upsample: str = cite("nearest", CODE, "nearest (conv, then upsampling) or deconv, for the checkerboard figure")
    critic_norm: str = cite("none", CODE, "none: this critic has no place for one")
    g_slope: float = cite(0.0, f"{CODE}: ReLU")
    d_slope: float = cite(0.3, KERAS)
    dropout: float = cite(0.45, CODE, "dropout of whole maps in the generator")
    bn_momentum: float = cite(0.1, f"{CODE}: Keras momentum 0.9")
    bn_eps: float = cite(1e-3, KERAS)
    init: str = cite("glorot", KERAS)
    loss: str = cite("wasserstein", CODE)
    gp_weight: float = cite(10.0, CODE)
    diversity_weight: float = cite(0.1, CODE)
    n_critic: int = cite(3, CODE)
    fresh_reals: bool = cite(False, CODE)
    fresh_latents: bool = cite(False, CODE)
    g_optimizer: str = cite("adam", CODE)
    d_optimizer: str = cite("adam", CODE)
    g_lr: float = cite(1e-4, CODE)
    d_lr: float = cite(1e-4, CODE)
    beta1: float = cite(0.9, CODE)
    beta2: float = cite(0.999, CODE)
    adam_eps: float = cite(1e-7, KERAS)
    lr_schedule: str = cite("exponential", CODE)
    lr_decay: float = cite(0.9, CODE)
    lr_decay_steps: int = cite(3000, CODE)
    flip: bool = cite(True, CODE)
    rotation: float = cite(20.0, CODE)
    shear: float = cite(0.2, CODE)
    zoom: float = cite(0.2, CODE)
    instance_noise: float = cite(0.25, CODE)
    instance_noise_on: str = cite("real", CODE)
    instance_noise_decay: float = cite(0.9, CODE)
    instance_noise_steps: int = cite(1033, CODE)
    batch_size: int = cite(128, CODE)
    kimg: float = cite(2636.8, f"{CODE}: 200 epochs x 103 batches x 128 images")
    ema_kimg: float = cite(0.0, "off in the reference")
