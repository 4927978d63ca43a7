"""What a recipe may not ask for, and what it may but should not: found before anything is built. No torch here."""

from collections.abc import Iterator
from dataclasses import dataclass

from facegan.errors import UsageError
from facegan.recipes.base import Recipe, Size

ANY_SIZE: tuple[Size, ...] = ()
FEWEST_FOR_BATCH_NORM = 8  # images
LOSSES = ("bce", "minimax", "wasserstein", "lsgan", "hinge", "relativistic")
SIGNED_LOSSES = ("bce", "minimax", "hinge")  # whose discriminator means "real" by a logit above 0
MINIBATCH_GROUP = 4  # samples whose deviation minibatch_std takes together
POLICIES = ("color", "translation", "cutout")  # of DiffAugment
EXTRAS = (
    *("dropout", "spectral_norm", "minibatch_std", "minibatch_per_map", "full_size_stage", "self_modulation"),
    *("first_stride", "generator_norm", "moments_side", "spectrum_kernel"),
)


@dataclass(frozen=True)
class Family:
    """What a network family can do. sizes: resolutions; None is every square power of two from 16 to 1024."""

    sizes: tuple[Size, ...] | None = None
    norms: tuple[str, ...] = ("batch", "layer", "instance", "none")
    upsampling: tuple[str, ...] = ("deconv", "nearest")
    kernels: tuple[int, ...] = (3, 5)
    extras: tuple[str, ...] = ()  # of EXTRAS


FAMILIES = {
    "dcgan": Family(
        kernels=(3, 4, 5),
        extras=(
            *("spectral_norm", "minibatch_std", "minibatch_per_map", "full_size_stage", "self_modulation"),
            *("generator_norm", "moments_side", "spectrum_kernel"),
        ),
    ),
    "dcgan28": Family((Size(28, 28),), upsampling=("deconv",), kernels=(5,), extras=("dropout", "spectral_norm")),
    "dcgan_dense": Family(extras=("spectral_norm", "minibatch_std", "minibatch_per_map", "first_stride")),
    "dcgan_dropout": Family(extras=("dropout", "spectral_norm")),
    "lfw": Family(ANY_SIZE, norms=("none",), extras=("dropout", "spectral_norm")),
    "mlp": Family(
        ANY_SIZE, norms=("none",), upsampling=("deconv",), kernels=(4,), extras=("dropout", "spectral_norm")
    ),
}

CHOICES = {
    "network": tuple(FAMILIES),
    "value_range": ("tanh", "sigmoid"),
    "critic_norm": ("batch", "layer", "instance", "none"),
    "generator_norm": ("batch", "instance"),
    "upsample": ("deconv", "nearest"),
    "init": ("dcgan", "normal", "glorot", "torch"),
    "loss": LOSSES,
    "g_optimizer": ("adam", "sgd", "rmsprop"),
    "d_optimizer": ("adam", "sgd", "rmsprop"),
    "lr_schedule": ("constant", "exponential", "linear", "cosine", "cooldown"),
    "instance_noise_on": ("both", "real"),
    "channels": (1, 3),
    "first_stride": (2, 4),
    "moments_side": (0, 2, 4, 8),
    "spectrum_kernel": (0, 3, 5, 7),
}

AT_LEAST_ONE = (
    *("latent_dim", "ngf", "ndf", "batch_size", "n_critic", "penalty_every", "lr_decay_steps"),
    "instance_noise_steps",
)
POSITIVE = ("g_lr", "d_lr", "adam_eps", "bn_eps", "lr_decay", "instance_noise_decay", "augment_kimg")
NOT_NEGATIVE = (
    *("gp_weight", "clip", "r1_gamma", "r2_gamma", "diversity_weight", "instance_noise", "ema_kimg", "ema_rampup"),
    *("rotation", "shear", "sharpen", "g_slope", "d_slope", "kimg", "epochs"),
)
BELOW_ONE = ("dropout", "beta1", "beta2", "zoom", "augment_target", "lr_cooldown", "lr_final")


def check(recipe: Recipe) -> list[str]:
    """Warnings about `recipe`, one a line; raises UsageError, which says what to change, where it cannot work."""
    _check_numbers(recipe)
    policy_names(recipe.diffaugment)
    check_network(recipe)
    for wrong in _impossible(recipe):
        raise UsageError(wrong)
    return list(_doubtful(recipe))


def check_batch_per_rank(
    recipe: Recipe, ranks: int, *, sync_bn: bool, on_gpu: bool = True, begun: bool = False
) -> str:
    """How many images a rank gets of each batch, in words.

    Raises UsageError where the batch does not divide, or leaves BatchNorm statistics of too few images: their error
    grows fast below 8 (Wu and He 2018, Group Normalization, arXiv:1803.08494, figure 1). A run `begun` with so few
    may go on.
    """
    batch = recipe.batch_size
    if batch % ranks:
        raise UsageError(
            f"a batch of {batch} does not divide over {ranks} ranks: --batch-size {-(-batch // ranks) * ranks}, "
            "or other --nodes or --gpus-per-node"
        )
    few = few_for_batch_norm(recipe, ranks, sync_bn=sync_bn)
    if few and begun:
        return f"Warning: {few}; the run was begun and goes on: fewer ranks are better"
    if few:
        fewer = f"ask for {max(batch // FEWEST_FOR_BATCH_NORM, 1)} ranks or fewer"
        raise UsageError(
            f"{few}. {f'Give --sync-bn, or {fewer}' if on_gpu else fewer.capitalize()}, or --batch-size "
            f"{FEWEST_FOR_BATCH_NORM * ranks} with learning rates for it (--lr)"
        )
    return _share(recipe, ranks)


