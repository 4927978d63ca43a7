"""What is checked before a job is handed to Slurm: an error now instead of one after hours in the queue."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from facegan.errors import UsageError
from jobs.slurm import calls, preemption, request
from jobs.slurm.request import Call
from jobs.values import parse_mix

TRAINING = {"train_64": "dcgan-64", "train_128": "dcgan-128"}
FREE_FOR_RUN = 2 << 30  # two checkpoints of the largest recipe, snapshots and grids
IN_ARGUMENTS = ("FACEGAN_RECIPE", "FACEGAN_DATA", "FACEGAN_RUN_DIR", "FACEGAN_PYTHON")  # what `complete` hands on


def check(name: str, call: Call, *, makes_data: bool = False) -> list[str]:
    """Everything that can be known before submission; raises UsageError or SlurmError, returns what to say.

    With `makes_data` the set of a training need not be there yet.
    """
    check_log_folder(call)
    check_environment(call)
    notes = []
    if name in TRAINING:
        if not makes_data:
            check_data(name, call)
        notes.append(check_training(name, call))
    if name == "preprocess":
        check_preprocess(call)
    check_request(call)
    with suppress(calls.SlurmError):  # who may not ask is not told
        notes.append(preemption.of_partition(call.value("partition").split(",")[0]))
    if hidden := calls.secrets():
        notes.append(f"{', '.join(hidden)} stays here: Slurm keeps a job's environment in files (docs/cluster.md)")
    return [line for line in notes if line]


def complete(name: str, call: Call) -> tuple[str, ...]:
    """The arguments with what the environment asks for written out: sites let jobs start without it."""
    words = call.arguments
    if name == "evaluate" and (not words or words[0].startswith("-")):
        return (call.variable("FACEGAN_RUN_DIR") or "runs/dcgan-128", *words)
    if name not in TRAINING:
        return words
    recipe = recipe_name(name, call)
    rest = words[1:] if words[:1] == (recipe,) else words
    usual = {"--data": "data/shards", "--run-dir": f"runs/{recipe}"}
    named = [
        w for flag, value in usual.items() if not _given(call, flag) for w in (flag, setting(call, flag, value))
    ]
    return (recipe, *named, *rest)


def check_log_folder(call: Call) -> None:
    """A missing folder would fail the job without a log."""
    folder = (Path.cwd() / call.value("chdir") / call.value("output")).parent
    if "%" not in str(folder) and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise UsageError(
            f"the log folder {folder} does not exist or cannot be written; mkdir -p it, or change --output"
        )


def check_environment(call: Call) -> None:
    """Nothing that was asked for by a variable gets lost where jobs inherit none."""
    lost = [name for name in os.environ if name.startswith("FACEGAN_") and name not in IN_ARGUMENTS]
    if call.is_bare and lost:
        raise UsageError(
            f"{', '.join(sorted(lost))} would be lost: jobs get no environment here (--export=NONE). "
            "Write it into the second part of slurm/site.sh, or give it as an option behind --"
        )


def check_request(call: Call) -> None:
    """Whether the request could ever run: `sbatch --test-only` says it, sinfo explains a refusal."""
    try:
        calls.test_only(call)
    except calls.SlurmError as error:
        raise UsageError(f"{error}{explain(call)}") from error


def explain(call: Call) -> str:
    """What sinfo has beside what is asked for; '' where that tells nothing."""
    unusual = [request.OPTIONS[name].long for name in ("gpus", "gpus_per_task") if call.value(name)]
    hint = (
        f"\n{unusual[0]}: the files of slurm/ ask by node; --nodes=N --gpus-per-node=M is the same"
        if unusual
        else ""
    )
    if call.value("mem"):
        hint += "\n--mem: the files of slurm/ ask for memory by core; --mem-per-cpu=4G in its place"
    partitions: list[dict[str, str]] = []
    with suppress(calls.SlurmError):
        partitions = calls.partitions()
    wanted = call.value("partition")
    rows = [row for row in partitions if row["partition"].rstrip("*") in wanted.split(",")]
    if wanted and partitions and not rows:
        names = ", ".join(sorted({row["partition"] for row in partitions}))
        return f"{hint}\npartition {wanted!r} does not exist; sinfo has: {names}"
    rows = rows or [row for row in partitions if row["partition"].endswith("*")] or partitions
    nodes, gpus = max(_number(call.value("nodes")), 1), gpus_per_node(call)
    fitting = [row for row in rows if gpus <= _gpus(row["gres"])]
    if rows and nodes > max((_total(fitting, row["partition"]) for row in fitting), default=0):
        table = "\n".join(f"  {r['partition']}: {r['nodes']} nodes, {r['cpus']} CPUs, {r['gres']}" for r in rows)
        return f"{hint}\n{nodes} nodes with {gpus} GPUs each are asked for, but sinfo has:\n{table}"
    return hint


def check_data(name: str, call: Call) -> None:
    """There is a set to train on, and each that is to be mixed in."""
    for data in (setting(call, "--data", "data/shards"), *parse_mix(setting(call, "--mix", ""))):
        if "://" not in data and not [*Path(data).glob("index.json"), *Path(data).glob("*/index.json")]:
            raise UsageError(
                f"no set of shards in {data}; make it first: facegan submit preprocess -- img_align_celeba.zip "
                f"{data} --recipe {recipe_name(name, call)}"
            )


def check_training(name: str, call: Call) -> str:
    """The recipe and its options are there, its batch fits the ranks, the run folder's disk has room.

    Returns a rank's batch.
    """
    check_space(Path(run_dir(name, call)), FREE_FOR_RUN)
    words = list(complete(name, call))
    if batch_size := setting(call, "--batch-size", ""):
        words += ["--batch-size", batch_size]
    return batch_of_a_rank(words, ranks_of(call))


def batch_of_a_rank(arguments: list[str], ranks: int) -> str:
    """How many images each rank of `facegan train ARGUMENTS` gets; raises UsageError where they are too few."""
    from facegan.recipes import recipe_classes
    from facegan.recipes.checks import check_batch_per_rank
    from jobs import train, values

    recipe_class = recipe_classes().get(arguments[0])
    if recipe_class is None:
        raise UsageError(f"recipe {arguments[0]!r} does not exist; expected one of: {', '.join(recipe_classes())}")
    context = train.RecipeCommand(recipe_class).make_context(f"facegan train {arguments[0]}", list(arguments[1:]))
    recipe, settings = values.build(recipe_class, train.resolve(recipe_class, context))
    begun = has_checkpoints(Path(settings.run_dir))
    return check_batch_per_rank(recipe, ranks, sync_bn=settings.sync_bn, begun=begun)


def has_checkpoints(run: Path) -> bool:
    """Whether a run has saved before; looked at without torch, which a login node would import for seconds."""
    return any((run / "checkpoints").glob("nimg-*"))


def check_preprocess(call: Call) -> None:
    """The pictures are there and the shards have room (as many as a zip states; a folder is not walked here).

    Of an address nothing is asked here: a login node may have other credentials, and another way out.
    """
    from shards.make.zipfiles import count_entries
    from shards.read.remote import is_remote

    if len(call.arguments) < 2 or call.arguments[0].startswith("-") or call.arguments[1].startswith("-"):
        raise UsageError("preprocess needs SRC OUT as the first arguments behind --")
    source, out = map(Path, call.arguments[:2])
    if is_remote(call.arguments[1]):
        if not (scratch := setting(call, "--scratch", "")):
            raise UsageError(
                f"{call.arguments[1]}: the elements of the array need --scratch DIR, a folder that all of them see"
            )
        out = Path(scratch)
    if not is_remote(call.arguments[0]) and not source.exists():
        raise UsageError(f"{source} does not exist; facegan download celeba {source.parent} fetches CelebA")
    sizes = [int(size) for size in re.findall(r"--size[ =](\d+)", " ".join(call.arguments))] or [64]
    entries = count_entries(source)  # one record at its end: a directory of 10^7 is not read on a login node
    check_space(out, entries * sum(3 * size * size + 6 * size + 1024 for size in sizes) or FREE_FOR_RUN)


def check_space(folder: Path, needed: int) -> None:
    """Raises UsageError where the disk below `folder` has less than `needed` bytes."""
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UsageError(
            f"{existing} has {free / 2**30:.1f} GiB free, {folder} needs about {needed / 2**30:.1f} GiB"
        )


def recipe_name(name: str, call: Call) -> str:
    """The recipe a training file will take: its first argument, else FACEGAN_RECIPE, else its own."""
    if call.arguments and not call.arguments[0].startswith("-"):
        return call.arguments[0]
    return call.variable("FACEGAN_RECIPE") or TRAINING[name]


def run_dir(name: str, call: Call) -> str:
    """The run folder of a job, as its file will name it; '' where it has none."""
    if name in TRAINING:
        return setting(call, "--run-dir", f"runs/{recipe_name(name, call)}")
    return complete(name, call)[0] if name == "evaluate" else ""


def setting(call: Call, flag: str, default: str) -> str:
    """A job's option as its file and the command will take it: argument, environment, default."""
    return _given(call, flag) or call.variable("FACEGAN_" + flag.lstrip("-").replace("-", "_").upper()) or default


