"""The steps that everybody writes, for bench/train.py: plain PyTorch, float32, written anew after their sources.

`dcgan` follows pytorch/examples dcgan/main.py: sequential networks, two passes of the discriminator with a backward
each, its gradients computed once more and thrown away in the generator's step, `.item()` after each pass, Adam with
its defaults. `wgan_gp` follows Gulrajani et al. 2017, algorithm 1. Images come in as float32 in [-1, 1] for
nothing: reading and scaling them is counted for ours alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], None]


@dataclass(frozen=True)
class Networks:
    """Both networks of a case, and how many numbers the generator starts from."""

    generator: nn.Module
    discriminator: nn.Module
    latent_dim: int


def dcgan_networks(device: torch.device, *, critic: bool = False, latent_dim: int = 100) -> Networks:
    """64 px, 64 maps, kernel 4, no biases; a critic has biases in place of BatchNorm."""
    up = [nn.ConvTranspose2d(latent_dim, 512, 4, bias=False), nn.BatchNorm2d(512), nn.ReLU(inplace=True)]
    for inputs, outputs in pairwise((512, 256, 128, 64)):
        up += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs)]
        up.append(nn.ReLU(inplace=True))
    up += [nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh()]
    down: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1, bias=critic), nn.LeakyReLU(0.2, inplace=True)]
    for inputs, outputs in pairwise((64, 128, 256, 512)):
        norm = nn.Identity() if critic else nn.BatchNorm2d(outputs)
        down += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=critic), norm, nn.LeakyReLU(0.2, inplace=True)]
    down.append(nn.Conv2d(512, 1, 4, bias=critic))
    return _drawn(Networks(nn.Sequential(*up), nn.Sequential(*down), latent_dim), device)


def critic_networks(device: torch.device) -> Networks:
    """The same with a critic."""
    return dcgan_networks(device, critic=True)


def dense_networks(device: torch.device, latent_dim: int = 100) -> Networks:
    """128 px, kernel 5, dense first and last layers, activation before BatchNorm: Noe & Thapa."""
    up: list[nn.Module] = [nn.Linear(latent_dim, 512 * 16), nn.Unflatten(1, (512, 4, 4)), nn.BatchNorm2d(512, 1e-3)]
    for inputs, outputs in pairwise((512, 512, 256, 128, 64)):
        up += [nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, 1), nn.LeakyReLU(0.2), nn.BatchNorm2d(outputs, 1e-3)]
    up += [nn.ConvTranspose2d(64, 3, 5, 2, 2, 1), nn.Tanh()]
    down: list[nn.Module] = [nn.Conv2d(3, 64, 5, 2, 2), nn.LeakyReLU(0.2)]
    for inputs, outputs in pairwise((64, 128, 256)):
        down += [nn.Conv2d(inputs, outputs, 5, 2, 2), nn.BatchNorm2d(outputs, 1e-3), nn.LeakyReLU(0.2)]
    down += [nn.Conv2d(256, 512, 5, 2, 2), nn.Flatten(), nn.Linear(512 * 64, 1)]
    return _drawn(Networks(nn.Sequential(*up), nn.Sequential(*down), latent_dim), device)


def dcgan(nets: Networks) -> Step:
    """pytorch/examples: one discriminator update on real and fake together, one of the generator."""
    G, D = nets.generator, nets.discriminator
    opt_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.BCELoss()

    def step(real: Tensor) -> None:
        label = torch.ones(len(real), device=real.device)
        D.zero_grad()
        on_real = _backward(criterion, D(real), label)
        fake = G(_latents(nets, real))
        on_fake = _backward(criterion, D(fake.detach()), label.fill_(0.0))
        opt_d.step()
        G.zero_grad()
        on_generator = _backward(criterion, D(fake), label.fill_(1.0))
        opt_g.step()
        (on_real[0] + on_fake[0]).item(), on_generator[0].item(), on_real[1], on_fake[1], on_generator[1]

    return step


def split_dcgan(nets: Networks) -> Step:
    """Noe & Thapa: `train_on_batch` on reals, then on fakes, then of the generator through the discriminator."""
    G, D = nets.generator, nets.discriminator
    opt_g = torch.optim.Adam(G.parameters(), lr=1e-4, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(D.parameters(), lr=5e-4, betas=(0.5, 0.999))
    criterion = nn.BCELoss()

    def step(real: Tensor) -> None:
        fake = G(_latents(nets, real))
        for images, target in ((real, 0.9), (fake.detach(), 0.0)):
            opt_d.zero_grad()
            _backward(criterion, D(images), torch.full((len(real),), target, device=real.device))[0].item()
            opt_d.step()
        opt_g.zero_grad()
        _backward(criterion, D(fake), torch.ones(len(real), device=real.device))[0].item()
        opt_g.step()

    return step


def wgan_gp(nets: Networks, n_critic: int = 5, gp_weight: float = 10.0) -> Step:
    """Gulrajani et al. 2017, algorithm 1: n_critic critic updates, each with reals of its own, for one of G."""
    G, D, done = nets.generator, nets.discriminator, [0]
    opt_g = torch.optim.Adam(G.parameters(), lr=1e-4, betas=(0.0, 0.9))
    opt_d = torch.optim.Adam(D.parameters(), lr=1e-4, betas=(0.0, 0.9))

    def penalty(real: Tensor, fake: Tensor) -> Tensor:
        eps = torch.rand(len(real), 1, 1, 1, device=real.device)
        mixed = (eps * real + (1 - eps) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(D(mixed).sum(), mixed, create_graph=True)
        return ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()

    def step(real: Tensor) -> None:
        fake = G(_latents(nets, real)).detach()
        opt_d.zero_grad()
        loss = D(fake).mean() - D(real).mean() + gp_weight * penalty(real, fake)
        loss.backward()
        opt_d.step()
        loss.item()
        done[0] += 1
        if done[0] % n_critic == 0:
            opt_g.zero_grad()
            loss = -D(G(_latents(nets, real))).mean()
            loss.backward()
            opt_g.step()
            loss.item()

    return step


def _backward(criterion: nn.Module, logits: Tensor, label: Tensor) -> tuple[Tensor, float]:
    """The loss and the mean score, fetched at once as the example does."""
    scores = torch.sigmoid(logits.view(-1))
    loss: Tensor = criterion(scores, label)
    loss.backward()
    return loss, scores.mean().item()


def _latents(nets: Networks, real: Tensor) -> Tensor:
    shape = (nets.latent_dim,) if isinstance(nets.generator[0], nn.Linear) else (nets.latent_dim, 1, 1)
    return torch.randn(len(real), *shape, device=real.device)


def _drawn(nets: Networks, device: torch.device) -> Networks:
    for module in (nets.generator, nets.discriminator):
        module.to(device)
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)
    return nets
