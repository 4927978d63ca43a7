"""The step equals the one anybody would write: every weight after several steps, in every order of updates."""

import copy

import pytest
import torch
from tiny import ADAPTIVE, MadeUpImages, tiny_recipe
from torch.nn import functional as F

from facegan.recipes import Recipe
from facegan.run import machine
from facegan.run.settings import RunSettings
from facegan.train import penalties
from facegan.train.draws import RandomNumbers
from facegan.train.objective import scale_images
from facegan.train.schedules import schedule_values
from facegan.train.state import State
from facegan.train.step import Batch, Step

STEPS = 4

# Plain gradient descent shows a difference in a gradient as it is; Adam would blow up the rounding of tiny ones.
PLAIN = {"g_optimizer": "sgd", "d_optimizer": "sgd", "beta1": 0.0, "g_lr": 0.01, "d_lr": 0.02}
SLOW = {"g_lr": 1e-4, "d_lr": 1e-4}  # where the penalty would make larger steps diverge


class Side:
    """The same batches for our step and for the plain one."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.machine = machine.start(RunSettings(threads=1, precision="fp32"))
        self.state = State(recipe, 0, self.machine)
        self.numbers = RandomNumbers(recipe, 0, self.state.generator, self.state.discriminator)

    def batches(self) -> list[Batch]:
        stream, size = MadeUpImages(self.recipe), self.recipe.batch_size
        return [
            Batch(
                k * size,
                next(stream),
                self.numbers.step(k * size, size),
                schedule_values(self.recipe, k * size, 10**6),
            )
            for k in range(STEPS)
        ]


def ours(recipe: Recipe, batch_per_rank: int = 0) -> State:
    side = Side(recipe)
    step = Step(recipe, side.state, side.machine, batch_per_rank)
    for batch in side.batches():
        step(batch)
    return side.state


def sgd(module: torch.nn.Module, lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr)


def assert_same_weights(state: State, G: torch.nn.Module, D: torch.nn.Module, *, buffers: bool = True) -> None:
    """`buffers=False` leaves out BatchNorm's statistics, where the plain step runs the generator more often."""
    for mine, plain in ((state.generator, G), (state.discriminator, D)):
        expected = plain.state_dict() if buffers else dict(plain.named_parameters())
        for name, value in expected.items():
            found = mine.state_dict()[name]
            torch.testing.assert_close(
                found, value.detach(), rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_the_dcgan_step_is_the_one_of_pytorch_examples():
    recipe = tiny_recipe("dcgan-64", **PLAIN)
    side = Side(recipe)
    G, D = copy.deepcopy(side.state.generator), copy.deepcopy(side.state.discriminator)
    g_opt, d_opt = sgd(G, recipe.g_lr), sgd(D, recipe.d_lr)
    for batch in side.batches():
        ones, zeros = torch.ones(len(batch.images)), torch.zeros(len(batch.images))
        D.zero_grad()
        F.binary_cross_entropy_with_logits(D(batch.images.float() / 127.5 - 1), ones).backward()
        fake = G(batch.draws.critic[0].z)
        F.binary_cross_entropy_with_logits(D(fake.detach()), zeros).backward()
        d_opt.step()
        G.zero_grad()
        F.binary_cross_entropy_with_logits(D(fake), ones).backward()
        g_opt.step()
    state = ours(recipe)
    # The discriminator sees the fakes once more in the generator's step, as in the reference.
    assert_same_weights(state, G, D)


def test_the_wgan_gp_step_is_the_straightforward_one():
    recipe = tiny_recipe("wgan-gp-128", n_critic=2, init="glorot", **PLAIN)
    side = Side(recipe)
    G, D = copy.deepcopy(side.state.generator), copy.deepcopy(side.state.discriminator)
    g_opt, d_opt = sgd(G, recipe.g_lr), sgd(D, recipe.d_lr)
    for k, batch in enumerate(side.batches()):
        draws, real = batch.draws.critic[0], batch.images.float() / 127.5 - 1
        fake = G(draws.z).detach()
        mixed = draws.eps[:, None, None, None] * real + (1 - draws.eps[:, None, None, None]) * fake
        mixed.requires_grad_()
        (slope,) = torch.autograd.grad(D(mixed).sum(), mixed, create_graph=True)
        penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        d_opt.zero_grad()
        (D(fake).mean() - D(real).mean() + recipe.gp_weight * penalty).backward()
        d_opt.step()
        if k % 2 == 1:
            g_opt.zero_grad()
            z = batch.draws.generator.z
            (-D(G(z)).mean()).backward()
            g_opt.step()
    assert_same_weights(ours(recipe), G, D, buffers=False)


def test_split_updates_take_two_discriminator_steps_a_batch():
    recipe = tiny_recipe("dcgan-128", **PLAIN)
    side = Side(recipe)
    G, D = copy.deepcopy(side.state.generator), copy.deepcopy(side.state.discriminator)
    g_opt, d_opt = sgd(G, recipe.g_lr), sgd(D, recipe.d_lr)
    for batch in side.batches():
        fake = G(batch.draws.critic[0].z)
        for images, target in ((batch.images.float() / 127.5 - 1, recipe.real_labels.low), (fake.detach(), 0.0)):
            d_opt.zero_grad()
            logits = D(images)
            F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target)).backward()
            d_opt.step()
        g_opt.zero_grad()
        logits = D(fake)
        F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
        g_opt.step()
    assert_same_weights(ours(recipe), G, D)


