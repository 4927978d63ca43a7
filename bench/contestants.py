"""The contestants of bench/train.py: each a process that is warmed up once, then waits for its turn."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

Row = dict[str, Any]
TRAIN = str(Path(__file__).with_name("train.py"))


@dataclass(frozen=True)
class Case:
    """Networks, losses and batch that all contestants share."""

    name: str
    recipe: str
    changes: dict[str, Any]
    networks: str  # functions of train_peers
    step: str
    target: float


CASES = {
    case.name: case
    for case in (
        Case("dcgan-64", "dcgan-64", {}, "dcgan_networks", "dcgan", 4.0),
        Case(
            "wgan-gp 64",
            "wgan-gp-128",
            {"resolution": "64", "network": "dcgan", "kernel": 4, "batch_size": 128, "g_slope": 0.0},
            "critic_networks",
            "wgan_gp",
            2.5,
        ),
        Case("dcgan-128", "dcgan-128", {}, "dense_networks", "split_dcgan", 3.0),
    )
}


class Endless:
    """A stream of made-up images that lie in memory."""

    def __init__(self, shape: tuple[int, int, int], batch: int, device: Any) -> None:
        import torch

        height, width, channels = shape
        images = torch.randint(0, 256, (4 * batch, height, width, channels), dtype=torch.uint8)
        self.images = images.permute(0, 3, 1, 2).to(device)
        self.batch, self.nimg, self.samples = batch, 0, len(images)

    def seek(self, nimg: int) -> None:
        self.nimg = nimg

    def __next__(self) -> Any:
        first = self.nimg % self.samples
        self.nimg += self.batch
        return self.images[first : first + self.batch]


def case_recipe(case: Case, changes: dict[str, Any]) -> Any:
    """The recipe of a case, endless, with `changes`."""
    from facegan import recipes

    return recipes.from_values(case.recipe, case.changes | {"kimg": 1e6, "epochs": 0.0} | changes)


def our_runner(case: Case, options: argparse.Namespace, precision: str) -> tuple[Callable[[int], None], Row]:
    """Our step as the trainer drives it: `run(n)` takes n batches."""
    import torch

    from facegan.run import machine
    from facegan.run.settings import RunSettings
    from facegan.train.cuda_graphs import recorded
    from facegan.train.draws import RandomNumbers
    from facegan.train.feed import Feed
    from facegan.train.state import State
    from facegan.train.step import Step

    recipe = case_recipe(case, options.set)
    settings = RunSettings(
        precision=precision, threads=options.threads, device=options.device, cuda_graphs=options.cuda_graphs
    )
    here = machine.start(settings)
    state = State(recipe, 0, here)
    step = recorded(Step(recipe, state, here), here)
    numbers = RandomNumbers(recipe, 0, state.generator, state.discriminator)
    where = here.device if here.device.type == "cuda" else torch.device("cpu")
    stream = Endless((*recipe.resolution, recipe.channels), recipe.batch_size // here.world, where)
    batches = iter(Feed(stream, numbers, recipe, here, 0, 10**9).__enter__())

    def run(count: int) -> None:
        for _ in range(count):
            step(next(batches))
        finish(here.device)

    about = {"parameters": parameters(state.generator, state.discriminator), "cuda_graphs": here.cuda_graphs}
    return run, about


def plain_runner(case: Case, options: argparse.Namespace) -> tuple[Callable[[int], None], Row]:
    """The reference's step, with its images ready."""
    import torch
    import train_peers

    recipe = case_recipe(case, options.set)
    device = torch.device(options.device)
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True  # as pytorch/examples; float32 convolutions are tf32 on a GPU by default
    networks = getattr(train_peers, case.networks)(device)
    step = getattr(train_peers, case.step)(networks)
    real = torch.rand(recipe.batch_size, recipe.channels, *recipe.resolution, device=device) * 2 - 1

    def run(count: int) -> None:
        for _ in range(count):
            step(real)
        finish(device)

    return run, {"parameters": parameters(networks.generator, networks.discriminator)}


def parameters(*networks: Any) -> int:
    """How many numbers are trained: equal for all contestants of a case."""
    return sum(p.numel() for network in networks for p in network.parameters())


def finish(device: Any) -> None:
    """Wait for a GPU's queue."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()


def serve(options: argparse.Namespace) -> None:
    """A contestant's process: a line with a number of batches in, a line with seconds out; empty ends it."""
    begun = time.perf_counter()
    import torch

    imported = time.perf_counter() - begun
    case, who = CASES[options.cases[0]], options.contestant
    precision, _, mode = who.partition("-")
    options.cuda_graphs = mode or options.cuda_graphs
    run, about = plain_runner(case, options) if who == "pytorch" else our_runner(case, options, precision)
    cycle = case_recipe(case, options.set).n_critic
    seconds = []
    for count in (1, cycle) if options.device == "cpu" else (1, 8 * cycle, cycle):  # graphs: recorded at the fourth
        begun = time.perf_counter()
        run(count)
        seconds.append(round(time.perf_counter() - begun, 4))
    about |= {"import_s": round(imported, 2), "first_step_s": seconds[0], "cycle_s": seconds[-1]}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        begun = time.perf_counter()
        run(int(line))
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    on_device = torch.cuda.max_memory_reserved() / 2**20 if options.device == "cuda" else 0
    print(json.dumps({"max_rss_mib": round(memory), "max_device_mib": round(on_device)}), flush=True)
    os._exit(0)


class Contestant:
    """The parent's side of one such process."""

    def __init__(
        self, case: Case, who: str, options: argparse.Namespace, env: dict[str, str] | None = None
    ) -> None:
        command = [sys.executable, "-W", "ignore", TRAIN, "--contestant", who, "--cases", case.name]
        for name in ("device", "threads", "cuda_graphs"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        command += ["--set", json.dumps(options.set)]
        self.who, self.rates, self.about = who, list[float](), Row()
        pipe, own = subprocess.PIPE, {**os.environ, **(env or {})}
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=own)

    def wait_until_warm(self) -> "Contestant":
        """Return when it has taken its first steps."""
        self.about = self._answer()
        return self

    def run(self, count: int) -> float:
        """Seconds for `count` batches."""
        self.start(count)
        return self.seconds()

    def start(self, count: int) -> None:
        """Have it take `count` batches."""
        self._say(str(count))

    def seconds(self) -> float:
        """How long they took, when they are done."""
        return float(self._answer()["seconds"])

    def end(self) -> None:
        """Ask for the memory it took, and let it go."""
        self._say("")
        self.about |= self._answer()
        self.process.wait()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _answer(self) -> Row:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"{self.who}: ended with exit code {self.process.wait()}")


def batches_for(field: Contestant, seconds: float, n_critic: int) -> int:
    """How many batches take about `seconds`: a multiple of the critic's steps for one of the generator's."""
    return n_critic * max(1, round(seconds / field.about["cycle_s"]))
