"""What data sets cost on clusters, worked out from rates: the table of docs/cluster.md.

    python bench/cluster_cost.py --gpu-rate 7500      images/s of one GPU at 128 px, from `facegan status`

Rates marked "measured" are those of docs/benchmarks.md and of this repository's bench; the GPU's is yours to give.
"""

import argparse
from typing import NamedTuple

RECORD = 50_688  # bytes of a 128 px image in a stored-PNG shard, by construction
BOTH = RECORD + 13_312  # 128 px and 64 px
GRADIENTS = 4 * (11_690_499 + 4_340_097)  # bytes, dcgan-128, float32
GPUS_PER_NODE, CORES_PER_NODE, BATCH_PER_GPU = 8, 64, 128
LOCAL_DISK = 1e12  # bytes a node can stage
FILE_SYSTEM, NETWORK = 5e9, 25e9  # bytes/s: the shared file system in all, one node's network (200 Gb/s)
FEWEST_STEPS = 10_000  # below, the batch has outgrown the run


class Data(NamedTuple):
    """A data set and what is to be done with it."""

    name: str
    images: float
    source: float  # bytes of the pictures as they come
    preprocess: float  # images/s of one core, both sizes, measured
    trained: float  # images read by the training


SETS = (
    Data("CelebA", 202_599, 1.44e9, 2_387, 25e6),
    Data("FFHQ", 70_000, 89.1e9, 34, 25e6),
    Data("10⁹ faces", 1e9, 7.1e12, 2_387, 1e9),
)


class Cost(NamedTuple):
    """Seconds each part would take by itself, and how many steps there are."""

    compute: float
    file_system: float
    network: float
    steps: float
    staged: float  # bytes read from the shared file system

    @property
    def seconds(self) -> float:
        """Compute, file system and network overlap; a set that is staged first is waited for."""
        return max(self.compute, self.file_system, self.network)

    @property
    def bottleneck(self) -> str:
        """What to mend first."""
        if self.steps < FEWEST_STEPS:
            return f"the batch: {self.steps:,.0f} steps in all"
        times = {"GPU": self.compute, "shared file system": self.file_system, "network": self.network}
        return max(times, key=lambda name: times[name])


def cost(data: Data, gpus: int, gpu_rate: float, record: int) -> Cost:
    """Train on `gpus`: each node stages the whole set where it fits, else streams its part of each pass."""
    nodes = -(-gpus // GPUS_PER_NODE)
    size = data.images * record
    staged = nodes * size if size < LOCAL_DISK else data.trained * record
    steps = data.trained / (gpus * BATCH_PER_GPU)
    sent = steps * 2 * GRADIENTS if nodes > 1 else 0.0  # a ring sends each gradient about twice
    return Cost(data.trained / (gpus * gpu_rate), staged / FILE_SYSTEM, sent / NETWORK, steps, staged)


def duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def size(count: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return f"{count / 1e6:,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu-rate", type=float, required=True, help="images/s of one GPU at 128 px")
    parser.add_argument("--record", type=int, default=RECORD, help="bytes of a 128 px image (bench/members.py)")
    options = parser.parse_args()
    rate = options.gpu_rate
    print("| data | pictures | shards 64 + 128 px | preprocess | on one node | first bottleneck |")
    print("|---|--:|--:|--:|--:|---|")
    for data in SETS:
        cores, moved = data.images / data.preprocess, (data.source + data.images * BOTH) / FILE_SYSTEM
        on_node = max(cores / CORES_PER_NODE, moved)
        slowest = "cores" if on_node > moved else "shared file system"
        row = [data.name, size(data.source), size(data.images * BOTH), f"{cores / 3600:,.2f} core hours"]
        print(f"| {' | '.join([*row, duration(on_node), slowest])} |")
    print("\n| data | GPUs | time | node hours | read from the shared disk | network, a node | first bottleneck |")
    print("|---|--:|--:|--:|--:|--:|---|")
    for data in SETS:
        for gpus in (1, 8, 64, 512):
            run = cost(data, gpus, rate, options.record)
            share = gpus / GPUS_PER_NODE
            sent = 0 if gpus <= GPUS_PER_NODE else 2 * GRADIENTS * run.steps / run.seconds
            row = [data.name, f"{gpus}", duration(run.seconds), f"{share * run.seconds / 3600:,.2f}"]
            row += [f"{size(run.staged)}", f"{size(sent)}/s" if sent else "-", run.bottleneck]
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
