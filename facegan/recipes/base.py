"""What a recipe is: a frozen dataclass whose every number carries its source.

A recipe file subclasses `Recipe`, redeclares the fields its reference fixes with `cite(value, source)` and is
found by itself (`facegan.recipes`). The redeclared fields are the recipe's options on the command line; the rest
keep the neutral defaults below (technique off). No torch here: `facegan train --help` must stay fast.
"""

from dataclasses import dataclass, field, fields
from inspect import get_annotations  # of the class alone; Python 3.14 keeps none in a class's own dictionary
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from facegan.errors import UsageError

Value = TypeVar("Value")


class Size(NamedTuple):
    """Height and width of an image in pixels; written `64` where square, `62x47` (height x width) where not."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}" if self.height == self.width else f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read `64` or `62x47`; raises UsageError for anything else or a side outside 1..4096."""
        sides = text.lower().split("x")
        if len(sides) > 2 or not all(s.isascii() and s.isdigit() and 1 <= int(s) <= 4096 for s in sides):
            raise UsageError(f"size {text!r}: expected SIDE or HEIGHTxWIDTH in pixels, such as 64 or 62x47")
        return cls(int(sides[0]), int(sides[-1]))


class Range(NamedTuple):
    """Two bounds of a uniform draw; written `0.9` where they are equal, `0.7,1.2` where not."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g},{self.high:g}"

    @classmethod
    def parse(cls, text: str) -> "Range":
        """Read `0.9` or `0.7,1.2`; raises UsageError for anything else or low > high."""
        try:
            bounds = [float(part) for part in text.split(",")]
        except ValueError:
            bounds = []
        if len(bounds) not in (1, 2) or bounds[0] > bounds[-1]:
            raise UsageError(f"range {text!r}: expected VALUE or LOW,HIGH, such as 0.9 or 0.7,1.2")
        return cls(bounds[0], bounds[-1])


def cite(value: Value, source: str, help: str = "") -> Value:
    """A dataclass field with its default, where the number comes from, and (new fields) a help line.

    To the type checker it is the value, so that a default of another type than its field's is found.
    """
    made: Any = field(default=value, metadata={"source": source, "help": help})
    return cast(Value, made)


def _off(value: Value, help: str) -> Value:
    return cite(value, "neutral default", help)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes, apart from its data and its seed."""

    name: ClassVar[str]
    reference: ClassVar[str]  # the public system or paper, or "ours"
    summary: ClassVar[str]  # one line for the table
    notes: ClassVar[tuple[str, ...]] = ()  # where text and code disagree, or a published bug was not kept

    # Data
    resolution: Size = _off(Size(64, 64), "image size, 64 or 62x47 (height x width)")
    channels: int = _off(3, "3 for colour, 1 for grey")
    crop: str = _off("150", "centre crop in pixels, rows:rows,columns:columns, or none")
    value_range: str = _off("tanh", "images in [-1, 1] (tanh) or [0, 1] (sigmoid)")

    # Networks
    network: str = _off("dcgan", "network family: a file of facegan/networks")
    latent_dim: int = _off(100, "length of the noise vector z (nz)")
    ngf: int = _off(64, "generator width")
    ndf: int = _off(64, "discriminator width")
    kernel: int = _off(4, "convolution kernel size")
    first_stride: int = _off(2, "stride of the discriminator's first convolution")
    g_slope: float = _off(0.0, "generator LeakyReLU slope; 0 is ReLU")
    d_slope: float = _off(0.2, "discriminator LeakyReLU slope")
    bn_momentum: float = _off(0.1, "BatchNorm momentum, PyTorch's (1 - Keras's)")
    bn_eps: float = _off(1e-5, "epsilon of every normalisation layer")
    init: str = _off("dcgan", "dcgan (N(0, 0.02), BatchNorm N(1, 0.02)), normal (N(0, 0.02)), glorot or torch")
    upsample: str = _off("deconv", "generator upsampling: deconv or nearest (then conv)")
    critic_norm: str = _off("batch", "normalisation in the discriminator: batch, layer, instance or none")
    generator_norm: str = _off("batch", "normalisation in the generator: batch or instance")
    dropout: float = _off(0.0, "dropout probability where the family has dropout")
    spectral_norm: bool = _off(False, "spectral normalisation of the discriminator (Miyato et al. 2018)")
    minibatch_std: bool = _off(False, "minibatch standard deviation in the discriminator (Karras et al. 2018)")
    minibatch_per_map: bool = _off(False, "minibatch_std: a deviation of each map instead of one number")
    full_size_stage: bool = _off(False, "one more stage of the generator, at the image's own size")
    self_modulation: bool = _off(False, "z also scales and shifts every map of the generator (Chen et al. 2019)")
    moments_side: int = _off(
        0, "stored generators: side of the small images whose moments are matched to the pictures'; 0 is off"
    )
    spectrum_kernel: int = _off(
        0, "stored generators: side of the kernel that matches their spectrum to the pictures'; 0 is off"
    )

    # Losses and penalties
    loss: str = _off("bce", "bce, minimax, wasserstein, lsgan, hinge or relativistic")
    real_labels: Range = _off(Range(1.0, 1.0), "targets of real images, fixed or uniform (label smoothing)")
    gp_weight: float = _off(0.0, "gradient penalty weight lambda (Gulrajani et al. 2017)")
    clip: float = _off(0.0, "critic weights clipped to +-clip (Arjovsky et al. 2017); 0 is off")
    r1_gamma: float = _off(0.0, "R1 weight, on real images (Mescheder et al. 2018)")
    r2_gamma: float = _off(0.0, "R2 weight, on generated images (Mescheder et al. 2018)")
    gamma_final: float = _off(-1.0, "R1 and R2 weight at the end of a cosine schedule; -1 keeps it constant")
    penalty_every: int = _off(1, "batches between R1/R2 penalties (lazy regularisation, Karras et al. 2020)")
    diversity_weight: float = _off(0.0, "diversity penalty of the LFW reference")

    # Steps
    n_critic: int = _off(1, "critic steps per generator step")
    fresh_reals: bool = _off(True, "each critic step reads its own real batch; otherwise they share one")
    fresh_latents: bool = _off(False, "the generator step draws new latents; otherwise the critic's last")
    split_updates: bool = _off(False, "one discriminator step on reals, then one on fakes")

    # Optimizers
    g_optimizer: str = _off("adam", "generator optimizer: adam, sgd or rmsprop")
    d_optimizer: str = _off("adam", "discriminator optimizer: adam, sgd or rmsprop")
    g_lr: float = _off(2e-4, "generator learning rate")
    d_lr: float = _off(2e-4, "discriminator learning rate")
    beta1: float = _off(0.5, "Adam beta1 (momentum for sgd)")
    beta2: float = _off(0.999, "Adam beta2")
    adam_eps: float = _off(1e-8, "Adam epsilon")
    lr_schedule: str = _off("constant", "constant, exponential, linear, cosine or cooldown")
    lr_decay: float = _off(1.0, "exponential: factor per lr_decay_steps optimizer steps")
    lr_decay_steps: int = _off(1, "exponential: optimizer steps per factor lr_decay")
    lr_cooldown: float = _off(0.3, "cooldown: the last share of the run, over which the rates fall linearly")
    lr_final: float = _off(0.1, "cooldown: factor on the rates at the run's end")

    # Real images and augmentation
    flip: bool = _off(False, "mirror each real image with probability 1/2")
    rotation: float = _off(0.0, "real images turned by up to +-degrees")
    shear: float = _off(0.0, "real images sheared by up to +-value")
    zoom: float = _off(0.0, "real images zoomed by 1-value..1+value")
    instance_noise: float = _off(0.0, "standard deviation of noise on what the critic sees at step 0")
    instance_noise_on: str = _off("both", "instance noise on both, or on real images only: real")
    instance_noise_decay: float = _off(1.0, "factor on the noise per instance_noise_steps batches")
    instance_noise_steps: int = _off(1, "batches per factor instance_noise_decay")
    sharpen: float = _off(0.0, "what the critic sees is sharpened: a pixel's difference from its 3x3, times this")
    diffaugment: str = _off("", "DiffAugment policy, such as color,translation,cutout (Zhao et al. 2020)")
    augment_target: float = _off(
        0.0, "diffaugment by a chance that holds the mean sign of D on real images here (ADA); 0: always"
    )
    augment_kimg: float = _off(500.0, "thousands of images in which that chance can go from 0 to 1")

    # Averaged generator
    ema_kimg: float = _off(0.0, "half-life of the generator's moving average in thousands of images; 0 is off")
    ema_rampup: float = _off(0.05, "half-life at most this share of the images seen so far")

    # Length
    batch_size: int = _off(64, "global batch, over all ranks")
    kimg: float = _off(0.0, "length in thousands of real images; 0 takes epochs")
    epochs: float = _off(0.0, "length in epochs of the data; 0 takes kimg")

    @classmethod
    def options(cls) -> list[str]:
        """Names of the fields this recipe's own file declares, in the order of the base class."""
        own = {name for base in cls.__mro__ if base is not Recipe for name in get_annotations(base)}
        return [f.name for f in fields(cls) if f.name in own]

    @classmethod
    def source(cls, name: str) -> str:
        """Where the default of field `name` comes from."""
        return str(cls.__dataclass_fields__[name].metadata["source"])

    @classmethod
    def help(cls, name: str) -> str:
        """What field `name` means."""
        return str(
            cls.__dataclass_fields__[name].metadata["help"] or Recipe.__dataclass_fields__[name].metadata["help"]
        )
