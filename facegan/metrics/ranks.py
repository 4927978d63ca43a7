"""The ranks that measure together: each does its share of the images or directions, all get all results."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from facegan.errors import between_ranks


@dataclass(frozen=True)
class Ranks:
    """`world` ranks of which this is number `rank`; Ranks() is one rank alone."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> "Ranks":
        """The ranks of torch.distributed where it was started, else one alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, n: int) -> range:
        """This rank's contiguous part of 0 .. n - 1; the parts differ in length by at most one."""
        return range(n * self.rank // self.world, n * (self.rank + 1) // self.world)

    def gather(self, part: Tensor, n: int) -> Tensor:
        """All ranks' parts of the `n` rows, in order, on the CPU; every rank calls it, `part` is its share."""
        if self.world == 1:
            return part
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        longest = -(-n // self.world)
        padded = part.new_zeros((longest, *part.shape[1:]), device=device)
        padded[: len(part)] = part.to(device)
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        with between_ranks():
            dist.all_gather(parts, padded)
        lengths = [len(Ranks(rank, self.world).share(n)) for rank in range(self.world)]
        return torch.cat([rows[:length].cpu() for rows, length in zip(parts, lengths, strict=True)])