def few_for_batch_norm(recipe: Recipe, ranks: int, *, sync_bn: bool) -> str:
    """What is wrong where a rank has too few images for its BatchNorm, "" where it has enough."""
    able = "batch" in FAMILIES[recipe.network].norms
    has_batch_norm = able and "batch" in (recipe.generator_norm, recipe.critic_norm)
    if not has_batch_norm or ranks == 1 or sync_bn or recipe.batch_size // ranks >= FEWEST_FOR_BATCH_NORM:
        return ""
    share = _share(recipe, ranks)
    return f"{share}, and each rank's BatchNorm sees no others; it needs {FEWEST_FOR_BATCH_NORM}"


def _share(recipe: Recipe, ranks: int) -> str:
    share = recipe.batch_size // ranks
    return f"a batch of {recipe.batch_size} over {ranks} rank{'s' * (ranks > 1)}: {share} images a rank"


def check_split(recipe: Recipe, world: int, batch_per_rank: int = 0, *, sync_bn: bool = False) -> None:
    """Raise UsageError where `world` ranks, computing `batch_per_rank` images at a time (0: all), would train
    another model than one rank does with the whole batch, or cannot train it.
    """
    group, own = MINIBATCH_GROUP, recipe.batch_size // world
    if recipe.minibatch_std and own % group:
        raise UsageError(
            f"minibatch_std compares {group} images of a rank, and each of {world} ranks has {own}: give "
            f"--batch-size a multiple of {world * group}, or --set minibatch_std=false"
        )
    if recipe.minibatch_std and batch_per_rank % group:
        raise UsageError(
            f"minibatch_std compares {group} images: give --batch-per-rank a multiple of {group} (found "
            f"{batch_per_rank}), or --set minibatch_std=false"
        )
    if sync_bn and has_batchnorm_critic(recipe) and (recipe.gp_weight or recipe.r1_gamma or recipe.r2_gamma):
        raise UsageError(
            "sync_bn with a gradient penalty on a critic with BatchNorm: PyTorch's SyncBatchNorm has no second "
            "derivative; leave out --sync-bn, or use --critic-norm layer"
        )


def check_network(recipe: Recipe) -> None:
    """Raise UsageError where the network family cannot be built as the recipe asks."""
    for name, allowed in CHOICES.items():
        if getattr(recipe, name) not in allowed:
            expected = ", ".join(str(a) for a in allowed)
            raise UsageError(f"{name}={getattr(recipe, name)!r}: expected one of: {expected}")
    for wrong in _unbuildable(recipe, FAMILIES[recipe.network]):
        raise UsageError(f"network {recipe.network}: {wrong}")


def _check_numbers(recipe: Recipe) -> None:
    rules = {"at least 1": AT_LEAST_ONE, "more than 0": POSITIVE, "0 or more": NOT_NEGATIVE, "in [0, 1)": BELOW_ONE}
    for rule, names in rules.items():
        for name in names:
            if not _holds(rule, getattr(recipe, name)):
                raise UsageError(f"{name}={getattr(recipe, name)!r}: expected {rule}")
    if not 0 < recipe.bn_momentum <= 1:
        raise UsageError(f"bn_momentum={recipe.bn_momentum!r}: expected more than 0 and at most 1")
    if bool(recipe.kimg) == bool(recipe.epochs):
        state = "both are set" if recipe.kimg else "both are 0"
        raise UsageError(f"the length is kimg or epochs, and {state}: set one of them and leave the other 0")


def _holds(rule: str, value: float) -> bool:  # written so that NaN breaks every rule
    return {
        "at least 1": value >= 1,
        "more than 0": 0 < value < float("inf"),
        "0 or more": 0 <= value < float("inf"),
        "in [0, 1)": 0 <= value < 1,
    }[rule]


