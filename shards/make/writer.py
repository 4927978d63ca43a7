"""A set of shards from a source of pictures, written in one go or in slices."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facegan.files import remove_stale_of
from shards.errors import ShardError
from shards.format.index import NAME, ShardIndex
from shards.make.claims import claimed, forget, is_alone
from shards.make.closing import clean_closed, close_folder, close_set, remove_made_once, whole_index
from shards.make.groups import finish_groups, forget_shards
from shards.make.parts import FOLDER as PARTS
from shards.make.plan import Options, Plan, asked, read_plan
from shards.make.pool import run_all, start_server
from shards.make.survey import Survey, stamp, survey

__all__ = ["Options", "Outcome", "close_set", "preprocess"]

Progress = Callable[[int, int, int], None]  # pictures read and rejected since the last call; pictures in all


@dataclass(frozen=True)
class Outcome:
    """What a run of preprocess found and did: the sets' indices where they are whole."""

    indices: dict[Path, ShardIndex]
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def preprocess(options: Options, progress: Progress = lambda read, rejected, total: None) -> Outcome:
    """Turn a source of pictures into one set of shards a size: OUT/64, OUT/128, ...

    Finished shards of an earlier run are kept, so the same call again continues; the bytes written depend on
    the source and the options alone, not on workers, slices or interruptions. One slice of one closes the sets.
    Raises ShardError where the source or OUT cannot be used, where OUT was begun with other options (naming
    them), or where more pictures were rejected than `max_rejects`; FaceganError where another process is at work
    on the same slice; DiskFullError where there is no room.
    """
    folders = [options.folder(size) for size in options.sizes]
    done = {folder: index for folder in folders if (index := whole_index(folder, options.slice)) is not None}
    if len(done) == len(folders) and all(is_unchanged(read_plan(folder), options) for folder in folders):
        clean_closed(options.out)
        return Outcome(done)
    if len(done) < len(folders):
        start_server()  # it imports torch while the source is listed
    with claimed(options.out, options.slice), survey(options) as source:
        plans = {options.folder(size): source.plan(size) for size in options.sizes}
        for folder, plan in plans.items():
            _agree(folder, plan, is_alone(options.out, options.slice))
        todo = {folder: plan for folder, plan in plans.items() if whole_index(folder, options.slice) is None}
        if todo:
            _write(source, todo, progress)
        outcome = _outcome(options, source, plans)
    if options.slice[1] == 1:
        forget(options.out)
    elif len(outcome.indices) == len(folders):
        clean_closed(options.out)
    return outcome


def _write(source: Survey, plans: dict[Path, Plan], progress: Progress) -> None:
    todo = source.todo(plans)
    total = sum(each.stop - each.start for each in todo)
    progress(0, 0, total)
    for folder, plan in plans.items():
        names = {each.shard for each in todo if folder in each.folders}
        forget_shards(folder, plan, source.options.slice, names)
        remove_stale_of(folder, names)
        endings = (".jsonl", ".members")
        remove_stale_of(folder / PARTS, {Path(name).with_suffix(end).name for name in names for end in endings})
    tasks = source.tasks(todo, plans)
    run_all(tasks, source.options.workers, lambda read, rejected: progress(read, rejected, total))
    for folder, plan in plans.items():
        finish_groups(folder, plan, source.options.slice)


def _outcome(options: Options, source: Survey, plans: dict[Path, Plan]) -> Outcome:
    """Close the sets; a slice of several leaves that to close_set, as others may be at work."""
    if options.slice[1] == 1:
        indices = {folder: close_folder(folder) for folder in plans}
        remove_made_once(options.out)
    else:
        indices = {folder: index for folder in plans if (index := whole_index(folder, options.slice)) is not None}
    return Outcome(indices, source.catalogue.notes, source.catalogue.left_out)


def is_unchanged(plan: Plan | None, options: Options) -> bool:
    """Whether a closed set was made with these very options from this very archive, so that nothing is to do."""
    if (
        plan is None
        or plan.source["stamp"] is None
        or options.shard_bytes is not None
        or (isinstance(options.source, Path) and not options.source.exists())
    ):
        return False
    same = {name: plan.fixed.get(name) for name in asked(options, plan.source["kind"])}
    return same == asked(options, plan.source["kind"]) and plan.source["stamp"] == stamp(options)


def _agree(folder: Path, plan: Plan, alone: bool) -> None:
    """Keep `plan` in the set's folder; refuse where the set was begun with another that came to any sample."""
    begun = read_plan(folder)
    if begun is not None and begun.fixed != plan.fixed and alone and not any(folder.glob("*.tar")):
        shutil.rmtree(folder / PARTS, ignore_errors=True)  # rejects only, such as pictures smaller than the crop
        begun = None
    if begun is None:
        others = sorted(file.name for file in folder.glob("*.tar")) + [NAME] * (folder / NAME).exists()
        if others:
            raise ShardError(f"{folder}: holds {others[0]}, not made by preprocess here: choose another OUT")
    elif begun.fixed != plan.fixed:
        differences = "; ".join(
            f"{name}: {_short(begun.fixed.get(name))} there, {_short(value)} asked for"
            for name, value in plan.fixed.items()
            if begun.fixed.get(name) != value
        )
        raise ShardError(
            f"{folder}: was begun with other options or another source ({differences}). "
            f"Give the same, or choose another OUT, or remove that folder: rm -r {folder}"
        )
    if begun != plan:
        plan.write(folder)


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
