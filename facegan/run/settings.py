"""What a run is, apart from its recipe: where things are, how often what happens, how the machine is used."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar, cast

Value = TypeVar("Value")


def _setting(value: Value, help: str, *, fixed: bool = False) -> Value:
    made: Any = dataclasses.field(default=value, metadata={"help": help, "fixed": fixed})
    return cast(Value, made)


def _fixed(value: Value, help: str) -> Value:
    """A setting that decides what is computed: a resume with another value is refused."""
    return _setting(value, help, fixed=True)


@dataclass(frozen=True)
class RunSettings:
    """The settings every recipe shares; each is a flag of `facegan train`."""

    data: str = _setting("", "set of shards: OUT or OUT/64 of facegan preprocess")
    mix: str = _setting("", "other sets to mix in, each with its share of the images: data/ffhq=1/4,data/own=0.1")
    run_dir: str = _setting("", "folder of the run; the same command again continues it")
    seed: int = _fixed(0, "everything random is a function of the seed and the images seen")
    split: str = _fixed("train", "split of the set to train on")
    where: str = _fixed("", "only samples with these attributes, like Smiling=1,Male=0 (metrics still see all)")
    hold_out: int = _fixed(
        0,
        "pictures of the split kept out of training, to measure by; 0: --eval-n of a set without val, else none",
    )
    init_from: str = _fixed("", "snapshot, or run folder, whose networks this run begins with (fine-tuning)")

    log_kimg: float = _setting(1.0, "thousands of images between lines of stats.jsonl")
    sample_kimg: float = _setting(20.0, "thousands of images between sample grids; 0 for first and last only")
    samples: int = _setting(64, "images in a sample grid")
    snapshot_kimg: float = _setting(100.0, "thousands of images between snapshots; 0 for the last only")
    eval_kimg: float = _setting(0.0, "thousands of images between metrics; 0 is off")
    eval_metrics: str = _setting("swd,msssim", "metrics measured then, and inception where its file is given")
    eval_n: int = _setting(1024, "pictures a side measured then, of the split val, else of those held out")
    inception: str = _setting("", "local file inception-2015-12-05.pt, whose SHA-256 facegan evaluate confirmed")
    best_metric: str = _setting("", "number that names the best checkpoint, such as kid1k_full; the first if empty")
    checkpoint_minutes: float = _setting(10.0, "minutes between checkpoints; 0 leaves it to --checkpoint-kimg")
    checkpoint_kimg: float = _setting(0.0, "thousands of images between checkpoints; 0 leaves it to the minutes")
    keep_checkpoints: int = _setting(2, "newest checkpoints kept, besides milestones and the best by metric")
    milestone_kimg: float = _setting(0.0, "thousands of images between checkpoints kept for good; 0 is none")

    device: str = _setting("auto", "auto, cpu or cuda")
    precision: str = _fixed("auto", "auto, fp32, tf32 or bf16")
    cuda_graphs: str = _setting("auto", "the whole step as CUDA graphs: on, off, or auto (on with one GPU)")
    threads: int = _fixed(0, "CPU threads a rank; 0 shares the cores among the node's ranks")
    batch_per_rank: int = _setting(0, "largest batch a rank computes at once (gradients add up); 0 is all of it")
    sync_bn: bool = _fixed(False, "BatchNorm statistics over all ranks (CUDA only)")

    cache: str = _setting("none", "device keeps the whole set in the accelerator's memory; none reads the shards")
    stage: str = _setting(
        "", "node-local folder to copy shards to; $SLURM_TMPDIR is used by itself for remote sets"
    )
    stage_gb: float = _setting(0.0, "most gigabytes to stage at a time; 0 is all of the set")
    streams: int = _fixed(
        0, "read the set in so many streams of shards, a divisor of the batch; 0 leaves it to the set and its stage"
    )
    verify: bool = _setting(False, "check every shard's SHA-256 before starting")

    wandb: str = _setting("auto", "auto, online, offline or off")
    wandb_project: str = _setting("", "W&B project; $WANDB_PROJECT if empty, else facegan")
    wandb_group: str = _setting("", "W&B group of runs")


# Recipe fields that a resumed run may change: they say how far to go, not how.
LENGTH_FIELDS = frozenset({"kimg", "epochs"})

# Settings that a resumed run has to share with its checkpoint.
FIXED_SETTINGS = tuple(field.name for field in dataclasses.fields(RunSettings) if field.metadata["fixed"])


def current(stored: dict[str, Any]) -> dict[str, Any]:
    """The settings in a config.json of any age, under today's names."""
    settings = dict(stored)
    if "compile" in settings:  # until CUDA graphs had a flag of their own name
        graphs = {"graph": "on"}
        settings["cuda_graphs"] = graphs.get(mode := settings.pop("compile"), mode)
    return settings