def test_shared_reals_take_the_order_of_the_lfw_reference():
    """One critic step from the forward pass that the generator's step shares, then two more on the same reals."""
    recipe = tiny_recipe(
        "wgan-gp-lfw", batch_size=4, dropout=0.0, diversity_weight=0.0, instance_noise=0.0, **PLAIN | SLOW
    )
    side = Side(recipe)
    G, D = copy.deepcopy(side.state.generator), copy.deepcopy(side.state.discriminator)
    g_opt, d_opt = sgd(G, recipe.g_lr), sgd(D, recipe.d_lr)
    from facegan.train import augment

    for batch in side.batches():
        real = augment.geometric(
            scale_images(batch.images, recipe.value_range),
            batch.draws.warp,
            rotation=recipe.rotation,
            shear=recipe.shear,
            zoom=recipe.zoom,
            flip=recipe.flip,
        )
        for k, draws in enumerate(batch.draws.critic):
            fake = G(draws.z)
            g_grads = torch.autograd.grad(-D(fake).mean(), list(G.parameters())) if k == 0 else None
            penalty = penalties.gradient_penalty(D, real, fake, draws.eps)
            d_opt.zero_grad()
            (D(fake.detach()).mean() - D(real).mean() + recipe.gp_weight * penalty).backward()
            d_opt.step()
            if g_grads:
                for p, g in zip(G.parameters(), g_grads, strict=True):
                    p.grad = g
                g_opt.step()
    assert_same_weights(ours(recipe), G, D, buffers=False)


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize(
    "changes", [{}, {"loss": "wasserstein", "gp_weight": 10.0, "n_critic": 2, **SLOW}, ADAPTIVE]
)
def test_parts_of_unequal_size_count_by_their_images(changes, size):
    recipe = tiny_recipe("mlp-64", **PLAIN | changes)
    whole, parts = ours(recipe), ours(recipe, batch_per_rank=size)
    for which in ("generator", "discriminator"):
        for a, b in zip(whole.network(which).parameters(), parts.network(which).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    mine, theirs = whole.meter.take(), parts.meter.take()
    for name in mine:
        assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("name", "changes"), [("mlp-64", {}), ("wgan-gp-128", {"critic_norm": "layer", "n_critic": 2})]
)
def test_accumulated_gradients_equal_those_of_the_whole_batch(name, changes):
    """Networks without BatchNorm; the generator's here counts per part, so only the critic of the second one."""
    recipe = tiny_recipe(name, **changes)
    whole, parts = ours(recipe), ours(recipe, batch_per_rank=2)
    compared = ("generator", "discriminator") if name == "mlp-64" else ()
    for which in compared:
        for a, b in zip(whole.network(which).parameters(), parts.network(which).parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert parts.meter.take().keys() == whole.meter.take().keys()


def test_the_average_follows_the_generator_and_copies_its_statistics():
    recipe = tiny_recipe("dcgan-64", ema_kimg=0.01, ema_rampup=0.0)
    state = ours(recipe)
    assert state.average is not None
    live, mean = state.generator.state_dict(), state.average.state_dict()
    start = Side(recipe).state.generator.state_dict()
    for name, value in live.items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(mean[name], value)
        else:  # between the initial weights and today's
            assert not torch.equal(mean[name], value)
            assert ((mean[name] - start[name]).abs().sum() > 0) and torch.isfinite(mean[name]).all()


@pytest.mark.parametrize(("bias", "steps"), [(50.0, STEPS), (-50.0, 0)])
def test_the_chance_of_augmentation_follows_the_sign_on_real_images(bias, steps):
    """Up by the batch's share of augment_kimg a step under a discriminator that takes all for real, else at 0."""
    changes = {"augment_target": 0.6, "augment_kimg": 0.1, "diffaugment": "translation", "d_lr": 1e-9}
    side = Side(tiny_recipe("mlp-64", **PLAIN | changes))
    with torch.no_grad():
        [*side.state.discriminator.parameters()][-1].fill_(bias)
    step = Step(side.recipe, side.state, side.machine)
    for batch in side.batches():
        step(batch)
    assert float(side.state.chance) == pytest.approx(steps * side.recipe.batch_size / 100)
    terms = side.state.meter.take()
    assert terms["augment/sign"] == (1.0 if steps else -1.0)
    before = [k * side.recipe.batch_size / 100 for k in range(STEPS)] if steps else [0.0]
    assert terms["augment/chance"] == pytest.approx(sum(before) / len(before))


def test_a_tripped_guard_withholds_every_later_update():
    for optimizer in ("adam", "sgd", "rmsprop"):
        side = Side(tiny_recipe("mlp-64", g_optimizer=optimizer, d_optimizer=optimizer))
        step = Step(side.recipe, side.state, side.machine)
        first, second, *_ = side.batches()
        step(first)
        before = [p.clone() for p in side.state.generator.parameters()]
        side.state.meter.add(("loss/x",), torch.tensor([float("nan")]), 6)
        step(second)
        assert all(torch.equal(a, b) for a, b in zip(before, side.state.generator.parameters(), strict=True))
        assert side.state.meter.trouble() == ("loss/x", 6)
