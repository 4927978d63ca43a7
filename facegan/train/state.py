"""Everything a run carries from step to step, and its flat form of named tensors for checkpoints."""

import copy
import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from facegan.errors import FaceganError
from facegan.networks import Network, build_discriminator, build_generator
from facegan.networks.moments import Matched, Moments
from facegan.networks.standing import set_standing_statistics
from facegan.recipes import Recipe
from facegan.run.checkpoint import below
from facegan.run.machine import Machine
from facegan.train.augment import adapted
from facegan.train.meter import Meter
from facegan.train.schedules import Number

NETWORKS = ("generator", "discriminator")
COMPILER_AWARE = ("add_param_group", "load_state_dict", "state_dict", "step")


class State:
    """Generator, discriminator, averaged generator (EMA), their optimizers, and the sums of the terms to log."""

    def __init__(self, recipe: Recipe, seed: int, machine: Machine, *, sync_bn: bool = False) -> None:
        torch.manual_seed(seed)  # initial weights only: on every rank the same
        generator = build_generator(recipe)
        self._shown = _place(copy.deepcopy(generator), machine, sync_bn=False).requires_grad_(False)
        self.generator = _place(generator, machine, sync_bn)
        self.discriminator = _place(build_discriminator(recipe), machine, sync_bn)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False) if recipe.ema_kimg else None
        self.optimizers = {
            "generator": _optimizer(recipe.g_optimizer, self.generator, recipe, recipe.g_lr, machine),
            "discriminator": _optimizer(recipe.d_optimizer, self.discriminator, recipe, recipe.d_lr, machine),
        }
        self.latent_dim = recipe.latent_dim
        self.chance = torch.zeros((), device=machine.device)  # of augmentation, where the recipe adapts it
        self.target, self.chance_step = recipe.augment_target, recipe.batch_size / recipe.augment_kimg / 1000
        self.moments: Moments | None = None  # of the training pictures, for recipes that match them
        self.meter = Meter(machine.device)

    def shown_generator(self) -> nn.Module:
        """The generator to draw, store and measure: the averaged one where the recipe has it, in eval mode.

        Its BatchNorm statistics are measured for its weights, so that it is the same on all ranks, and its images'
        light and fine detail are matched to `moments`, where the recipe has it. It stays as it is until the next
        call; what is trained and checkpointed is not touched.
        """
        trained = self.generator if self.average is None else self.average
        self._shown.load_state_dict(trained.state_dict())
        set_standing_statistics(self._shown, self.latent_dim, self.moments)
        return self._shown

    def network(self, which: str) -> nn.Module:
        """`generator` or `discriminator`."""
        return self.generator if which == "generator" else self.discriminator

    def buffers(self) -> list[Tensor]:
        """Running statistics of both networks' BatchNorm layers: either network's step moves those of both."""
        layers = [layer for which in NETWORKS for layer in self.network(which).modules()]
        moving = [layer for layer in layers if not isinstance(layer, Matched)]
        return [b for layer in moving for b in layer.buffers(recurse=False) if b.is_floating_point()]

    def set_learning_rates(self, g_lr: Number, d_lr: Number) -> None:
        """Set what the optimizers use from the next update on; a rate that is a tensor stays where it is."""
        for which, lr in (("generator", g_lr), ("discriminator", d_lr)):
            for group in self.optimizers[which].param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].copy_(torch.as_tensor(lr))
                else:
                    group["lr"] = lr

    def apply(self, which: str, grads: list[Tensor]) -> None:
        """Update a network by `grads`, unless something non-finite was ever seen (decided on the device)."""
        optimizer = self.optimizers[which]
        fused = optimizer.defaults.get("fused")
        for parameter, grad in zip(self.network(which).parameters(), grads, strict=True):
            # Without a fused kernel to tell, a zero gradient leaves the weights where they are.
            kept = grad if fused else torch.where(self.meter.tripped > 0, torch.zeros_like(grad), grad)
            parameter.grad = _laid_out_like(parameter, kept)
        if fused:
            optimizer.found_inf = self.meter.tripped  # type: ignore[attr-defined]
        optimizer.step()

    @torch.no_grad()
    def update_average(self, beta: Number) -> None:
        """Move the averaged generator: weights by EMA, BatchNorm statistics copied (Karras et al. 2018)."""
        if self.average is None:
            return
        means, now = list[Tensor](self.average.parameters()), list[Tensor](self.generator.parameters())
        if isinstance(beta, Tensor):
            torch._foreach_lerp_(means, now, [1 - beta] * len(now))
        else:
            torch._foreach_lerp_(means, now, 1 - beta)
        for kept, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(buffer)

    def adapt_chance(self, sign: Tensor) -> None:
        """Move the chance of augmentation by the discriminator's mean sign on a batch's real images."""
        self.chance.copy_(adapted(self.chance, sign, self.target, self.chance_step))

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors: `generator/...`, `average/...`, `generator.adam/...`, `meter/...`."""
        tensors: dict[str, Tensor] = {}
        for name, module in self._modules().items():
            tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
        for which in NETWORKS:
            for key, slot, value in self._slots(which):
                tensors[f"{which}.optimizer/{key}/{slot}"] = value
        if self.target:
            tensors["augment/chance"] = self.chance
        if self.moments:
            tensors |= {f"moments/{key}": value for key, value in self.moments._asdict().items()}
        return tensors | {f"meter/{key}": value for key, value in self.meter.tensors().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over `tensors()` of an equal state; raises FaceganError where names or shapes differ."""
        for name, module in self._modules().items():
            _load_module(module, below(tensors, name), name)
        for which in NETWORKS:
            self._load_optimizer(which, below(tensors, f"{which}.optimizer"))
        if self.target:
            self.chance.copy_(tensors["augment/chance"])
        moments = below(tensors, "moments")
        self.moments = Moments(**moments) if moments else None
        self.meter.load(below(tensors, "meter"))

    def weights(self) -> list[Tensor]:
        """What optimizers and averaging change in a step, themselves: parameters, and the optimizers' state."""
        parameters = [value.detach() for module in self._modules().values() for value in module.parameters()]
        return parameters + [value for which in NETWORKS for _, _, value in self._slots(which)]

    def statistics(self) -> list[Tensor]:
        """What else a step changes, itself: the networks' buffers, the chance of augmentation, the meter's sums."""
        buffers = [value for module in self._modules().values() for value in module.buffers()]
        return [*buffers, self.chance, *self.meter.in_place()]

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {"generator": self.generator, "discriminator": self.discriminator}
        return modules if self.average is None else modules | {"average": self.average}

    def _slots(self, which: str) -> list[tuple[str, str, Tensor]]:
        named = self.network(which).named_parameters()
        state = self.optimizers[which].state
        return [(key, slot, value) for key, p in named for slot, value in state[p].items() if value is not None]

    def _load_optimizer(self, which: str, tensors: dict[str, Tensor]) -> None:
        parameters = dict(self.network(which).named_parameters())
        for name, value in tensors.items():
            key, slot = name.rsplit("/", 1)
            if key not in parameters:
                raise FaceganError(f"checkpoint: optimizer state of {which} has no parameter {key!r} here")
            parameter = parameters[key]
            like = parameter if value.shape == parameter.shape else value.to(self._count_device(which, parameter))
            self.optimizers[which].state[parameter][slot] = torch.empty_like(like, dtype=value.dtype).copy_(value)

    def _count_device(self, which: str, parameter: Tensor) -> torch.device:
        """Where an optimizer keeps its count of steps: beside the parameter only if fused or for a CUDA graph."""
        defaults = self.optimizers[which].defaults
        beside = defaults.get("fused") or defaults.get("capturable")
        return parameter.device if beside else torch.device("cpu")


