"""Real ranks on gloo: killed, resumed with another world size; the log of keys is that of an uninterrupted run."""

import os
import signal
import subprocess
import sys
import time
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from shard_sets import make_set

import shards

BATCH, SEED = 12, 7

# Each rank reads its part; the keys of the global batch are gathered and rank 0 logs them, then the state.
RANK = """
import hashlib, sys, time
from pathlib import Path
import numpy as np, torch.distributed as dist, shards

folder, log, meeting, order, nodes = sys.argv[1:6]
rank, world, batches, batch_size, seed = map(int, sys.argv[6:])
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
lines = Path(log).read_text().splitlines() if Path(log).exists() else []
nimg = int(lines[-1].split()[0]) if lines else 0
disk = Path(nodes) / f"node-{rank // 2}" if nodes else None  # two ranks a node, each node its own disk
images = shards.open_set(folder, stage=disk).split("train")
stream = shards.Stream(images, batch_size, seed, rank, world, nimg, order, streams=4, window=2)
for _ in range(batches):
    first = stream.nimg + rank * stream.batch_per_rank
    keys = stream.keys_at(np.arange(first, first + stream.batch_per_rank))
    pixels = next(stream).permute(0, 2, 3, 1).contiguous().numpy()
    parts = [None] * world
    dist.all_gather_object(parts, [f"{k}:{hashlib.md5(p.tobytes()).hexdigest()[:8]}" for k, p in zip(keys, pixels)])
    if rank == 0:
        with open(log, "a") as out:
            print(stream.nimg, *sum(parts, []), file=out)
    time.sleep(0.01)
dist.barrier()
"""


def launch(
    folder: Path, log: Path, order: str, world: int, batches: int, nodes: Path | str = ""
) -> list[subprocess.Popen[bytes]]:
    """Start the ranks of a run that continues where the log ends; nodes: where the nodes' own disks are."""
    meeting = log.with_name(f"meeting-{world}-{time.monotonic_ns()}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = []
    for rank in range(world):
        arguments = [
            str(value) for value in (folder, log, meeting, order, nodes, rank, world, batches, BATCH, SEED)
        ]
        ranks.append(subprocess.Popen([sys.executable, "-c", RANK, *arguments], env=environment))
    return ranks


def kill_after(ranks: list[subprocess.Popen[bytes]], log: Path, lines: int) -> None:
    """kill -9 all ranks once the log has that many lines."""
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") >= lines):
        assert time.monotonic() < deadline and all(rank.poll() in (None, 0) for rank in ranks)
        time.sleep(0.01)
    for rank in ranks:
        rank.send_signal(signal.SIGKILL)
        rank.wait()


def expected_lines(folder: Path, order: str, count: int) -> list[str]:
    """The log of one process that is never interrupted."""
    images = shards.open_set(folder).split("train")
    stream = shards.Stream(images, BATCH, seed=SEED, order=order, streams=4, window=2)  # type: ignore[arg-type]
    return [
        " ".join([str(first + BATCH), *stream.keys_at(np.arange(first, first + BATCH))])
        for first in range(0, count * BATCH, BATCH)
    ]


@pytest.mark.parametrize(("order", "worlds"), [("global", (2, 3)), ("window", (2, 3))])
def test_a_killed_run_resumed_on_another_world_size_reads_what_an_uninterrupted_one_reads(
    tmp_path: Path, order: str, worlds: tuple[int, int]
) -> None:
    folder, log = tmp_path / "set", tmp_path / "log"
    resumed_run_reads_what_an_uninterrupted_one_reads(folder, log, order, worlds)


@pytest.mark.parametrize("worlds", [(4, 2)])
def test_a_multi_node_run_killed_and_resumed_on_other_nodes_reads_every_sample_as_if_it_never_stopped(
    tmp_path: Path, worlds: tuple[int, int]
) -> None:
    """Two ranks a node, each node stages shards to a disk of its own; new nodes begin with empty disks."""
    folder, log = tmp_path / "set", tmp_path / "log"
    nodes = (tmp_path / "first", tmp_path / "second")
    resumed_run_reads_what_an_uninterrupted_one_reads(folder, log, "window", worlds, nodes)
    staged = [{path.name for path in disk.rglob("*.tar")} for disk in nodes[1].iterdir()]
    assert len(staged) == worlds[1] // 2 and all(staged)


def resumed_run_reads_what_an_uninterrupted_one_reads(
    folder: Path, log: Path, order: str, worlds: tuple[int, int], nodes: tuple[Path | str, Path | str] = ("", "")
) -> None:
    written = make_set(folder, {"train": [9, 7, 11, 4, 10, 9]})["train"]  # 50 samples: epochs end inside batches
    kill_after(launch(folder, log, order, worlds[0], 10**6, nodes[0]), log, 6)
    assert [rank.wait() for rank in launch(folder, log, order, worlds[1], 7, nodes[1])] == [0] * worlds[1]
    lines = [line.split() for line in log.read_text().splitlines()]
    keys = [[entry.split(":")[0] for entry in entries] for _, *entries in lines]
    logged = [" ".join([nimg, *batch]) for (nimg, *_), batch in zip(lines, keys, strict=True)]
    assert logged == expected_lines(folder, order, len(lines))
    pixels = {f"t{i:06d}:{md5(image.tobytes()).hexdigest()[:8]}" for i, image in enumerate(written)}
    assert {entry for _, *entries in lines for entry in entries} == pixels
    read = [key for batch in keys for key in batch]
    assert all(len(set(read[epoch : epoch + 50])) == 50 for epoch in range(0, len(read) - 49, 50))
