"""What is checked before a job is handed to Slurm: an error now instead of one after hours in the queue."""

import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from facegan.errors import UsageError
from jobs.slurm import calls
from jobs.slurm.calls import Call

TRAINING = {"train_64": "dcgan-64", "train_128": "dcgan-128"}
FREE_FOR_RUN = 2 << 30  # two checkpoints of the largest recipe, snapshots and grids
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")


def check(name: str, call: Call) -> list[str]:
    """Everything that can be known before submission; raises UsageError or SlurmError, returns warnings."""
    check_log_folder(call)
    if name in TRAINING:
        check_data(name, call)
        check_training(name, call)
    if name == "preprocess":
        check_preprocess(call)
    check_request(call)
    calls.test_only(call)
    hidden = calls.secrets()
    return (
        [f"{', '.join(hidden)} stays here: Slurm keeps a job's environment in files (docs/cluster.md)"]
        if hidden
        else []
    )


def check_log_folder(call: Call) -> None:
    """A missing folder would fail the job without a log."""
    folder = (Path.cwd() / call.value("chdir") / call.value("output")).parent
    if "%" not in str(folder) and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(
            f"the log folder {folder} does not exist or cannot be written; mkdir -p it, or change --output"
        )


def check_request(call: Call) -> None:
    """The request against what sinfo says the partition has."""
    partitions = calls.partitions()
    wanted = call.value("partition")
    named = [row for row in partitions if row["partition"].rstrip("*") in wanted.split(",")]
    rows = named if wanted else [row for row in partitions if row["partition"].endswith("*")]
    if wanted and not rows:
        names = ", ".join(sorted({row["partition"] for row in partitions}))
        raise UsageError(f"partition {wanted!r} does not exist; sinfo has: {names}")
    nodes = _number(call.value("nodes")) or 1
    gpus = gpus_per_node(call)
    fitting = [row for row in rows if gpus <= _gpus(row["gres"])]
    if nodes > max((_total(fitting, row["partition"]) for row in fitting), default=0):
        table = "\n".join(f"  {r['partition']}: {r['nodes']} nodes, {r['cpus']} CPUs, {r['gres']}" for r in rows)
        raise UsageError(f"{nodes} nodes with {gpus} GPUs each are asked for, but sinfo has:\n{table}")


def check_data(name: str, call: Call) -> None:
    """There is a set to train on."""
    data = setting(call, "--data", "data/shards")
    if "://" not in data and not [*Path(data).glob("index.json"), *Path(data).glob("*/index.json")]:
        raise UsageError(
            f"no set of shards in {data}; make it first: facegan submit preprocess -- img_align_celeba.zip {data}"
            f" --recipe {recipe_name(name, call.arguments)}"
        )


def check_training(name: str, call: Call) -> None:
    """The recipe exists, the batch divides over the ranks, the run folder's disk has room."""
    from facegan import recipes

    recipe = recipes.load(recipe_name(name, call.arguments))
    batch = int(setting(call, "--batch-size", str(recipe.batch_size)))
    a_node = _number(os.environ.get("FACEGAN_RANKS_PER_NODE", "")) or max(gpus_per_node(call), 1)
    ranks = (_number(call.value("nodes")) or 1) * a_node
    if batch % ranks:
        raise UsageError(
            f"a batch of {batch} does not divide over {ranks} ranks; give --batch-size {-(-batch // ranks) * ranks}"
            " behind --, or other --nodes or --gpus-per-node"
        )
    check_space(Path(run_dir(name, call)), FREE_FOR_RUN)


def check_preprocess(call: Call) -> None:
    """The pictures are there and the shards have room (counted for a zip; a folder is not walked here)."""
    if len(call.arguments) < 2 or call.arguments[0].startswith("-") or call.arguments[1].startswith("-"):
        raise UsageError("preprocess needs SRC OUT as the first arguments behind --")
    source, out = map(Path, call.arguments[:2])
    if not source.exists():
        raise UsageError(f"{source} does not exist; facegan download celeba {source.parent} fetches CelebA")
    sizes = [int(size) for size in re.findall(r"--size[ =](\d+)", " ".join(call.arguments))] or [64]
    needed = FREE_FOR_RUN
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            pictures = sum(entry.lower().endswith(IMAGE_EXTENSIONS) for entry in archive.namelist())
        needed = pictures * sum(3 * size * size + 6 * size + 1024 for size in sizes)
    check_space(out, needed)


def check_space(folder: Path, needed: int) -> None:
    """Raises UsageError where the disk below `folder` has less than `needed` bytes."""
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UsageError(
            f"{existing} has {free / 2**30:.1f} GiB free, {folder} needs about {needed / 2**30:.1f} GiB"
        )


def recipe_name(name: str, arguments: Sequence[str]) -> str:
    """The recipe a training file will take: its first argument, else FACEGAN_RECIPE, else its own."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0]
    return os.environ.get("FACEGAN_RECIPE") or TRAINING[name]


def run_dir(name: str, call: Call) -> str:
    """The run folder of a job, as its file will name it; '' where it has none."""
    if name in TRAINING:
        return setting(call, "--run-dir", f"runs/{recipe_name(name, call.arguments)}")
    if name == "evaluate":
        given = call.arguments[0] if call.arguments and not call.arguments[0].startswith("-") else ""
        return given or os.environ.get("FACEGAN_RUN_DIR") or f"runs/{os.environ.get('FACEGAN_RECIPE', 'dcgan-128')}"
    return ""


def setting(call: Call, flag: str, default: str) -> str:
    """A job's option as its file and the command will take it: argument, environment, default."""
    variable = "FACEGAN_" + flag.lstrip("-").replace("-", "_").upper()
    given = calls.last(call.arguments, calls.Option(flag))
    return given or os.environ.get(variable) or default


def gpus_per_node(call: Call) -> int:
    """GPUs asked for on each node, by --gpus-per-node or --gres."""
    return _number(call.value("gpus_per_node").rpartition(":")[2]) or _gpus(call.value("gres"))


def _gpus(gres: str) -> int:
    """GPUs in `gpu:4`, `gpu:a100:4(S:0-1),tmp:1`, ...: the sum over all kinds."""
    kinds = [entry.split(":") for entry in re.sub(r"\([^)]*\)", "", gres).split(",") if entry.startswith("gpu")]
    return sum(_number(kind[-1]) if kind[1:] else 1 for kind in kinds)


def _number(text: str) -> int:
    """The first number of `4`, `2-4` or ''."""
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def _total(rows: list[dict[str, str]], partition: str) -> int:
    return sum(int(row["nodes"]) for row in rows if row["partition"] == partition)
