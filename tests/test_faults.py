"""Every file operation of a command fails, one after the other: no hang, no traceback, nothing half, nothing lost.

A fixed sample by default; `pytest tests/test_faults.py --faults all` takes every operation.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest
from faults import FULL, WRITING, Fault, Result, Server
from PIL import Image
from safetensors.torch import load
from shard_sets import make_set, pictures

from facegan.files import json_lines
from shards.format.index import load_index

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]  # all operations take hours
FAULTS = ("ENOSPC", "SIGKILL", "EIO", "EDQUOT", "EACCES", "ESTALE")
SAMPLE = 12  # operations of each program
SERVERS = 3
TRAIN = [
    "train",
    "mlp-64",
    "--resolution",
    "8",
    "--batch-size",
    "6",
    "--data",
    "set",
    "--run-dir",
    "run",
    "--kimg",
    "0.036",
]
TRAIN += ["--threads", "1", "--wandb", "off", "--device", "cpu", "--samples", "4", "--log-kimg", "0.006"]
TRAIN += ["--sample-kimg", "0.018", "--snapshot-kimg", "0.018", "--checkpoint-kimg", "0.012"]
PREPROCESS = [
    "preprocess",
    "pictures",
    "made",
    "--size",
    "8",
    "--crop",
    "none",
    "--shard-size",
    "4",
    "--workers",
    "1",
]


@dataclass(frozen=True)
class Program:
    """A command, what has to be there before it, and on how many ranks it runs."""

    arguments: list[str]
    before: tuple[str, ...] = ()
    world: int = 1


PROGRAMS = {
    "train": Program([*TRAIN, "--stage", "stage"]),
    "train on two ranks": Program(TRAIN, world=2),
    "preprocess a slice": Program([*PREPROCESS, "--slice", "0/2"]),
    "close a set": Program(["shards", "index", "made"], ("slices",)),
    "sample": Program(["sample", "run", "--n", "4", "--out", "samples.png"], ("run",)),
    "report": Program(["report", "run", "--out", "page.html"], ("run",)),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[SimpleQueue[Server]]:
    """Those that are free: a command on two ranks waits more than it computes, so several run at once."""
    free, running = SimpleQueue[Server](), [Server() for _ in range(SERVERS)]
    for server in running:
        free.put(server)
    yield free
    for server in running:
        server.close()


@pytest.fixture(scope="module")
def template(servers: SimpleQueue[Server], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the programs work on: a set, pictures, both slices of a set not closed yet, a finished run."""
    with one(servers) as server:
        return filled(tmp_path_factory.mktemp("faults") / "template", server)


@contextmanager
def one(servers: SimpleQueue[Server]) -> Iterator[Server]:
    """A free server, given back afterwards."""
    server = servers.get()
    try:
        yield server
    finally:
        servers.put(server)


def filled(folder: Path, server: Server) -> Path:
    make_set(folder / "set", {"train": [12, 12], "val": [4]})
    (folder / "pictures").mkdir()
    for number, image in enumerate(pictures(12, 16, 16)):
        Image.fromarray(image).save(folder / "pictures" / f"{number:03}.png")
    for part in ("0/2", "1/2"):
        expect_well(server.run([*PREPROCESS, "--slice", part], folder))
    expect_well(server.run(TRAIN, folder))
    return folder


def expect_well(result: Result) -> None:
    assert set(result.codes) == {0}, result.said


def fresh(template: Path, program: Program, name: str) -> Path:
    """A folder of this name as the program finds it at first."""
    folder = template.with_name(name)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    for path, word in (("made", "slices"), ("run", "run")):
        if word not in program.before:
            shutil.rmtree(folder / path)
    return folder