def _unbuildable(recipe: Recipe, family: Family) -> Iterator[str]:
    height, wide = recipe.resolution
    if family.sizes is None:
        if height != wide or height & (height - 1) or not 16 <= height <= 1024:
            yield f"resolution={recipe.resolution}: expected a power of two from 16 to 1024"
    elif family.sizes and recipe.resolution not in family.sizes:
        yield f"resolution={recipe.resolution}: expected {' or '.join(map(str, family.sizes))}"
    for name, allowed in (
        ("critic_norm", family.norms),
        ("upsample", family.upsampling),
        ("kernel", family.kernels),
    ):
        if getattr(recipe, name) not in allowed:
            yield f"{name}={getattr(recipe, name)}: expected {' or '.join(map(str, allowed))}"
    for name in EXTRAS:
        off = Recipe.__dataclass_fields__[name].default
        if getattr(recipe, name) != off and name not in family.extras:
            yield f"{name} has no place in this family; families that have one: {_families_with(name)}"
    if recipe.first_stride == 4 and height < 32:
        yield f"first_stride={recipe.first_stride}: expected 2 below 32 px"
    if recipe.network == "lfw" and recipe.ngf < 4:
        yield f"ngf={recipe.ngf}: expected at least 4, its last maps are a quarter as many"


def policy_names(policy: str) -> list[str]:
    """The names in a DiffAugment policy; raises UsageError for one that does not exist."""
    names = [name.strip() for name in policy.split(",") if name.strip()]
    for name in names:
        if name not in POLICIES:
            expected = ",".join(POLICIES)
            raise UsageError(f"diffaugment={policy!r}: {name!r} does not exist; expected some of {expected}")
    return names


def _families_with(extra: str) -> str:
    return ", ".join(name for name, family in FAMILIES.items() if extra in family.extras)


def _impossible(recipe: Recipe) -> Iterator[str]:
    penalised = bool(recipe.gp_weight or recipe.r1_gamma or recipe.r2_gamma)
    if penalised and has_batchnorm_critic(recipe) and recipe.name != "wgan-gp-64":
        yield (
            "critic_norm=batch with a gradient penalty: the penalty is on each sample's gradient, and BatchNorm "
            "makes it depend on the whole batch (Gulrajani et al. 2017, section 4); use --critic-norm layer, "
            "instance or none"
        )
    if recipe.clip and recipe.gp_weight:
        yield "clip and gp_weight both bound the critic's slope: set one of them to 0"
    if recipe.clip and recipe.spectral_norm:
        yield "clip has no effect under spectral_norm, which rescales the weights: set clip to 0"
    if recipe.loss == "relativistic" and recipe.split_updates:
        yield "loss relativistic pairs real and generated images, split_updates parts them: choose one"
    if recipe.diversity_weight and recipe.loss != "wasserstein":
        yield "diversity_weight is defined on the Wasserstein loss of the generator: use --loss wasserstein"
    if recipe.real_labels != (1.0, 1.0) and recipe.loss not in ("bce", "minimax", "lsgan"):
        yield f"real_labels={recipe.real_labels}: loss {recipe.loss} has no targets; use bce, minimax or lsgan"
    if recipe.split_updates and penalised:
        yield "split_updates with a gradient penalty is not defined: the penalty belongs to one update"
    if recipe.augment_target and not recipe.diffaugment:
        yield "augment_target adapts the chance of diffaugment, which is empty: --diffaugment color,translation"
    if recipe.augment_target and recipe.loss not in SIGNED_LOSSES:
        yield f"augment_target reads the sign of logits on real images: expected loss {' or '.join(SIGNED_LOSSES)}"
    if recipe.augment_target and recipe.split_updates:
        yield "augment_target with split_updates is not defined: leave augment_target at 0"
    if recipe.gamma_final >= 0 and not (recipe.r1_gamma or recipe.r2_gamma):
        yield "gamma_final is the end of a schedule of r1_gamma or r2_gamma, and both are 0"


def has_batchnorm_critic(recipe: Recipe) -> bool:
    """Whether the discriminator of this recipe normalises over the batch."""
    return recipe.critic_norm == "batch"


def _doubtful(recipe: Recipe) -> Iterator[str]:
    if recipe.loss == "wasserstein" and not (recipe.gp_weight or recipe.clip or recipe.spectral_norm):
        yield "loss wasserstein without gp_weight, clip or spectral_norm: nothing bounds the critic's slope"
    if recipe.gp_weight and has_batchnorm_critic(recipe):
        yield (
            "BatchNorm in a critic under a gradient penalty, as this reference published it, is against "
            "Gulrajani et al. 2017, section 4; --critic-norm layer gives the correct one"
        )
    if recipe.penalty_every > 1 and not (recipe.r1_gamma or recipe.r2_gamma):
        yield "penalty_every is for r1_gamma and r2_gamma, and both are 0; the gradient penalty is never left out"
    if recipe.lr_schedule == "exponential" and recipe.lr_decay == 1:
        yield "lr_schedule exponential with lr_decay 1 never changes the learning rates"
    if recipe.lr_schedule == "cooldown" and recipe.lr_cooldown == 0:
        yield "lr_schedule cooldown with lr_cooldown 0 never changes the learning rates"
    if recipe.spectrum_kernel and recipe.moments_side > recipe.resolution.height // 8:
        yield (
            f"moments_side={recipe.moments_side} at {recipe.resolution.height} px reaches frequencies that "
            f"spectrum_kernel changes too: --set moments_side={recipe.resolution.height // 8} does not"
        )
    if recipe.loss == "minimax":
        yield "loss minimax saturates: the generator stops learning where the discriminator wins; bce does not"
