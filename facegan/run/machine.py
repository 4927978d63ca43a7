"""The machine a run finds: ranks, device, precision, threads, allocator; resolved once, stored, kept on resume."""

import dataclasses
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from facegan.allocator import keep_freed_memory
from facegan.cores import usable_cores
from facegan.errors import UsageError, between_ranks
from facegan.run.failures import Failures
from facegan.run.settings import RunSettings

# A rank may write a checkpoint or a grid while the others wait for it in a collective; no longer than this.
_COLLECTIVE_TIMEOUT = timedelta(minutes=10)

# What `accelerate launch` may ask for and this trainer does not do: variable, the value that is off, its flag.
_FOREIGN = {
    "ACCELERATE_USE_DEEPSPEED": ("false", "--use_deepspeed"),
    "ACCELERATE_USE_FSDP": ("false", "--use_fsdp"),
    "ACCELERATE_USE_MEGATRON_LM": ("false", "--use_megatron_lm"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("false", "--use_parallelism_config"),
    "ACCELERATE_DYNAMO_BACKEND": ("no", "--dynamo_backend"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "--gradient_accumulation_steps (here: --batch-per-rank)"),
}


@dataclass(frozen=True)
class Machine:
    """Where a run computes and how. `precision`, `cuda_graphs` and `threads` are resolved: never "auto"."""

    accelerator: Accelerator
    precision: str
    cuda_graphs: bool
    threads: int
    failures: Failures

    @property
    def device(self) -> torch.device:
        """This rank's device."""
        return torch.device(self.accelerator.device)

    @property
    def rank(self) -> int:
        """This process among all of the run, from 0."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of processes of the run."""
        return int(self.accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this is the one rank that writes."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[None]:
        """bf16 where the precision says so; losses and penalties leave it by themselves."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def average(self, tensors: list[Tensor]) -> list[Tensor]:
        """The mean of each tensor over the ranks, in one message."""
        if self.world == 1:
            return tensors
        flat = torch.cat([t.reshape(-1).float() for t in tensors])
        with between_ranks():
            dist.all_reduce(flat)
        parts = torch.split(flat / self.world, [t.numel() for t in tensors])
        return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]

    def highest(self, values: list[int]) -> list[int]:
        """The elementwise maximum over the ranks: how they agree on what to do next."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.int64, device=self.device)
        with between_ranks():
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
            return [int(value) for value in tensor.tolist()]

    def any(self, here: bool) -> bool:
        """Whether something holds on any rank; all ranks ask."""
        return self.highest([int(here)]) == [1]

    def wait(self) -> None:
        """Return when every rank has come here."""
        with between_ranks():
            self.accelerator.wait_for_everyone()

    def leave(self) -> None:
        """Part from the other ranks once all have come here; a rank that just exits can abort the others."""
        if dist.is_initialized():
            with between_ranks():
                dist.barrier()
            self.failures.close()
            dist.destroy_process_group()

    def describe(self) -> str:
        """One line for people: ranks, device, precision, threads."""
        name = (
            torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor() or "CPU"
        )
        ranks = f"{self.world} rank{'s' if self.world > 1 else ''}"
        how = f"{self.precision}, {'CUDA graphs, ' if self.cuda_graphs else ''}{self.threads} threads"
        return f"{ranks} on {self.device.type} ({name}), {how}"


def start(settings: RunSettings) -> Machine:
    """Join the other ranks (if a launcher started some) and resolve what the settings leave to the machine.

    Raises UsageError where the machine cannot do what the settings ask for.
    """
    use_cuda = _resolve_device(settings.device)
    precision = resolve_precision(_launcher_precision(settings.precision), use_cuda)
    accelerator, failures = _meet(use_cuda)
    threads = settings.threads or _share_of_cores()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.benchmark = False  # its choice may differ from run to run, and with it the last bits
    machine = Machine(accelerator, precision, _resolve_graphs(settings, use_cuda), threads, failures)
    machine.wait()  # a rank that failed before others can hear of it would leave them waiting
    _set_matmul_precision(machine.precision)
    if not use_cuda:
        keep_freed_memory()
    if settings.sync_bn and not use_cuda:
        raise UsageError("--sync-bn: PyTorch's SyncBatchNorm works on CUDA only; leave it out on the CPU")
    return machine


def _meet(use_cuda: bool) -> tuple[Accelerator, Failures]:
    """The ranks that a launcher started, joined; LostRankError where they do not come together."""
    address = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    kwargs = InitProcessGroupKwargs(timeout=_COLLECTIVE_TIMEOUT)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    with nullcontext() if alone else between_ranks(f"the ranks could not meet at {address}"):
        # Mixed precision is our own autocast
        accelerator = Accelerator(cpu=not use_cuda, mixed_precision="no", kwargs_handlers=[kwargs])
        return accelerator, Failures(accelerator.process_index, accelerator.num_processes)


def resolved(settings: RunSettings, machine: Machine) -> RunSettings:
    """The settings with what the machine decided written in: the form that is stored and kept on resume."""
    graphs = "on" if machine.cuda_graphs else "off"
    return dataclasses.replace(settings, precision=machine.precision, cuda_graphs=graphs, threads=machine.threads)


def _resolve_device(device: str) -> bool:
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no CUDA GPU here; see: facegan doctor")
    return device != "cpu" and torch.cuda.is_available()


def resolve_precision(precision: str, use_cuda: bool) -> str:
    """What `precision` means here: auto is bf16 where that is fast, else fp32; UsageError for another name."""
    if precision not in ("auto", "fp32", "tf32", "bf16"):
        raise UsageError(f"--precision {precision}: expected auto, fp32, tf32 or bf16")
    if precision == "tf32" and not use_cuda:
        raise UsageError("--precision tf32: only CUDA GPUs have it; expected fp32 or bf16 on the CPU")
    if precision != "auto":
        return precision
    fast_bf16 = torch.cuda.is_bf16_supported() if use_cuda else _cpu_multiplies_bf16()
    return "bf16" if fast_bf16 else "fp32"


def _cpu_multiplies_bf16() -> bool:
    """Whether the CPU has bf16 arithmetic (AMX, or AVX-512's: 1.8 times fp32 on a Zen 4); else fp32 is faster."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _resolve_graphs(settings: RunSettings, use_cuda: bool) -> bool:
    if settings.cuda_graphs not in ("auto", "on", "off"):
        raise UsageError(f"--cuda-graphs {settings.cuda_graphs}: expected auto, on or off")
    if settings.cuda_graphs == "on" and not use_cuda:
        raise UsageError("--cuda-graphs on: CUDA graphs need a CUDA GPU; expected off on the CPU")
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return settings.cuda_graphs == "on" or (settings.cuda_graphs == "auto" and use_cuda and alone)


def _launcher_precision(precision: str) -> str:
    """What `accelerate launch` was told, where --precision is auto; UsageError for what is not done here."""
    for name, (off, flag) in _FOREIGN.items():
        if os.environ.get(name, off).lower() not in (off, ""):
            raise UsageError(f"accelerate launch {flag}: not done here; leave it out of the command or its config")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if launched not in ("", "no", "bf16"):
        raise UsageError(f"accelerate launch --mixed_precision {launched}: expected no (fp32) or bf16")
    return {"no": "fp32", "bf16": "bf16"}.get(launched, precision) if precision == "auto" else precision


def _share_of_cores() -> int:
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # of nested levels the outermost
    if threads.isascii() and threads.isdigit() and int(threads):
        return int(threads)
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, usable_cores() // ranks_here)


def _set_matmul_precision(precision: str) -> None:
    allow = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allow
    torch.backends.cudnn.allow_tf32 = allow