def ranks_of(call: Call) -> int:
    """How many ranks the job will have."""
    a_node = _number(call.variable("FACEGAN_RANKS_PER_NODE")) or max(gpus_per_node(call), 1)
    return max(_number(call.value("nodes")), 1) * a_node


def gpus_per_node(call: Call) -> int:
    """GPUs asked for on each node, by --gres or --gpus-per-node: Slurm takes the larger."""
    return max(_gpus(call.value("gres")), _number(call.value("gpus_per_node").rpartition(":")[2]))


def _given(call: Call, flag: str) -> str:
    return request.last(call.arguments, request.Option(flag)) or ""


def _gpus(gres: str) -> int:
    """GPUs in `gpu:4`, `gpu:a100:4(S:0-1),tmp:1`, ...: the sum over all kinds."""
    kinds = [entry.split(":") for entry in re.sub(r"\([^)]*\)", "", gres).split(",") if entry.startswith("gpu")]
    return sum(_number(kind[-1]) if kind[1:] else 1 for kind in kinds)


def _number(text: str) -> int:
    """The first number of `4`, `2-4` or ''."""
    number = re.match(r"\d+", text)
    return int(number[0]) if number else 0


def _total(rows: list[dict[str, str]], partition: str) -> int:
    return sum(int(row["nodes"]) for row in rows if row["partition"] == partition)