@pytest.mark.parametrize("name", PROGRAMS)
def test_whatever_operation_fails_nothing_is_lost_and_the_same_command_ends_the_same(
    name: str, servers: SimpleQueue[Server], template: Path, request: pytest.FixtureRequest
) -> None:
    program = PROGRAMS[name]
    whole = fresh(template, program, "whole")
    with one(servers) as server:
        clean = [server.run(program.arguments, whole, Fault(0, "", 0), program.world)]
        expected = content(whole)
        for rank in range(1, program.world):
            again = fresh(template, program, "whole")
            clean.append(server.run(program.arguments, again, Fault(0, "", rank), program.world))
    for result in clean:
        expect_well(result)
    cases = faults(clean, every=request.config.getoption("--faults") == "all")

    def wrong(fault: Fault) -> str:
        folder = fresh(template, program, f"{fault.k}-{fault.what}-{fault.rank}")
        with one(servers) as server:
            said = broken(server, folder, program, fault, expected)
        shutil.rmtree(folder)
        return said

    with ThreadPoolExecutor(SERVERS) as threads:
        lines = [f"{fault}: {line}" for fault, line in zip(cases, threads.map(wrong, cases), strict=True) if line]
    counts = " and ".join(str(len(result.operations)) for result in clean)
    print(f"{name}: {counts} operations, {len(cases)} runs, {len(lines)} wrong")
    assert not lines, "\n".join(lines)


def faults(clean: list[Result], every: bool) -> list[Fault]:
    """Of the operations of each rank all with all faults, or a fixed sample, at even distances, faults in turns."""
    counts = {(what, rank): reached(what, result) for rank, result in enumerate(clean) for what in FAULTS}
    if every:
        return [Fault(k, what, rank) for (what, rank), count in counts.items() for k in range(1, count + 1)]
    turns = [(FAULTS[i % len(FAULTS)], i // len(FAULTS) % len(clean)) for i in range(SAMPLE)]
    return [Fault(1 + (2 * i + 1) * counts[turn] // (2 * SAMPLE), *turn) for i, turn in enumerate(turns)]


def reached(what: str, clean: Result) -> int:
    """How many operations of a rank such a fault can meet: a full disk only those that write."""
    return sum(line.startswith(WRITING) for line in clean.operations) if what in FULL else len(clean.operations)


def broken(server: Server, folder: Path, program: Program, fault: Fault, expected: dict[str, str]) -> str:
    """What is wrong after the fault, and after the same command without it; empty if nothing."""
    first = server.run(program.arguments, folder, fault, program.world)
    where = f"at {first.operations[fault.k - 1]!r}" if fault.k <= len(first.operations) else "not reached"
    if first.hung:
        return f"{where}: hung; {first.said[-2000:]}"
    if "Traceback" in first.said:
        return f"{where}: {first.said[-2000:]}"
    if half := half_written(folder):
        return f"{where}: half written: {half}"
    again = server.run(program.arguments, folder, world=program.world)
    if set(again.codes) != {0}:
        return f"{where}: the same command again ended with {again.codes}: {again.said[-2000:]}"
    found = content(folder)
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    return f"{where}: different from the undisturbed: {sorted(different)}" if different else ""


def content(folder: Path) -> dict[str, str]:
    """What must be the same however often it was disturbed: weights, stats but the clock's, shards, pictures."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix in (".tar", ".png", ".safetensors") or path.name == "index.json":
            if not hidden(path, folder) and "stage/" not in name:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "stats.jsonl":
            rows = [
                {k: v for k, v in row.items() if not k.startswith(("speed/", "time/"))} for row in json_lines(path)
            ]
            found[name] = json.dumps(rows)
        elif path.name == "outcome.json":
            found[name] = json.loads(path.read_text())["state"]
    return found


def hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def half_written(folder: Path) -> str:
    """A file under a final name that is not whole; empty where there is none."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path, folder)):
        try:
            _open(path)
        except (ValueError, OSError, KeyError, AssertionError) as error:
            return f"{path.relative_to(folder)}: {error!r}"
    return ""


def _open(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        list(json_lines(path))
    elif path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".safetensors":
        load(path.read_bytes())
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    elif path.suffix == ".tar" and (path.parent / "index.json").exists():
        (shard,) = (s for s in load_index(path.parent).shards if s.name == path.name)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
