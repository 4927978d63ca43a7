"""Sums of the named terms of each update, kept on the device, and the guard against non-finite ones."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class _Group:
    """Terms that are always measured together."""

    sums: Tensor  # (K,) float64
    count: Tensor  # () float64: on the device too, so that a replayed step counts
    bad_at: Tensor  # (K,) int64, the update (nimg) at which a term first was not finite, else -1

    def totals(self) -> Tensor:
        """(K + 1,) float64: the sums, then the count."""
        return torch.cat([self.sums, self.count.view(1)])


class Meter:
    """Means since the last `take`, and `tripped`: 1.0 once anything was NaN or infinite. No host round trips."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.groups: dict[tuple[str, ...], _Group] = {}
        self.tripped = torch.zeros((), device=device)

    def add(self, names: tuple[str, ...], values: Tensor, nimg: int | Tensor) -> None:
        """Count one update's terms, `values` (K,) in the order of `names`."""
        group = self.groups.get(names)
        if group is None:
            zeros = torch.zeros(len(names), dtype=torch.float64, device=self.device)
            group = self.groups[names] = _Group(
                zeros, zeros.new_zeros(()), torch.full_like(zeros, -1, dtype=torch.int64)
            )
        bad = ~torch.isfinite(values)
        group.sums += values
        group.count += 1
        group.bad_at += (bad & (group.bad_at < 0)) * (nimg + 1)  # masked_fill_ would fetch an nimg on the device
        torch.maximum(self.tripped, bad.any().float(), out=self.tripped)

    def take(self) -> dict[str, float]:
        """The mean of every term since the last call (a host round trip); starts anew."""
        totals: dict[str, tuple[float, float]] = {}
        for names, group in sorted(self.groups.items()):  # the same order, whatever came first after a restart
            *sums, counted = group.totals().tolist()
            for name, value in zip(names, sums, strict=True):
                total, count = totals.get(name, (0.0, 0.0))
                totals[name] = (total + value, count + counted)
            group.sums.zero_()
            group.count.zero_()
        return {name: total / count for name, (total, count) in totals.items() if count}

    def trouble(self) -> tuple[str, int] | None:
        """The first non-finite term and the nimg of its step, or None (a host round trip)."""
        if not self.tripped.item():
            return None
        troubles = [
            (at, name)
            for names, group in self.groups.items()
            for name, at in zip(names, group.bad_at.tolist(), strict=True)
            if at >= 0
        ]
        at, name = min(troubles)
        return name, at

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: one tensor a group, sums then count, named by the terms as JSON."""
        return {json.dumps(names): group.totals() for names, group in self.groups.items()}

    def in_place(self) -> list[Tensor]:
        """The tensors that `add` changes."""
        return [
            self.tripped,
            *(t for group in self.groups.values() for t in (group.sums, group.count, group.bad_at)),
        ]

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over `tensors()`."""
        self.groups.clear()
        for key, value in tensors.items():
            sums, count = value[:-1].to(self.device).clone(), value[-1].to(self.device).clone()
            bad_at = torch.full_like(sums, -1, dtype=torch.int64)
            self.groups[tuple(json.loads(key))] = _Group(sums, count, bad_at)