def _place(module: Network, machine: Machine, sync_bn: bool) -> Network:
    if sync_bn and machine.world > 1:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return module.train().to(machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _optimizer(name: str, module: nn.Module, recipe: Recipe, lr: float, machine: Machine) -> torch.optim.Optimizer:
    parameters, recorded = list(module.parameters()), machine.cuda_graphs
    rate = torch.tensor(lr, device=machine.device) if recorded else lr
    on_cuda = recorded and machine.device.type == "cuda"
    if name == "adam":
        betas = (float(recipe.beta1), float(recipe.beta2))
        make = _eager(torch.optim.Adam)
        return make(parameters, rate, betas=betas, eps=recipe.adam_eps, fused=True, capturable=on_cuda)
    if name == "sgd":
        return _eager(torch.optim.SGD)(parameters, rate, momentum=recipe.beta1, fused=True)
    # foreach: the plain loop would fetch a rate that is a tensor
    return _eager(torch.optim.RMSprop)(parameters, rate, capturable=on_cuda, foreach=True if on_cuda else None)


@functools.cache
def _eager(optimizer: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer without the wrappers that tell torch.compile to leave it alone.

    They import all of it, though nothing here is compiled: four of the nine seconds that a training takes to start.
    """
    plain = {name: inspect.unwrap(getattr(optimizer, name)) for name in COMPILER_AWARE}
    return type(optimizer.__name__, (optimizer,), plain | {"step": torch.no_grad()(plain["step"])})


def _laid_out_like(parameter: Tensor, grad: Tensor) -> Tensor:
    """The gradient in its parameter's memory layout: fused optimizers walk both as they lie in memory."""
    return grad if grad.stride() == parameter.stride() else torch.empty_like(parameter).copy_(grad)


def _load_module(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise FaceganError(f"checkpoint: the {name} does not fit this recipe: {error}") from None
