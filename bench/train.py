"""Training steps side by side: everybody's plain PyTorch step against ours, same networks, batch and losses.

    python bench/train.py                    all cases, float32 and bf16: some ten minutes
    python bench/train.py --quick --json     plain PyTorch and ours as this machine takes it, within two minutes
    python bench/train.py --device cuda      one NVIDIA GPU, nothing to download; graphs where --cuda-graphs allows
    python bench/train.py --cases dcgan-64 --rounds 9

Every contestant is a process of its own that is warmed up once and then waits; they take turns, so that what else
the machine does meets all alike. The table has medians over the rounds, and the median of the ratios of each round.
Ours is the whole step of `facegan train`: batches through the feed, uint8 to floats, random numbers, EMA, guards.
The reference gets its batches as floats for nothing.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

Row = dict[str, Any]
NAMES = {
    "pytorch": "plain PyTorch, its defaults",
    "fp32": "ours, fp32",
    "tf32": "ours, tf32",
    "bf16": "ours, bf16",
    "bf16-off": "ours, bf16, --cuda-graphs off",
}


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
        command = [sys.executable, "-W", "ignore", __file__, "--contestant", who, "--cases", case.name]
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


def race(case: Case, options: argparse.Namespace) -> Row:
    """All contestants of a case, taking turns."""
    recipe = case_recipe(case, options.set)
    fields = [Contestant(case, who, options).wait_until_warm() for who in options.contestants]
    if len({field.about["parameters"] for field in fields}) > 1:
        raise SystemExit(f"{case.name}: the networks differ: {[field.about for field in fields]}")
    counts = [batches_for(field, options.seconds, recipe.n_critic) for field in fields]
    begun = time.perf_counter()
    for done in range(options.rounds):
        if done > 1 and time.perf_counter() - begun > options.most:
            break
        for field, count in zip(fields, counts, strict=True):
            field.rates.append(count * recipe.batch_size / field.run(count))
    for field in fields:
        field.end()
    work, base = work_per_image(recipe), fields[0].rates
    return {
        "batch_size": recipe.batch_size,
        "gflop_per_image": round(work / 1e9, 3),
        "target": case.target,
        "contestants": {
            field.who: {
                "img_s": round(statistics.median(field.rates), 1),
                "ratio": round(statistics.median(a / b for a, b in zip(field.rates, base, strict=True)), 2),
                "gflop_s": round(statistics.median(field.rates) * work / 1e9),
                **field.about,
            }
            for field in fields
        },
    }


def batches_for(field: Contestant, seconds: float, n_critic: int) -> int:
    """How many batches take about `seconds`: a multiple of the critic's steps for one of the generator's."""
    return n_critic * max(1, round(seconds / field.about["cycle_s"]))


def work_per_image(recipe: Any) -> float:
    """FLOPs that one real image costs a step without waste, from one forward pass of each network, f and g.

    A backward pass costs a forward pass for the weights and one for the inputs. DCGAN: g for fakes; 2 (f + 2f) for
    the discriminator on real and fake; f + f through it and 2g in the generator's step. WGAN-GP, a critic without a
    norm: g + 6f; for the penalty f, f for the slope, 2f for the slope's own gradients; 3g + 2f in the generator's
    step, every n_critic-th time. What the first layers save is left out.
    """
    from torch.utils.flop_counter import FlopCounterMode

    f, g = forward_work(recipe, FlopCounterMode)
    if recipe.gp_weight:
        return g + 10 * f + (3 * g + 2 * f) / recipe.n_critic
    return g + 6 * f + 2 * f + 2 * g


def forward_work(recipe: Any, counter: Any) -> tuple[float, float]:
    """FLOPs of one image through the discriminator and through the generator."""
    import torch

    from facegan.networks import build_discriminator, build_generator

    found = []
    with torch.device("meta"), torch.no_grad():
        inputs = (torch.empty(2, recipe.channels, *recipe.resolution), torch.empty(2, recipe.latent_dim))
        for network, x in zip((build_discriminator(recipe), build_generator(recipe)), inputs, strict=True):
            with counter(display=False) as counted:
                network(x)
            found.append(counted.get_total_flops() / 2)
    return found[0], found[1]


def peak(device: str, threads: int) -> dict[str, float]:
    """GFLOP/s of a typical convolution (128 to 256 maps, kernel 4, stride 2, channels_last), the best of ten."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    found = {}
    batch = 1024 if device == "cuda" else 128
    for name, dtype in (("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "tf32" and device == "cpu":
            continue
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        x = torch.randn(batch, 128, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        w = torch.randn(256, 128, 4, 4, device=device, dtype=dtype).to(memory_format=torch.channels_last)
        times = []
        for _ in range(13):
            begun = time.perf_counter()
            F.conv2d(x, w, stride=2, padding=1)
            finish(x.device)
            times.append(time.perf_counter() - begun)
        found[name] = round(2 * batch * 256 * 128 * 16 * 64 / min(times) / 1e9)
    return found


def machine_words(device: str) -> str:
    """Processor, cores, versions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores{gpu}, Python {platform.python_version()}, torch {torch.__version__}"


def table(result: Row) -> str:
    """For docs/benchmarks.md."""
    lines = [
        "| case, batch | step | img/s | times plain | GFLOP/s | of its peak | memory MiB | first step s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, case in result["cases"].items():
        for who, row in case["contestants"].items():
            plain = "tf32" if "tf32" in result["peak_gflop_s"] else "fp32"
            share = row["gflop_s"] / result["peak_gflop_s"][who.partition("-")[0].replace("pytorch", plain)]
            lines.append(
                f"| {name}, {case['batch_size']} | {NAMES[who]} | {row['img_s']:,} | {row['ratio']:.2f} | "
                f"{row['gflop_s']:,} | {share:.0%} | {row['max_device_mib'] or row['max_rss_mib']:,} | "
                f"{row['first_step_s']:.2f} |"
            )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--contestants", nargs="+", default=None, choices=NAMES, help="the first is the base")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--cuda-graphs", default="auto", help="as facegan train --cuda-graphs")
    parser.add_argument("--threads", type=int, default=0, help="0 takes all cores")
    parser.add_argument("--set", type=json.loads, default={}, help='recipe values, as in {"batch_size": 256}')
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn, about")
    parser.add_argument("--most", type=float, default=600.0, help="seconds of all turns of a case, about")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.most = 3, 1.0, 30.0
    if not options.contestants and not options.contestant:
        all_of_them = ["pytorch", "fp32", "bf16"] if options.device == "cpu" else list(NAMES)
        options.contestants = ["pytorch", own_precision(options.device)] if options.quick else all_of_them
    return options


def own_precision(device: str) -> str:
    """What `facegan train` takes here by itself."""
    from facegan.run.machine import resolve_precision

    return resolve_precision("auto", device == "cuda")


def main() -> None:
    """Race, print."""
    options = parse()
    if options.contestant:
        serve(options)
    result: Row = {
        "machine": machine_words(options.device),
        "threads": options.threads or len(os.sched_getaffinity(0)),
        "peak_gflop_s": peak(options.device, options.threads),
        "cases": {},
    }
    for name in options.cases:
        result["cases"][name] = race(CASES[name], options)
    print(
        json.dumps(result) if options.json else f"{result['machine']}\n{result['peak_gflop_s']}\n\n{table(result)}"
    )


if __name__ == "__main__":
    main()
