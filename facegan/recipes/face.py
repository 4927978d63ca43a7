"""`face-64` and `face-128`: ours, DCGAN's networks with what the field has learned since 2016.

Each technique is here for published evidence, named beside it; none was published together with the others.
"""

from dataclasses import dataclass
from typing import ClassVar

from facegan.recipes.base import Range, Recipe, Size, cite

DCGAN = "Radford et al. 2016, arXiv:1511.06434"
STYLEGAN2 = "Karras et al. 2020, arXiv:1912.04958"
SWEPT = "ours: chosen by sweeps, docs/sweeps.md"


@dataclass(frozen=True)
class Face64(Recipe):
    """DCGAN at 64 px: upsampling, self-modulation, a stage at full size, R1, batch deviations, flip, average."""

    name = "face-64"
    reference = "ours"
    summary = "DCGAN with upsampling, self-modulation, lazy R1, EMA, flip; CelebA crop 150, 64 px"
    notes: ClassVar[tuple[str, ...]] = (
        "Ours: the combination is unpublished; each technique's evidence is its source.",
        "The discriminator has no BatchNorm, so the penalty is on each sample's own gradient.",
        "Few pictures (hundreds, or a long training on thousands): --diffaugment color,translation,cutout "
        "--augment-target 0.6 (docs/sweeps.md). DiffAugment always took FID at 10,000 faces from 14.75 to 7.86; "
        "on 70,000 it cost 0.43 (Zhao et al. 2020), so it is off.",
        "Swept at 24,000 and 60,000 images, at 128 px at 8,000, on 7,855 faces (docs/sweeps.md); the best after "
        "millions is not known.",
        "Relativistic pairing as in R3GAN: --loss relativistic --r1-gamma 2 --r2-gamma 2 --gamma-final 0.2 "
        "--penalty-every 1.",
    )

    resolution: Size = cite(Size(64, 64), "ours")
    crop: str = cite("150", "ours: the crop of Noe & Thapa, shared by all CelebA sets here")
    value_range: str = cite("tanh", DCGAN)
    network: str = cite("dcgan", DCGAN)
    latent_dim: int = cite(128, "ours")
    ngf: int = cite(64, DCGAN)
    ndf: int = cite(64, DCGAN)
    kernel: int = cite(4, "pytorch/examples dcgan; 3 behind nearest upsampling")
    upsample: str = cite("nearest", "Odena et al. 2016, doi:10.23915/distill.00003: no checkerboard")
    critic_norm: str = cite("none", "Mescheder et al. 2018, arXiv:1801.04406: none under R1")
    g_slope: float = cite(0.0, f"{DCGAN}: ReLU")
    d_slope: float = cite(0.2, DCGAN)
    init: str = cite("dcgan", "pytorch/examples dcgan")
    spectral_norm: bool = cite(False, "off: R1 regularises; on where r1_gamma is 0 (Miyato et al. 2018)")
    minibatch_std: bool = cite(True, "Karras et al. 2018, arXiv:1710.10196, table 1: SWD 8.07 to 7.04")
    minibatch_per_map: bool = cite(True, "NVlabs/stylegan2-ada-pytorch, mbstd_num_channels; docs/sweeps.md")
    full_size_stage: bool = cite(True, "Karras et al. 2018, arXiv:1710.10196, table 2; docs/sweeps.md")
    self_modulation: bool = cite(True, "Chen et al. 2019, arXiv:1810.01365; linear in z, docs/sweeps.md")
    moments_side: int = cite(8, "ours, after Pitie and Kokaram 2007, doi:10.1049/cp:20070055; docs/sweeps.md")
    spectrum_kernel: int = cite(7, "ours; docs/sweeps.md")
    loss: str = cite("bce", "Goodfellow et al. 2014, non-saturating")
    real_labels: Range = cite(Range(1.0, 1.0), "off: R1 takes the part of label smoothing")
    r1_gamma: float = cite(3.0, f"{SWEPT}; 0.0128 by the rule of NVlabs/stylegan3, for weights of another scale")
    r2_gamma: float = cite(0.0, "off; Huang et al. 2024, arXiv:2501.05441, pairs it with relativistic")
    gamma_final: float = cite(-1.0, "off; Huang et al. 2024: 2 to 0.2")
    penalty_every: int = cite(8, f"{SWEPT}; lazy regularisation is {STYLEGAN2}, appendix B, every 16th there")
    n_critic: int = cite(1, DCGAN)
    fresh_latents: bool = cite(
        False, "the generator learns from the images the discriminator just saw: one pass less"
    )
    g_optimizer: str = cite("adam", STYLEGAN2)
    d_optimizer: str = cite("adam", STYLEGAN2)
    g_lr: float = cite(4e-4, f"{SWEPT}; twice DCGAN's")
    d_lr: float = cite(4e-4, f"{SWEPT}; 8e-4 for both collapsed at gamma 4")
    lr_schedule: str = cite("cooldown", "Hagele et al. 2024, arXiv:2405.18392; docs/sweeps.md")
    lr_cooldown: float = cite(0.3, f"{SWEPT}; 0.5 leaves five minutes too little to learn in")
    lr_final: float = cite(0.1, SWEPT)
    beta1: float = cite(0.0, f"{STYLEGAN2}; Mescheder et al. 2018")
    beta2: float = cite(0.99, f"{STYLEGAN2}; Mescheder et al. 2018")
    flip: bool = cite(True, "NVlabs/stylegan3, --mirror")
    sharpen: float = cite(0.5, "ours, after Schwarz et al. 2021, arXiv:2111.02447; docs/sweeps.md")
    diffaugment: str = cite("", "off on all of CelebA: Zhao et al. 2020, arXiv:2006.10738")
    augment_target: float = cite(0.0, "off; 0.6 in Karras et al. 2020, arXiv:2006.06676")
    ema_kimg: float = cite(10.0, "NVlabs/stylegan3, train.py: batch * 10 / 32")
    ema_rampup: float = cite(0.1, f"{SWEPT}; 0.05 in NVlabs/stylegan3, train.py")
    batch_size: int = cite(32, f"{SWEPT}: twice the updates an image")
    kimg: float = cite(5000.0, "ours: 25 passes over CelebA's 202,599 pictures")


@dataclass(frozen=True)
class Face128(Face64):
    """The same networks, one stage deeper, and the same settings at 128 px."""

    name = "face-128"
    summary = "DCGAN with upsampling, self-modulation, lazy R1, EMA, flip; CelebA crop 150, 128 px"

    resolution: Size = cite(Size(128, 128), "ours")
    minibatch_per_map: bool = cite(False, "off: no clear gain after 8 kimg, docs/sweeps.md")
    full_size_stage: bool = cite(False, "off: no clear gain after 8 kimg, docs/sweeps.md")
    sharpen: float = cite(0.0, "off: not measured at 128 px")
    lr_schedule: str = cite("constant", "not measured at 128 px")
    r1_gamma: float = cite(12.0, "face-64's, by the pixels, as the rule of NVlabs/stylegan3 has it")
