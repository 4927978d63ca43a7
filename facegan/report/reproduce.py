"""The commands that make a run again and look at it."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from facegan import recipes
from facegan.report.run import Row, Run
from facegan.run.settings import RunSettings


def reproduce(run: Run) -> list[str]:
    """The commands that make this run again and look at it, ready to paste into a shell."""
    data, settings = run.config.get("data") or {}, run.config["settings"]
    source = (data.get("source") or {}).get("name", "SRC")
    shards = Path(str(settings.get("data") or "data/shards"))
    out = shards.parent if shards.name == run.config["values"].get("resolution") else shards
    train, home = ["facegan", "train", run.recipe], str(run.path)
    lines = [
        ["facegan", "preprocess", str(source), str(out), "--recipe", run.recipe],
        [*train, "--config", str(run.path / "config.json"), "--run-dir", "NEW"],
        [*train, "--data", str(shards), "--run-dir", "NEW", *_flags(run)],
        ["facegan", "sample", home],
        ["facegan", "evaluate", home, "--data", str(shards)],
    ]
    return [shlex.join(line) for line in lines]


def _flags(run: Run) -> list[str]:
    """What the run has otherwise than its recipe and the program, as options of `facegan train`."""
    defaults: Row = {field.name: field.default for field in dataclasses.fields(RunSettings)}
    flags = set(defaults) | {"batch_size", "kimg", "epochs"}
    if recipe := recipes.recipe_classes().get(run.recipe):
        defaults |= recipes.to_values(recipe())
        flags |= set(recipe.options())
    placed = ("data", "run_dir", "precision", "cuda_graphs", "threads")  # given above, or resolved by the machine
    given = {**run.config["values"], **run.config["settings"]}
    changed = {k: v for k, v in given.items() if k not in placed and k in defaults and v != defaults[k]}
    return [part for name, value in changed.items() for part in _flag(name, value, name in flags)]


def _flag(name: str, value: Any, has_flag: bool) -> list[str]:
    if not has_flag:
        return ["--set", f"{name}={value}"]
    flag = name.replace("_", "-")
    return [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
